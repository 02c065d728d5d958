"""What each regularizer of the winner is worth."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.ablation import Ablation
from pipeline.ablation_design import KIND
from pipeline.report.ablation import interaction_sentence, sentence
from pipeline.report.evidence import Evidence
from pipeline.report.figures.ablation import ablation_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.words import describe, gain_unit, short_name, show_gain

TITLE = "Ablation"
MAX_NOTES = 4


def ablation_section(evidence: Evidence) -> Section:
    """Sentences, tables and picture; or the command that makes them."""
    found, name = evidence.ablation, evidence.ledger.config.study.name
    if found is None:
        text = f"Not done: `regsearch ablate {name}` trains the winner without each regularizer."
        return Section("ablation", TITLE, missing=(text,))
    if not any(effect.within or effect.alone for effect in found.effects):
        text = f"None of its variants has all it takes yet: `regsearch ablate {name}` goes on."
        return Section("ablation", TITLE, missing=(text,))
    text = "What each regularizer is worth, with its 95 % interval; right of 0 it helps."
    return Section(
        name="ablation",
        title=TITLE,
        lead=(
            f"Of {found.reference}, in {gain_unit(found.judged)} on {found.num_images:,} "
            f"selection images; every variant was trained with the same {found.num_seeds} fresh "
            f"seeds. In {found.reference}: against itself without it. Alone: against no "
            "regularization. Interaction: what both are worth beyond the sum of each alone. "
            "Intervals are of 95 %, in pairs.",
        ),
        points=(
            *(f"{sentence(found, effect)}." for effect in found.effects),
            *(f"{interaction_sentence(found, each)}." for each in found.interactions),
        ),
        tables=tuple(_tables(found)),
        pictures=(Picture("ablation", text, ablation_figure(found)),),
        missing=_missing(found, name),
        source=f"MLflow run of the ablation: {evidence.sources.of_followup(KIND) or 'none'}; its "
        "children are the trainings, and its ablation.json has the same figures.",
    )


def _missing(found: Ablation, name: str) -> tuple[str, ...]:
    """Its notes, which tell of trainings that are not there."""
    if not found.notes:
        return ()
    more = len(found.notes) - MAX_NOTES
    shown = "; ".join(found.notes[:MAX_NOTES]) + (f"; and {more} more" if more > 0 else "")
    return (f"Not all of it is trained: {shown}. `regsearch ablate {name}` goes on.",)


def _tables(found: Ablation) -> Iterator[Table]:
    rows = [
        Row(
            (
                describe({effect.path: effect.value}),
                show_gain(found.judged, effect.within),
                show_gain(found.judged, effect.alone),
            )
        )
        for effect in found.effects
    ]
    if found.total is not None:
        rows.append(Row(("all of them", show_gain(found.judged, found.total), "-")))
    yield Table("Each regularizer", ("regularizer", f"in {found.reference}", "alone"), rows)
    if found.interactions:
        columns = ("pair", "both", "first alone", "second alone", "interaction")
        pairs = []
        for one in found.interactions:
            gains = (one.both, one.first_alone, one.second_alone, one.interaction)
            name = f"{short_name(one.first)} × {short_name(one.second)}"
            pairs.append(Row((name, *(show_gain(found.judged, gain) for gain in gains))))
        yield Table("In pairs, without any other", columns, pairs)
