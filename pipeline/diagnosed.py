"""The diagnosis of a finished trial, from what its study has on record."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from pipeline.diagnosis import Diagnosis, diagnose
from pipeline.study.followup import is_unregularized
from pipeline.study.ledger import Ledger
from pipeline.study.store import SCORED
from pipeline.study.trials import overrides_of


def diagnosis_of(ledger: Ledger, trial: FrozenTrial) -> Diagnosis | None:
    """None where its accuracies are not on record.

    Args:
        ledger: the study's, also of a trial of one of its follow-ups.
    """
    scores = trial.user_attrs.get(SCORED, {})
    if not {"train/clean_accuracy", "validation/accuracy"} <= scores.keys():
        return None
    train, validation = scores["train/clean_accuracy"], scores["validation/accuracy"]
    fits = train if is_unregularized(trial) else ledger.fits()
    settings = ledger.config.with_overrides(overrides_of(trial)).values()
    return diagnose(train, validation, fits, settings)


def diagnosis_tags(found: Diagnosis) -> dict[str, str]:
    """As tags of MLflow."""
    return {"regsearch.diagnosis": found.word, "regsearch.advice": found.advice}
