"""What is not known of the registered model, or was not asked for, and which command makes it."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.champion import Champion
from pipeline.registration import CHAMPION
from pipeline.report.evidence import Evidence
from pipeline.report.sections.head import capital

RUN = "`regsearch run SPACE.yaml`"


def is_current(evidence: Evidence, champion: Champion) -> bool:
    """Whether the champion that was registered last is of the study as it stands now."""
    verdict = evidence.verdict
    if verdict is None or verdict.winner.name != champion.winner.name:
        return False
    if champion.winner.followup is None:
        return not evidence.is_final
    there = {training.number for training in verdict.winner.trainings}
    return {training.number for training in champion.winner.trials} <= there


def champion_missing(evidence: Evidence, version: str) -> Iterator[str]:
    """A sentence each.

    Args:
        version: of the registered model that is the champion; empty where there is none.
    """
    champion, config = evidence.champion, evidence.ledger.config
    sync = f"`regsearch sync {config.study.name}`"
    if evidence.verdict is None:
        yield f"No trial may win yet: {RUN} registers the winner once the search is over."
    elif champion is None:
        yield (
            f"It is not on record what is registered of {evidence.verdict.winner.name}: {RUN} "
            f"says so at its end, or {sync} once nothing runs any more."
        )
    elif not is_current(evidence, champion):
        yield (
            f"What was registered last is of {champion.winner.name}, from before "
            f"{evidence.verdict.winner.name} won: {RUN} brings it up to date at its end."
        )
    else:
        yield from _not_trained(evidence, champion)
        if not version and not evidence.sources.away:
            name = config.registry.model_name
            there = f"`models:/{name}@{CHAMPION}` in MLflow is not this model"
            other = evidence.sources.other_champion
            if other:
                yield (
                    f"{there} but {other}, which has the same `registry.model_name`: {RUN[:-1]} "
                    "--set registry.model_name=NAME` registers it under a name of its own."
                )
            else:
                yield f"{there}: {sync} registers it."


def _not_trained(evidence: Evidence, champion: Champion) -> Iterator[str]:
    asked = evidence.ledger.config.finalists
    for note in champion.notes:
        yield f"{capital(note)}. {RUN} goes on."
    if not evidence.is_final or evidence.verdict is None:
        return
    count = len(evidence.verdict.winner.trainings)
    if asked.champion == "best" and count > 1:
        yield (
            "No ensemble was asked for: `regsearch run SPACE.yaml --set "
            f"finalists.champion=ensemble` registers the mean of the winner's {count} nets."
        )
    if not asked.refit:
        yield (
            "No refit was asked for: `regsearch run SPACE.yaml --set finalists.refit=true` trains "
            "the winner's settings on the validation images too, and registers that unless it is "
            "worse than chance allows."
        )
