"""One trial, from its claim to its verdict. Every exception becomes a trial's state here."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch

from pipeline.checkpoints import CheckpointStore
from pipeline.config import RunConfig
from pipeline.diagnosed import diagnosis_tags
from pipeline.diagnosis import diagnose
from pipeline.errors import UserError, redact
from pipeline.events import (
    RESUMED_AFTER,
    EpochEnded,
    Event,
    TrialEnded,
    TrialRequeued,
    TrialScored,
    TrialStarted,
    now_ms,
)
from pipeline.interrupts import raise_if_lost
from pipeline.journal import JournalWriter
from pipeline.judging import Judge
from pipeline.state_file import DamagedFileError
from pipeline.study.claim import Claim
from pipeline.study.constraints import constraint_tags
from pipeline.study.followup import ANSWERS, WEIGHTS, is_unregularized, tables_of
from pipeline.study.ledger import Ledger
from pipeline.study.patience import StoreAwayError
from pipeline.study.store import SCORED, ClaimLostError
from pipeline.trainers import Trainers
from pipeline.training.loop import FitResult, NonFiniteLossError, Trainer
from pipeline.training.resuming import OtherTrainingError
from pipeline.training.weight_statistics import as_table, weight_statistics
from pipeline.weights import WeightStore


@dataclass(frozen=True)
class Verdict:
    """How a trial ended; `value` and `metrics` are those of its best `epoch` (its last, if pruned),
    `attrs` what else the store keeps of it.

    LOST: another worker has it by now, and this one's result was dropped.
    """

    state: Literal["COMPLETE", "PRUNED", "FAIL", "LOST"]
    value: float | None = None
    reason: str = ""
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


class Pruned(Exception):  # noqa: N818 - not an error
    """The pruner has stopped the trial; `metrics` are those of its last epoch."""

    def __init__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        super().__init__(f"pruned after epoch {epoch}")
        self.epoch, self.metrics = epoch, metrics


class TrialRunner:
    """Runs the claimed trials of a study, one after the other, on one device.

    Args:
        trainers: of the study's trainings, as they are before their first epoch.
        journal: where it is written what happens, before the store is told.
        worker: this worker's name.
        judge: scores each finished net on the selection images; None in a search.
        device: the name of what it trains on, which may be another one than the study began with.
    """

    def __init__(
        self,
        trainers: Trainers,
        ledger: Ledger,
        journal: JournalWriter,
        checkpoints: CheckpointStore,
        weights: WeightStore,
        worker: str,
        judge: Judge | None = None,
        device: str = "cpu",
    ) -> None:
        self.trainers, self.config = trainers, trainers.config
        self.ledger, self.judge = ledger, judge
        self.journal, self.checkpoints, self.weights = journal, checkpoints, weights
        self.worker, self.device = worker, device
        # A CPU would only report later.
        self.goes_ahead = trainers.data.mean.device.type == "cuda"

    def run(self, claim: Claim) -> Verdict:
        """Train, report every epoch, and settle the trial in the store.

        Raises:
            KeyboardInterrupt: after the trial has been given back to the study.
        """
        try:
            verdict = self._train(claim)
            self._settle(claim, verdict)
        except KeyboardInterrupt as stop:
            self.ledger.store.let_go(stop)
            self._give_back(claim)
            raise
        except ClaimLostError as lost:
            return Verdict("LOST", reason=str(lost))
        if verdict.state == "FAIL":
            self.trainers.steps.let_go()  # here, where the error no longer holds the net
        return verdict

    def _train(self, claim: Claim) -> Verdict:
        try:
            return self._fit(claim)
        except Pruned as pruned:
            return Verdict("PRUNED", None, str(pruned), pruned.epoch, pruned.metrics)
        except (ClaimLostError, StoreAwayError):
            raise  # neither is the trial's fault: it waits for another attempt
        except Exception as error:  # noqa: BLE001 - the one place where a failure becomes a state
            raise_if_lost()
            return Verdict("FAIL", reason=failure_reason(error))

    def _fit(self, claim: Claim) -> Verdict:
        config = self.config.with_overrides(claim.overrides)
        state = self._checkpoint(claim)
        num_epochs = claim.last_epoch or config.training.epochs
        self.journal.put(self._started(claim, num_epochs, state))
        trainer = self._trainer(claim, config, state)
        del state  # its tensors are the trainer's by now, or copies of them
        saved_at = time.monotonic()

        def is_due() -> bool:
            return time.monotonic() - saved_at >= self.config.study.checkpoint_sec

        def report(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal saved_at
            self.journal.put(EpochEnded(claim.number, claim.attempt, epoch, metrics, now_ms()))
            if self.ledger.report(claim, epoch, metrics[self.ledger.metric]):
                raise Pruned(epoch, metrics)
            if not trainer.num_ahead and is_due():
                self.checkpoints.save(claim.number, trainer.state_dict())
                saved_at = time.monotonic()
            raise_if_lost()

        result = trainer.fit(report, lambda: self.goes_ahead and not is_due())
        value = result.metrics[self.ledger.metric]
        if self.ledger.keeps_weights(claim, value):
            self.weights.save(claim.number, trainer.model)  # before the store calls it complete
        attrs, metrics = self._judged(trainer)
        return Verdict(
            "COMPLETE",
            value,
            _ending(result),
            result.best_epoch,
            {**result.metrics, **metrics},
            attrs,
        )

    def _judged(self, trainer: Trainer) -> tuple[dict[str, Any], dict[str, float]]:
        """What is kept of a finished net for later comparisons, and its selection metrics."""
        if self.judge is None:
            return {}, {}
        logits = self.judge.logits(trainer.model, trainer.dtype)
        statistics = weight_statistics(trainer.model)
        attrs = {ANSWERS: self.judge.answers(logits).to_json(), WEIGHTS: as_table(statistics)}
        return attrs, self.judge.metrics(logits)

    def _trainer(self, claim: Claim, config: RunConfig, state: dict[str, Any] | None) -> Trainer:
        """The trial's training, from its start or from a saved state."""
        trainer = self.trainers.make(config, claim.seed, claim.last_epoch)
        if state is None:
            return trainer
        try:
            trainer.load_state_dict(state)
        except OtherTrainingError as other:  # of another version: this one can't go on from it
            self.journal.note(f"{claim.name}: {other}; it starts from zero")
            return self._trainer(claim, config, None)
        return trainer

    def _checkpoint(self, claim: Claim) -> dict[str, Any] | None:
        """What an earlier attempt has saved; None where there is nothing, or nothing whole."""
        try:
            return self.checkpoints.load(claim.number) if claim.attempt > 1 else None
        except DamagedFileError as damaged:
            self.journal.note(f"{claim.name}: {damaged}; it starts from zero")
            self.checkpoints.remove(claim.number)
            return None

    def _settle(self, claim: Claim, verdict: Verdict) -> None:
        """The store first, since it decides; then the journal, and the files that are no longer
        needed."""
        attrs = {SCORED: {"epoch": verdict.epoch, **verdict.metrics}, **verdict.attrs}
        if verdict.state == "COMPLETE" and verdict.value is not None:
            self.ledger.complete(claim, verdict.value, attrs)
            needed = cache(self.ledger.needs_weights)  # asked once, after the files were listed
            self.weights.keep_only(lambda number: needed()(number))
        elif verdict.state == "PRUNED":
            self.ledger.prune(claim, attrs)
        else:
            self.ledger.fail(claim, verdict.reason)
        if verdict.metrics:
            self.journal.try_put(self._scored(claim, verdict))
        self.journal.try_put(_ended(claim, verdict))
        self.checkpoints.remove(claim.number)

    def _scored(self, claim: Claim, verdict: Verdict) -> Event:
        """Figures that are not in the curves, and tags to filter trials by."""
        added = {k: v for k, v in verdict.metrics.items() if k.startswith("selection/")}
        return TrialScored(
            claim.number,
            claim.attempt,
            verdict.epoch,
            added,
            self._tags(claim, verdict),
            now_ms(),
            tables_of(verdict.attrs),
        )

    def _tags(self, claim: Claim, verdict: Verdict) -> dict[str, str]:
        scores = verdict.metrics
        if "validation/accuracy" not in scores:
            return {}  # its validation images are trained on
        train = scores["train/clean_accuracy"]
        found = diagnose(
            train,
            scores["validation/accuracy"],
            train if is_unregularized(claim.so_far) else self.ledger.fits(),
            self.config.with_overrides(claim.overrides).values(),
        )
        return {**diagnosis_tags(found), **constraint_tags(self.config, scores)}

    def _give_back(self, claim: Claim) -> None:
        try:
            self.ledger.give_back(claim, "interrupted")
        except (ClaimLostError, StoreAwayError):
            return  # it was settled, or taken, in the moment of the interruption; or will be found
        self.journal.try_put(TrialRequeued(claim.number, claim.attempt, "interrupted", now_ms()))

    def _started(self, claim: Claim, num_epochs: int, state: dict[str, Any] | None) -> Event:
        resumed = {} if state is None else {RESUMED_AFTER: str(state["epoch"])}
        return TrialStarted(
            trial=claim.number,
            attempt=claim.attempt,
            worker=self.worker,
            name=claim.name,
            params=claim.params,
            num_epochs=num_epochs,
            time_ms=now_ms(),
            tags={**claim.tags, "regsearch.device": self.device, **resumed},
        )


def failure_reason(error: Exception) -> str:
    """Why a trial failed, in words where the cause is known, else with its traceback."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory: a smaller batch or model needs less"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full: the checkpoint or the weights could not be saved"
    if isinstance(error, NonFiniteLossError | UserError):
        return redact(str(error))
    trace = "".join(traceback.format_exception(error))
    return redact(f"{type(error).__name__}: {error}\n{trace[-4000:]}")


def _ending(result: FitResult) -> str:
    stopped = f", stopped after {result.num_epochs}" if result.stopped_early else ""
    return f"best epoch {result.best_epoch} of {result.num_epochs_allowed}{stopped}"


def _ended(claim: Claim, verdict: Verdict) -> Event:
    assert verdict.state != "LOST", "a lost claim settles nothing"
    return TrialEnded(
        claim.number, claim.attempt, verdict.state, verdict.reason, verdict.value, now_ms()
    )
