"""The study's store told to MLflow: what the mirror shows, and making it agree with the store."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import cast

from optuna.trial import FrozenTrial

from pipeline.calibration import tags_as_measured
from pipeline.journal import journal_folder
from pipeline.study.carried import is_carried
from pipeline.study.followup import tables_of
from pipeline.study.ledger import Ledger
from pipeline.study.store import ATTEMPT, REASON
from pipeline.tracking import DatasetInfo, Finding, Mirror, StudyFacts, TrialRecord, reconcile
from pipeline.tracking.reconcile import StoredState

AWAY_SEC = 2.0
"""How long an MLflow that does not answer is waited for."""


def open_mirror(ledger: Ledger, parent: Mirror | None = None) -> Mirror:
    """The study's run in MLflow, and the thread that delivers to it from the journal.

    Args:
        parent: of the study that this is a follow-up of.

    Raises:
        UserError: no MLflow store answers.
    """
    versions = json.dumps(ledger.recorded("versions"))
    facts = StudyFacts(
        name=ledger.config.study.name,
        uuid=ledger.uuid,
        dataset=DatasetInfo(**ledger.recorded("dataset")),
        kind=ledger.kind,
        parent_run_id="" if parent is None else parent.run_id,
        artifacts=ledger.recorded("artifacts"),
        tags={**tags_as_measured(ledger.study.user_attrs), "regsearch.versions": versions},
    )
    return Mirror.open(facts, journal_folder(ledger.uuid))


def deliver(mirror: Mirror, timeout_sec: float) -> bool:
    """Wait until MLflow has taken all; only briefly, while it does not answer."""
    deadline = time.monotonic() + timeout_sec
    while not mirror.flush(AWAY_SEC):
        if not mirror.answers() or time.monotonic() > deadline:
            return False
    return True


def agree(ledger: Ledger, mirror: Mirror, *, fix: bool = True) -> list[Finding]:
    """Make MLflow's runs agree with the store, once it has taken the journal; what was not so."""
    own = [trial for trial in ledger.trials() if not is_carried(trial)]
    return reconcile(mirror, [_record(ledger, trial) for trial in own], fix=fix)


def _record(ledger: Ledger, trial: FrozenTrial) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        attempt=int(trial.user_attrs.get(ATTEMPT, 0)),
        state=cast(StoredState, trial.state.name),
        name=ledger.name_of(trial),
        params=ledger.params_of(trial),
        tags=ledger.tags_of(trial),
        metric=ledger.metric,
        curve=trial.intermediate_values,
        tables=tables_of(trial.user_attrs),
        reason=str(trial.user_attrs.get(REASON, "")),
        started_ms=_ms(trial.datetime_start),
        ended_ms=_ms(trial.datetime_complete),
    )


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
