"""Optuna's relational store, with every step of the ledger as one transaction of its own.

Optuna's public calls read, decide and write in separate transactions, between which other
processes act. The steps here use its tables (`optuna.storages._rdb.models`, whose version Optuna
checks when it opens a store) so that each of them happens once or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sql
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pipeline.study.book_store import BookStore
from pipeline.study.patience import persistent

OWNER, ATTEMPT, HISTORY, REASON = (
    f"regsearch.{name}" for name in ("owner", "attempt", "history", "reason")
)
SCORED = "regsearch.scored"
"""All metrics of a trial's best epoch (of the last one, where it was pruned), by name."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count towards `study.trials`. A failed trial is made up for by another."""

MAX_FRUITLESS_ATTEMPTS = 10
"""So many attempts that die in a row without a new epoch, and the trial has FAILed."""


class ClaimLostError(Exception):
    """The trial is no longer this owner's: it was found stale, and perhaps given to another."""


@dataclass(frozen=True)
class Swept:
    """A trial that was taken from an owner who is gone."""

    number: int
    attempt: int
    reason: str
    state: TrialState


class Store(BookStore):
    """One connection to the store; threads may share it. Trials are claimed, reported, settled."""

    @persistent
    def claim(self, study_id: int, budget: int | None, owner: str) -> int | None:
        """Take the next trial for `owner`, a token that names this one claim.

        Waiting trials come first, by number; a new one is made while finished, running and waiting
        ones are fewer than `budget`. With None, there are only those that wait.

        Returns:
            The trial's id; None when finished and running trials use the budget up, or none waits.
        """
        with self._transaction(lock_study=study_id) as session:
            running = self._in_state(session, study_id, TrialState.RUNNING)
            mine = [t for t in running if _attr(t, OWNER) == owner]
            if mine:  # the reply to an earlier try was lost
                return int(mine[0].trial_id)
            taken = len(running) + self._count(session, study_id, *FINISHED)
            waiting = self._in_state(session, study_id, TrialState.WAITING)
            is_over = not waiting if budget is None else taken >= budget
            if is_over:
                return None
            trial = waiting[0] if waiting else self._get_prepared_new_trial(study_id, None, session)
            trial.state, trial.datetime_start = TrialState.RUNNING, datetime.now()
            attempt = int(_attr(trial, ATTEMPT) or 0) + 1
            self._set_attrs(session, trial, {OWNER: owner, ATTEMPT: attempt})
            self._beat(session, trial)
            return int(trial.trial_id)

    @persistent
    def beat(self, trial_id: int, owner: str) -> None:
        """Note that the owner lives.

        Raises:
            ClaimLostError: the trial is no longer its own.
        """
        with self._held(trial_id, owner) as (session, trial):
            self._beat(session, trial)

    @persistent
    def report(self, trial_id: int, owner: str, epoch: int, value: float) -> None:
        """Record the metric's value after an epoch; once more changes nothing.

        Raises:
            ClaimLostError: the trial is no longer its own.
        """
        # Not by Optuna's objects: a GPU waits for this, and they would take three times as long.
        trials, attrs = models.TrialModel, models.TrialUserAttributeModel
        values, beats = models.TrialIntermediateValueModel, models.TrialHeartbeatModel
        stored, kind = values.intermediate_value_to_stored_repr(value)
        locked = sql.select(trials.state).where(trials.trial_id == trial_id).with_for_update()
        holder = sql.select(attrs.value_json).where(attrs.trial_id == trial_id, attrs.key == OWNER)
        at = {"trial_id": trial_id, "step": epoch}
        reported = {"intermediate_value": stored, "intermediate_value_type": kind}
        with self._transaction() as session:
            state = session.execute(locked).scalar_one_or_none()
            # A second statement, since one that waited for the lock would see the old owner.
            kept = session.execute(holder).scalar_one_or_none()
            if state != TrialState.RUNNING or kept is None or json.loads(kept) != owner:
                raise ClaimLostError(f"the trial with the id {trial_id} is no longer this owner's")
            _write_row(session, values, at, reported)
            _write_row(session, beats, {"trial_id": trial_id}, {"heartbeat": sql.func.now()})

    @persistent
    def mark(self, trial_id: int, owner: str, attrs: Mapping[str, Any]) -> None:
        """Set user attributes (JSON) of a running trial.

        Raises:
            ClaimLostError: the trial is no longer its own.
        """
        with self._held(trial_id, owner) as (session, trial):
            self._set_attrs(session, trial, dict(attrs))

    @contextmanager
    def gathered_params(self) -> Iterator[None]:
        """What Optuna writes of a trial's parameters inside is one transaction at the end."""
        gathered: list[tuple[Any, ...]] = []
        self.mode.gathered = gathered
        try:
            yield
        finally:
            self.mode.gathered = None
        if gathered:
            self._write_params(gathered)

    def _set_trial_param(self, *args: Any) -> None:
        gathered = getattr(self.mode, "gathered", None)
        if gathered is None:
            self._write_params([args])
        else:
            gathered.append(args)

    @persistent
    def _write_params(self, params: list[tuple[Any, ...]]) -> None:
        """As Optuna writes them; those that are there already stay as they are."""
        model = models.TrialParamModel
        with self._transaction() as session:
            for trial_id, name, *rest in params:
                there = session.query(model.param_id).filter_by(trial_id=trial_id, param_name=name)
                if there.first() is None:
                    self._set_trial_param_without_commit(session, trial_id, name, *rest)

    @persistent
    def finish(
        self,
        trial_id: int,
        owner: str,
        state: TrialState,
        values: Sequence[float] = (),
        attrs: Mapping[str, Any] | None = None,
        system_attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Settle a trial as COMPLETE, PRUNED or FAIL; once more changes nothing.

        Args:
            values: of each metric of the study.
            attrs, system_attrs: user and system attributes that come with the verdict, JSON.

        Raises:
            ClaimLostError: the trial is no longer its own, so its result is to be dropped.
        """
        with self._held(trial_id, owner, finished_too=True) as (session, trial):
            if trial.state != TrialState.RUNNING:
                return  # the reply to an earlier try was lost
            for objective, value in enumerate(values):
                self._set_trial_value_without_commit(session, trial, objective, value)
            self._set_attrs(session, trial, dict(attrs or {}))
            for key, given in (system_attrs or {}).items():
                self._set_trial_attr_without_commit(
                    session, models.TrialSystemAttributeModel, trial_id, key, given
                )
            trial.state, trial.datetime_complete = state, datetime.now()

    @persistent
    def give_back(self, trial_id: int, owner: str, reason: str) -> None:
        """Let a running trial wait for another attempt.

        Raises:
            ClaimLostError: the trial is no longer its own.
        """
        with self._held(trial_id, owner) as (session, trial):
            self._requeue(session, trial, reason)

    @persistent
    def sweep(self, study_id: int, grace_sec: float, is_dead: Callable[[str], bool]) -> list[Swept]:
        """Take the running trials whose owner is dead, or has not been heard of for `grace_sec`.

        They wait for another attempt; a trial that keeps dying without a new epoch FAILs. A store
        that was locked or away makes nobody stale: silence counts from when it was there again.
        """
        started = time.monotonic()
        with self._transaction(lock_study=study_id) as session:
            self.note_hindrance(started)
            unhindered_sec = time.monotonic() - self._hindered
            now = _naive(session.execute(sql.select(sql.func.now())).scalar_one())
            swept = []
            for trial in self._in_state(session, study_id, TrialState.RUNNING, lock=True):
                owner, silent_sec = str(_attr(trial, OWNER) or ""), _silence_sec(trial, now)
                if owner and is_dead(owner):
                    swept.append(self._requeue(session, trial, "its process died"))
                elif min(silent_sec, unhindered_sec) > grace_sec:
                    reason = f"its worker was not heard of for {silent_sec:.0f} s"
                    swept.append(self._requeue(session, trial, reason))
            return swept

    @persistent
    def heartbeat_ages(self, study_id: int) -> dict[int, float]:
        """Seconds since the last heartbeat of each running trial (number), by the store's clock."""
        with self.reading(), self._transaction() as session:
            now = _naive(session.execute(sql.select(sql.func.now())).scalar_one())
            running = self._in_state(session, study_id, TrialState.RUNNING)
            return {trial.number: _silence_sec(trial, now) for trial in running}

    @persistent
    def has_ended(self, study_id: int, after: int, running: Collection[int]) -> bool:
        """Whether any trial has ended whose id is above `after`, or among `running`."""
        trials = models.TrialModel
        ended = sql.select(trials.trial_id).where(
            trials.study_id == study_id,
            trials.state.in_([*FINISHED, TrialState.FAIL]),
            sql.or_(trials.trial_id > after, trials.trial_id.in_(running)),
        )
        with self.reading(), self._transaction() as session:
            return session.execute(ended.limit(1)).first() is not None

    @persistent
    def enqueue(self, study_id: int, trial: FrozenTrial, mark: str) -> None:
        """Add a waiting trial, unless one that has not failed has the same value of the user
        attribute `mark`."""
        trials, attrs = models.TrialModel, models.TrialUserAttributeModel
        with self._transaction(lock_study=study_id) as session:
            alike = (
                session.query(trials.trial_id)
                .join(attrs, attrs.trial_id == trials.trial_id)
                .filter(trials.study_id == study_id, trials.state != TrialState.FAIL)
                .filter(attrs.key == mark, attrs.value_json == json.dumps(trial.user_attrs[mark]))
            )
            if alike.first() is None:
                self._get_prepared_new_trial(study_id, trial, session)

    @contextmanager
    def _held(
        self, trial_id: int, owner: str, *, finished_too: bool = False
    ) -> Iterator[tuple[Session, Any]]:
        """The trial's row, locked, if it is still its owner's."""
        with self._transaction() as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            is_open = trial.state == TrialState.RUNNING
            is_open |= finished_too and trial.state.is_finished()
            if not is_open or _attr(trial, OWNER) != owner:
                raise ClaimLostError(f"trial {trial.number} is {trial.state.name}, by another")
            yield session, trial

    def _requeue(self, session: Session, trial: Any, reason: str) -> Swept:
        """RUNNING to WAITING, with a note of the attempt; FAIL where attempts lead nowhere."""
        epoch = max((v.step for v in trial.intermediate_values), default=0)
        attempt = int(_attr(trial, ATTEMPT) or 0)
        ended = {"attempt": attempt, "owner": _attr(trial, OWNER), "end": reason, "epoch": epoch}
        history = [*(_attr(trial, HISTORY) or []), ended]
        self._set_attrs(session, trial, {HISTORY: history, OWNER: ""})
        for heartbeat in trial.heartbeats:
            session.delete(heartbeat)
        last = history[-MAX_FRUITLESS_ATTEMPTS:]
        fruitless = len(last) == MAX_FRUITLESS_ATTEMPTS and last[0]["epoch"] == epoch
        if fruitless and reason != "interrupted":
            reason = f"{len(last)} attempts ended without a new epoch, the last: {reason}"
            self._set_attrs(session, trial, {REASON: reason})
            trial.state, trial.datetime_complete = TrialState.FAIL, datetime.now()
        else:
            trial.state = TrialState.WAITING
        return Swept(trial.number, attempt, reason, trial.state)

    def _beat(self, session: Session, trial: Any) -> None:
        if trial.heartbeats:
            trial.heartbeats[0].heartbeat = sql.func.now()
        else:
            session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))

    def _set_attrs(self, session: Session, trial: Any, attrs: dict[str, Any]) -> None:
        for key, value in attrs.items():
            self._set_trial_attr_without_commit(
                session, models.TrialUserAttributeModel, trial.trial_id, key, value
            )
        session.expire(trial, ["user_attributes"])

    def _in_state(
        self, session: Session, study_id: int, state: TrialState, *, lock: bool = False
    ) -> list[Any]:
        query = session.query(models.TrialModel).filter_by(study_id=study_id, state=state)
        query = query.order_by(models.TrialModel.number)
        return list(query.with_for_update().all() if lock else query.all())

    def _count(self, session: Session, study_id: int, *states: TrialState) -> int:
        query = session.query(models.TrialModel).filter_by(study_id=study_id)
        return int(query.filter(models.TrialModel.state.in_(states)).count())


def _write_row(session: Session, model: Any, at: dict[str, Any], values: dict[str, Any]) -> None:
    """Change the row at these keys, or add it."""
    where = [getattr(model, key) == value for key, value in at.items()]
    change = sql.update(model).where(*where).values(**values)
    changed = session.execute(change.execution_options(synchronize_session=False))
    if changed.rowcount == 0:  # type: ignore[attr-defined]
        session.execute(sql.insert(model).values(**at, **values))


def _attr(trial: Any, key: str) -> Any:
    found = (a.value_json for a in trial.user_attributes if a.key == key)
    text = next(found, None)
    return None if text is None else json.loads(text)


def _silence_sec(trial: Any, now: datetime) -> float:
    """How long a running trial has not been heard of; from its start, if it never was."""
    started = trial._datetime_start_utc
    heard = _naive(trial.heartbeats[0].heartbeat) if trial.heartbeats else started
    return (now - heard).total_seconds() if heard else 0.0


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)
