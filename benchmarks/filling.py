"""A study that has thousands of finished trials already, made at once."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert

from pipeline.study.ledger import Ledger
from pipeline.study.store import ATTEMPT, OWNER


def fill(ledger: Ledger, count: int, num_epochs: int) -> None:
    """Add so many complete trials with random parameters, straight into the store's tables.

    Optuna's `add_trials` writes value by value, which takes minutes for thousands of trials.
    """
    chance = random.Random(0)
    entries = ledger.config.search
    kinds = {path: distribution_to_json(e.distribution()) for path, e in entries.items()}
    first_number = len(ledger.trials())
    rows: dict[Any, list[dict[str, Any]]] = {
        model: []
        for model in (
            models.TrialModel,
            models.TrialParamModel,
            models.TrialValueModel,
            models.TrialIntermediateValueModel,
            models.TrialUserAttributeModel,
        )
    }
    began = datetime.now() - timedelta(days=1)
    for index in range(count):
        trial_id = 1_000 + index
        ended = began + timedelta(seconds=index)
        rows[models.TrialModel].append(
            {
                "trial_id": trial_id,
                "number": first_number + index,
                "study_id": ledger.id,
                "state": TrialState.COMPLETE,
                "datetime_start": ended,
                "datetime_complete": ended,
            }
        )
        sample: dict[str, Any] = {}
        for path, entry in entries.items():
            if not entry.is_active(sample):
                continue
            distribution = entry.distribution()
            internal = _drawn(distribution, chance)
            sample[path] = distribution.to_external_repr(internal)
            rows[models.TrialParamModel].append(
                {
                    "trial_id": trial_id,
                    "param_name": path,
                    "param_value": internal,
                    "distribution_json": kinds[path],
                }
            )
        value = chance.random()
        finite = models.TrialValueModel.TrialValueType.FINITE
        rows[models.TrialValueModel].append(
            {"trial_id": trial_id, "objective": 0, "value": value, "value_type": finite}
        )
        step_type = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
        rows[models.TrialIntermediateValueModel] += [
            {
                "trial_id": trial_id,
                "step": epoch,
                "intermediate_value": value * epoch / num_epochs,
                "intermediate_value_type": step_type,
            }
            for epoch in range(1, num_epochs + 1)
        ]
        rows[models.TrialUserAttributeModel] += [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(text)}
            for key, text in ((OWNER, "nobody"), (ATTEMPT, 1))
        ]
    with ledger.store.engine.begin() as connection:
        for model, values in rows.items():
            connection.execute(insert(model), values)


def _drawn(distribution: Any, chance: random.Random) -> float:
    """A value as Optuna stores it."""
    if hasattr(distribution, "choices"):
        return chance.randrange(len(distribution.choices))
    low, high = distribution.low, distribution.high
    if distribution.log:
        return float(low * (high / low) ** chance.random())
    return float(chance.uniform(low, high))
