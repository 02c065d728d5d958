"""Who trained when, and who has read the test split."""

from __future__ import annotations

from pipeline.report.curves import sessions
from pipeline.report.evidence import Evidence
from pipeline.report.figures.timeline import timeline_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.words import show_metric

MAX_STRETCHES = 6


def timeline_section(evidence: Evidence) -> Section:
    """A bar an attempt."""
    spans = [one for of_kind in evidence.spans.values() for one in of_kind]
    if not spans:
        text = "Nothing has been trained: `regsearch run SPACE.yaml` begins."
        return Section("timeline", "Who trained when", missing=(text,))
    again = sum(one.state == "WAITING" for one in spans)
    lead = f"{len(spans)} attempts by {len({one.worker for one in spans})} workers"
    lead += f", of which {again} were given back and taken up again." if again else "."
    text = (
        "Each bar is an attempt at a trial, in UTC; the finalists' and other follow-ups are light "
        "blue."
    )
    stretches = sessions(evidence.spans)
    if len(stretches) > 1:
        lead += f" In {len(stretches)} stretches, with pauses between them"
        lead += f"; the last {MAX_STRETCHES} are shown." if len(stretches) > MAX_STRETCHES else "."
    pictures = [
        Picture(f"timeline-{index}", text, timeline_figure(stretch))
        for index, stretch in enumerate(stretches[-MAX_STRETCHES:])
    ]
    return Section(
        "timeline",
        "Who trained when",
        lead=(lead,),
        pictures=tuple(pictures),
        source="The study's journal; where it is not in this folder, the Optuna study.",
    )


def readings_section(evidence: Evidence) -> Section:
    """From the registered model's tags alone: a report never looks at the test split."""
    title, sources = "Readings of the test split", evidence.sources
    name = evidence.ledger.config.registry.model_name
    if sources.away:
        text = "MLflow could not be asked for them: `regsearch report` again once it answers."
        return Section("readings", title, missing=(text,))
    if not sources.versions:
        text = f"No model of this study is registered as {name}: `regsearch run SPACE.yaml` or "
        return Section(
            "readings", title, missing=(f"{text}`regsearch sync` registers its winner.",)
        )
    if not sources.readings:
        text = f"Nobody has read the test split: `regsearch evaluate models:/{name}@champion` does."
        return Section("readings", title, missing=(text,))
    rows = [
        Row(
            (
                f"{one.reading.when[:16].replace('T', ' ')} UTC",
                one.reading.who,
                one.version,
                one.aliases,
                "broken off"
                if one.reading.accuracy is None
                else show_metric("accuracy", one.reading.accuracy),
            )
        )
        for one in sources.readings
    ]
    columns = ("when", "who", "version", "alias", "test accuracy")
    return Section(
        "readings",
        title,
        lead=("A model that is chosen by its test score has no test score left.",),
        tables=(Table(f"Of the registered model {name}", columns, rows),),
        source=f"Tags regsearch.test_reading.* of the versions of {name} in MLflow.",
    )
