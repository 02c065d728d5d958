"""A whole study: images, store and MLflow are opened, workers train, the winner is registered."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.config import RunConfig
from pipeline.config.space_file import Space
from pipeline.datasets import Splits, load_splits
from pipeline.events import StudyEnded, StudyStarted, StudyStatus, now_ms
from pipeline.journal import JournalWriter, journal_folder
from pipeline.kernels.library import missing
from pipeline.models import build_model
from pipeline.places import DEFAULT_STORAGE
from pipeline.presence import present
from pipeline.progress import OPENING_MLFLOW, View
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember, remember_settings, require_known_data
from pipeline.study.storage import check_url, open_storage
from pipeline.study.warm_start import carry, find_warm_start
from pipeline.workers.plan import Plan, device_name, make_plan, resolve_devices
from pipeline.workforce import run_workers

if TYPE_CHECKING:
    from pipeline.outcome import Outcome
    from pipeline.tracking import Mirror
    from pipeline.tracking import Report as DeliveryReport


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


def run_search(space: Space, options: Options, view: View) -> Outcome:
    """Run a study up to its number of finished trials, and register its winner and baselines.

    Raises:
        UserError: bad images, device, store or settings, before any trial; or no MLflow answers,
            when the first have begun: they are given back.
        KeyboardInterrupt: when interrupted; the running trials were given back to the study.
    """
    started = time.monotonic()
    config = space.config
    devices = resolve_devices(options.device)
    check_url(options.storage)  # before images are loaded, which may take minutes
    splits = load_splits(config.data, config.study.seed, view.loading)
    build_model(config.model, config.regularization, splits.image_shape, splits.num_classes)
    store = open_storage(options.storage)
    require_known_data(store, config.study.name, splits.digest)
    warm = find_warm_start(config, store, splits.digest)
    ledger = Ledger(config, store, extend=options.extend)
    remember_settings(ledger)
    ledger.require_same_data(splits.digest)
    if carried := carry(ledger, warm):
        view.note(carried)
    for line in ledger.extended:
        view.note(f"the study takes up {line}")
    for line in remember(ledger, space, _dataset(config, splits)):
        view.note(line)
    plan = make_plan(config, splits, ledger, devices, options.num_workers, view)
    if devices[0] == "cpu" and (reason := missing()):
        view.note(f"training and scoring run op by op, and may take longer: {reason}")
    ledger.fixed("tags", lambda: _tags(plan))
    batch_size, num_images = config.training.batch_size, len(splits.train)
    if batch_size > num_images:
        words = f"with {num_images} training images, an update takes all of them"
        view.note(f"training.batch_size is {batch_size}: {words}")
    limit = options.timeout_sec
    deadline = math.inf if limit is None else time.time() + limit
    status: StudyStatus = "FAILED"
    patience = 2.0
    mirrors: list[Mirror] = []  # one, once the workers have begun
    with present(ledger.uuid), closing(JournalWriter(journal_folder(ledger.uuid))) as journal:
        try:
            journal.put(StudyStarted(now_ms()))
            before = ledger.num_finished()
            given_up = run_workers(
                ledger,
                plan,
                options.storage,
                deadline,
                journal,
                view,
                when_started=lambda: mirrors.append(_open_mirror(ledger, view)),
                when_idle=_load_exporter,
            )
            from pipeline.followups import Workshop
            from pipeline.outcome import conclude

            shop = Workshop(ledger, plan, options.storage, mirrors[0], view, deadline)
            outcome, told = conclude(shop, splits, journal, given_up, before)
            patience = 2.0 if told else 0.5
            status = "FAILED" if outcome.too_many_failures else "FINISHED"
        except KeyboardInterrupt:
            status, patience = "KILLED", 1.0
            raise
        finally:
            journal.try_put(StudyEnded(status, now_ms()))
            reports = [_close_mirror(mirror, patience) for mirror in mirrors]
    outcome.delivery = reports[0]
    outcome.seconds = time.monotonic() - started
    return outcome


# MLflow takes seconds to load, and a new store of its own another one: the workers train meanwhile.


def _open_mirror(ledger: Ledger, view: View) -> Mirror:
    with view.doing(OPENING_MLFLOW):
        from pipeline.mirroring import open_mirror

        return open_mirror(ledger)


def _close_mirror(mirror: Mirror, patience: float) -> DeliveryReport:
    from pipeline.mirroring import AWAY_SEC

    return mirror.close(patience * AWAY_SEC)


def _load_exporter() -> None:
    from pipeline.exported_model import load_ahead

    load_ahead()


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
    return {
        "regsearch.metric": ", ".join(plan.config.study.objectives),
        "regsearch.device": device_name(plan.devices[0]),
        "regsearch.threads": str(plan.threads or torch.get_num_threads()),
        "regsearch.precision": plan.config.training.precision,
        "regsearch.engine": plan.config.training.engine,
    }
