"""The champion as the study's store remembers it: what a report tells of it without any image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.answers import Answers, Gain, judged_by
from pipeline.champion import Champion, Refit
from pipeline.nets import Nets
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger

_NAME = "champion"


def remember_champion(ledger: Ledger, champion: Champion) -> None:
    """Keep which nets it has and what they say, as one, of each selection image."""
    refit = champion.refit
    record = {
        "winner": _to_json(champion.winner),
        "over_single": champion.over_single,
        "refit": None
        if refit is None
        else {"nets": _to_json(refit.nets), "num_epochs": refit.num_epochs, "gain": refit.gain},
        "notes": list(champion.notes),
    }
    ledger.keep(_NAME, record)


def recall_champion(ledger: Ledger, followups: Mapping[str, FollowUp]) -> Champion | None:
    """What was last kept; None where nothing was, or its trainings are not there.

    Args:
        followups: of the study, by kind.
    """
    record = ledger.study.user_attrs.get(f"regsearch.{_NAME}")
    if record is None:
        return None
    try:
        winner, refit = _nets(record["winner"], ledger, followups), record["refit"]
        found = refit and Refit(
            _nets(refit["nets"], ledger, followups), refit["num_epochs"], _gain(refit["gain"])
        )
    except KeyError:
        return None
    over_single = record["over_single"]
    return Champion(winner, over_single and _gain(over_single), found, tuple(record["notes"]))


def _to_json(nets: Nets) -> dict[str, Any]:
    return {
        "name": nets.name,
        "followup": None if nets.followup is None else nets.followup.kind,
        "trials": [trial.number for trial in nets.trials],
        "answers": None if nets.answers is None else nets.answers.to_json(),
    }


def _nets(record: Mapping[str, Any], ledger: Ledger, followups: Mapping[str, FollowUp]) -> Nets:
    followup = None if record["followup"] is None else followups[record["followup"]]
    trials = {trial.number: trial for trial in (followup or ledger).trials()}
    answers = record["answers"]
    return Nets(
        record["name"],
        tuple(trials[number] for number in record["trials"]),
        followup,
        None if answers is None else Answers.from_json(answers),
        judged_by(ledger.config.study.metric),
    )


def _gain(record: list[float]) -> Gain:
    value, half = record
    return value, half
