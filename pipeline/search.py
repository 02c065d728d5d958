"""A whole study: images, store and MLflow are opened, trials are run, the winner is registered."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import mlflow
import optuna
import torch
import yaml
from optuna.trial import TrialState

from pipeline.calibration import Calibration, Precision, calibrate
from pipeline.config import RunConfig
from pipeline.config.space_file import Space
from pipeline.datasets import Splits, load_splits
from pipeline.errors import UserError
from pipeline.finalists import Finalist, Registrar
from pipeline.models import build_model
from pipeline.progress import Standing, View
from pipeline.seeding import TrialSeeds
from pipeline.study.ledger import Ledger
from pipeline.study.storage import DEFAULT_STORAGE, open_storage
from pipeline.tracking import DatasetInfo, Mirror
from pipeline.tracking import Report as DeliveryReport
from pipeline.tracking.updates import RunStatus
from pipeline.training.data import DeviceData
from pipeline.training.loop import Trainer
from pipeline.trial import TrialRunner, Verdict
from pipeline.weights import WeightStore

FLUSH_SEC = 30.0


@dataclass(frozen=True)
class Options:
    """How to run, as far as it doesn't change what is found."""

    device: str = "auto"
    storage: str = DEFAULT_STORAGE
    timeout_sec: float | None = None


@dataclass
class Outcome:
    """What a run of a study came to."""

    config: RunConfig
    standing: Standing
    finalists: list[Finalist] = field(default_factory=list)
    too_many_failures: str = ""
    timed_out: bool = False
    delivery: DeliveryReport = field(default_factory=DeliveryReport)
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether the study got as far as it could, with a champion to show for it."""
        return bool(self.finalists) and not self.too_many_failures


def run_search(space: Space, options: Options, view: View) -> Outcome:
    """Run a study up to its number of finished trials, and register its winner and baselines.

    Raises:
        UserError: bad images, device, store or settings, before any trial.
        KeyboardInterrupt: when interrupted; the running trial was given back to the study.
    """
    started = time.monotonic()
    config = space.config
    device = resolve_device(options.device)
    splits = load_splits(config.data, config.study.seed, view.loading)
    build_model(config.model, config.regularization, splits.image_shape, splits.num_classes)
    ledger = Ledger(config, open_storage(options.storage))
    ledger.require_same_data(splits.digest)
    data = DeviceData.from_splits(splits, device, config.study.seed)
    trained = _calibrated(config, data, ledger) if device.type == "cpu" else config
    mirror = Mirror.open(
        config.study.name,
        ledger.uuid,
        _dataset_info(config, splits),
        artifacts={"space.yaml": space.text, "settings.yaml": _dump(config)},
        tags=_tags(trained, device),
    )
    status: RunStatus = "FAILED"
    try:
        runner = TrialRunner(trained, data, ledger, mirror, WeightStore(ledger.uuid), view)
        outcome = Outcome(config, standing(ledger))
        _run_trials(runner, options.timeout_sec, outcome)
        mirror.flush(FLUSH_SEC)
        outcome.finalists = Registrar(runner, splits).register_all()
        status = "FAILED" if outcome.too_many_failures else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        mirror.end_study(status)
        delivery = mirror.close()
    outcome.delivery, outcome.standing = delivery, standing(ledger)
    outcome.seconds = time.monotonic() - started
    return outcome


def _run_trials(runner: TrialRunner, timeout_sec: float | None, outcome: Outcome) -> None:
    """Claim and run trials until the budget or the time is used up, or too many have failed."""
    ledger, mirror, view = runner.ledger, runner.mirror, runner.view
    for number in ledger.requeue_dead():
        mirror.end_trial(number, "FAIL", "its process died")
        view.note(f"trial {number}: its process died; it is queued once more")
    deadline = math.inf if timeout_sec is None else time.monotonic() + timeout_sec
    failures_in_row = 0
    view.study(standing(ledger))
    while time.monotonic() < deadline:
        claim = ledger.claim()
        if claim is None:
            return
        verdict = runner.run(claim)
        now = standing(ledger)
        view.trial_ended(claim.number, verdict.state, _ending(verdict))
        view.study(now)
        mirror.log_study(now.finished, _study_metrics(now))
        failures_in_row = failures_in_row + 1 if verdict.state == "FAIL" else 0
        if failures_in_row >= ledger.config.study.max_consecutive_failures:
            outcome.too_many_failures = verdict.reason
            return
    outcome.timed_out = True


def _calibrated(config: RunConfig, data: DeviceData, ledger: Ledger) -> RunConfig:
    """The settings with the precision that suits this processor; its threads are set."""

    def recipe(precision: Precision) -> Trainer:
        chosen = config.with_overrides({"training.precision": precision})
        model = build_model(config.model, config.regularization, data.image_shape, data.num_classes)
        seeds = TrialSeeds.of(config.study.seed, 0)
        return Trainer(model, data, chosen, config.study.metric, seeds)

    calibration = Calibration(**ledger.fixed("calibration", lambda: calibrate(recipe).to_dict()))
    torch.set_num_threads(calibration.threads)
    if config.training.precision != "auto":
        return config
    return config.with_overrides({"training.precision": calibration.precision})


def standing(ledger: Ledger) -> Standing:
    """The study's counts and its best value, from its store."""
    states = [trial.state for trial in ledger.trials()]
    best = ledger.best()
    return Standing(
        target=ledger.config.study.trials,
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
        metric=ledger.config.study.metric,
        best_value=None if best is None else best.value,
        best_trial=None if best is None else best.number,
    )


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:i` as a device that is there.

    Raises:
        UserError: for another word, or a GPU that this machine doesn't have.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu", *(["cuda"] if available else []), *(f"cuda:{i}" for i in range(available))]
    if device == "auto":
        return torch.device("cuda" if available else "cpu")
    if device not in names:
        raise UserError(
            f"there is no device {device!r} on this machine",
            where="--device",
            rule=f"one of auto, {', '.join(names)}",
            cure="leave the option out to use the best there is",
        )
    return torch.device(device)


def _ending(verdict: Verdict) -> str:
    return verdict.reason if verdict.value is None else f"{verdict.value:.4f}, {verdict.reason}"


def _study_metrics(now: Standing) -> Mapping[str, float]:
    counts = {
        "trials/complete": float(now.complete),
        "trials/pruned": float(now.pruned),
        "trials/failed": float(now.failed),
    }
    best = {} if now.best_value is None else {f"best/{now.metric}": now.best_value}
    return counts | best


def _dataset_info(config: RunConfig, splits: Splits) -> DatasetInfo:
    sizes = {name: len(getattr(splits, name)) for name in ("train", "validation", "selection")}
    return DatasetInfo(
        name=config.data.kind,
        digest=splits.digest,
        source=config.data.model_dump(mode="json"),
        profile={**sizes, "image_shape": splits.image_shape, "num_classes": splits.num_classes},
    )


def _tags(config: RunConfig, device: torch.device) -> dict[str, str]:
    """What else a result depends on: metric, device, versions."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"optuna": optuna.__version__, "mlflow": mlflow.__version__}
    return {
        "regsearch.metric": config.study.metric,
        "regsearch.device": gpu or str(device),
        "regsearch.threads": str(torch.get_num_threads()),
        "regsearch.precision": config.training.precision,
        "regsearch.versions": json.dumps(versions),
    }


def _dump(config: RunConfig) -> str:
    return yaml.safe_dump(config.resolved(), sort_keys=False)
