"""One trial, from its claim to its verdict. Every exception becomes a trial's state here."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.config import RunConfig
from pipeline.errors import UserError, redact
from pipeline.models import build_model
from pipeline.progress import View
from pipeline.seeding import TrialSeeds
from pipeline.study.ledger import Claim, Ledger
from pipeline.tracking import Mirror, TrialState
from pipeline.training.data import DeviceData
from pipeline.training.loop import FitResult, NonFiniteLossError, Trainer
from pipeline.weights import WeightStore


@dataclass(frozen=True)
class Verdict:
    """How a trial ended; `value` is the metric of its best epoch."""

    state: TrialState
    value: float | None = None
    reason: str = ""


class Pruned(Exception):  # noqa: N818 - not an error
    """The pruner has stopped the trial."""


class TrialRunner:
    """Runs the claimed trials of a study, one after the other, on one device."""

    def __init__(
        self,
        config: RunConfig,
        data: DeviceData,
        ledger: Ledger,
        mirror: Mirror,
        weights: WeightStore,
        view: View,
    ) -> None:
        self.config, self.data, self.ledger = config, data, ledger
        self.mirror, self.weights, self.view = mirror, weights, view

    def run(self, claim: Claim) -> Verdict:
        """Train, report every epoch, and settle the trial in the store and in MLflow.

        Raises:
            KeyboardInterrupt: after the trial has been given back to the study.
        """
        self.mirror.start_trial(claim.number, claim.params, _tags(claim), name=claim.name)
        try:
            verdict = self._train(claim)
        except Pruned as pruned:
            verdict = Verdict("PRUNED", reason=str(pruned))
        except KeyboardInterrupt:
            self.ledger.give_back(claim, "interrupted")
            self.mirror.end_trial(claim.number, "FAIL", "interrupted")
            raise
        except Exception as error:  # noqa: BLE001 - the one place where a failure becomes a state
            verdict = Verdict("FAIL", reason=failure_reason(error))
        if verdict.state == "FAIL" and torch.cuda.is_available():
            torch.cuda.empty_cache()  # here, where the error no longer holds the net
        self._settle(claim, verdict)
        return verdict

    def _train(self, claim: Claim) -> Verdict:
        config = self.config.with_overrides(claim.overrides)
        seeds = TrialSeeds.of(self.config.study.seed, claim.lineage)
        model = self.build(config, seeds.init)
        trainer = Trainer(model, self.data, config, config.study.metric, seeds)
        self.view.trial_started(claim.number, claim.name, claim.params, config.training.epochs)

        def report(epoch: int, metrics: Mapping[str, float]) -> None:
            self.mirror.log_epoch(claim.number, epoch, metrics)
            self.view.epoch_ended(claim.number, epoch, metrics)
            if claim.report(epoch, metrics[config.study.metric]):
                raise Pruned(f"pruned after epoch {epoch}")

        result = trainer.fit(report)
        value = result.metrics[config.study.metric]
        self._keep(claim, value, model)
        return Verdict("COMPLETE", value, _ending(result))

    def build(self, config: RunConfig, seed: int | None = None) -> nn.Module:
        """The network of these settings, initialised from `seed`."""
        if seed is not None:
            torch.manual_seed(seed)
        return build_model(
            config.model, config.regularization, self.data.image_shape, self.data.num_classes
        )

    def _keep(self, claim: Claim, value: float, model: nn.Module) -> None:
        """Save the weights of a baseline or of a new best, before the store calls it complete."""
        if claim.baseline is not None or self.ledger.would_be_best(value):
            self.weights.save(claim.number, model)

    def _settle(self, claim: Claim, verdict: Verdict) -> None:
        if verdict.value is not None:
            self.ledger.complete(claim, verdict.value)
            self.weights.keep_only(self.ledger.trials_to_keep())
        elif verdict.state == "PRUNED":
            self.ledger.prune(claim)
        else:
            self.ledger.fail(claim, verdict.reason)
        self.mirror.end_trial(claim.number, verdict.state, verdict.reason or None)


def failure_reason(error: Exception) -> str:
    """Why a trial failed, in words where the cause is known, else with its traceback."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory: a smaller batch or model needs less"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk full: the weights could not be saved"
    if isinstance(error, NonFiniteLossError | UserError):
        return redact(str(error))
    trace = "".join(traceback.format_exception(error))
    return redact(f"{type(error).__name__}: {error}\n{trace[-4000:]}")


def _ending(result: FitResult) -> str:
    stopped = f", stopped after {result.num_epochs}" if result.stopped_early else ""
    return f"best epoch {result.best_epoch} of {result.num_epochs_allowed}{stopped}"


def _tags(claim: Claim) -> dict[str, str]:
    tags = {} if claim.baseline is None else {"regsearch.baseline": str(claim.baseline)}
    retry = {"regsearch.retry_of": str(claim.lineage)} if claim.lineage != claim.number else {}
    return tags | retry
