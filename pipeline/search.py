"""A whole study: images, store and MLflow are opened, workers train, the winner is registered."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from optuna.trial import TrialState

from pipeline.config import RunConfig
from pipeline.config.space_file import Space
from pipeline.coordinator import Coordinator, standing
from pipeline.datasets import Splits, load_splits
from pipeline.events import StudyEnded, StudyStarted, StudyStatus, now_ms
from pipeline.finalists import CHAMPION, Finalist, Registrar
from pipeline.journal import JournalReader, JournalWriter, journal_folder
from pipeline.mirroring import AWAY_SEC, agree, deliver, open_mirror
from pipeline.models import build_model
from pipeline.places import DEFAULT_STORAGE
from pipeline.presence import present
from pipeline.progress import Standing, View
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember, remember_settings
from pipeline.study.storage import open_storage
from pipeline.study.warm_start import carry, find_warm_start
from pipeline.tracking import Report as DeliveryReport
from pipeline.training.data import DeviceData
from pipeline.weights import WeightStore
from pipeline.workers.plan import Plan, make_plan, resolve_devices
from pipeline.workers.pool import Pool
from pipeline.workers.worker import Job

FLUSH_SEC = 60.0
LOGS = Path("mlruns/logs")


@dataclass(frozen=True)
class Options:
    """How to run, as far as it doesn't change what is found.

    Attributes:
        num_workers: processes that train side by side; None for as many as suit the machine.
        extend: take changes of the space file that leave the study's trials valid.
    """

    device: str = "auto"
    storage: str = DEFAULT_STORAGE
    timeout_sec: float | None = None
    num_workers: int | None = None
    extend: bool = False


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
        has_champion = any(finalist.alias == CHAMPION for finalist in self.finalists)
        return has_champion and not self.too_many_failures


def run_search(space: Space, options: Options, view: View) -> Outcome:
    """Run a study up to its number of finished trials, and register its winner and baselines.

    Raises:
        UserError: bad images, device, store or settings, before any trial.
        KeyboardInterrupt: when interrupted; the running trials were given back to the study.
    """
    started = time.monotonic()
    config = space.config
    devices = resolve_devices(options.device)
    splits = load_splits(config.data, config.study.seed, view.loading)
    build_model(config.model, config.regularization, splits.image_shape, splits.num_classes)
    store = open_storage(options.storage)
    warm = find_warm_start(config, store, splits.digest)
    ledger = Ledger(config, store, extend=options.extend)
    remember_settings(ledger)
    ledger.require_same_data(splits.digest)
    if carried := carry(ledger, warm):
        view.note(carried)
    for line in ledger.extended:
        view.note(f"the study takes up {line}")
    plan = make_plan(config, splits, ledger, devices, options.num_workers)
    for line in remember(ledger, space, _dataset(config, splits), _tags(plan)):
        view.note(line)
    mirror = open_mirror(ledger)
    status: StudyStatus = "FAILED"
    patience_sec = 2 * AWAY_SEC
    with present(ledger.uuid), closing(JournalWriter(journal_folder(ledger.uuid))) as journal:
        try:
            journal.put(StudyStarted(now_ms()))
            before = ledger.num_finished()
            outcome = _train(ledger, plan, options, journal, view)
            weights = WeightStore(ledger.uuid)
            data = DeviceData.from_splits(splits, torch.device(devices[0]), config.study.seed)
            registrar = Registrar(plan.config, ledger, weights, data, splits)
            in_touch = deliver(mirror, FLUSH_SEC)
            if in_touch:
                agree(ledger, mirror)
            else:
                patience_sec = AWAY_SEC / 2
            reached = mirror if in_touch else None
            if outcome.standing.finished > before:
                ledger.keep("has_news", True)  # until the champion is registered
            outcome.finalists = registrar.register_all(reached)
            status = "FAILED" if outcome.too_many_failures else "FINISHED"
        except KeyboardInterrupt:
            status, patience_sec = "KILLED", AWAY_SEC
            raise
        finally:
            journal.try_put(StudyEnded(status, now_ms()))
            delivery = mirror.close(patience_sec)
    outcome.delivery = delivery
    outcome.seconds = time.monotonic() - started
    return outcome


def _train(
    ledger: Ledger, plan: Plan, options: Options, journal: JournalWriter, view: View
) -> Outcome:
    """Have the workers claim and run trials until the budget or the time is used up, or too many
    fail in a row."""
    ledger_failed = tuple(trial.number for trial in ledger.trials(TrialState.FAIL))
    limit = options.timeout_sec
    deadline = math.inf if limit is None else time.time() + limit
    reader = JournalReader(journal_folder(ledger.uuid))
    reader.skip_to_end()
    jobs = [
        Job(
            name=f"worker {index + 1}",
            config=ledger.config,
            trained=plan.config,
            storage=options.storage,
            device=device,
            threads=plan.threads,
            deadline=deadline,
            forgiven=ledger_failed,
            log=LOGS / ledger.uuid / f"worker-{index + 1}.log",
        )
        for index, device in enumerate(plan.devices)
    ]
    over = ledger.is_over()
    Coordinator(ledger, Pool([] if over else jobs), journal, reader, view).watch()
    outcome = Outcome(ledger.config, standing(ledger))
    failures = ledger.failures_in_a_row(ledger_failed)
    if len(failures) >= ledger.config.study.max_consecutive_failures:
        outcome.too_many_failures = str(failures[-1].user_attrs.get("regsearch.reason", ""))
    outcome.timed_out = time.time() >= deadline and not ledger.is_over()
    return outcome


def _dataset(config: RunConfig, splits: Splits) -> dict[str, object]:
    sizes = {name: len(getattr(splits, name)) for name in ("train", "validation", "selection")}
    return {
        "name": config.data.kind,
        "digest": splits.digest,
        "source": config.data.model_dump(mode="json"),
        "profile": {**sizes, "image_shape": splits.image_shape, "num_classes": splits.num_classes},
    }


def _tags(plan: Plan) -> dict[str, str]:
    """What else a result depends on."""
    device = plan.devices[0]
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {
        "regsearch.metric": plan.config.study.metric,
        "regsearch.device": gpu or device,
        "regsearch.threads": str(plan.threads or torch.get_num_threads()),
        "regsearch.precision": plan.config.training.precision,
        "regsearch.engine": plan.config.training.engine,
    }
