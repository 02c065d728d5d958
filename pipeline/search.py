"""A whole study: images, store and MLflow are opened, workers train, the winner is registered."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.analysis.audit import Audit, audit
from pipeline.calibration import as_trained, measured_for, tags_as_measured
from pipeline.config import RunConfig
from pipeline.config.space_file import Space
from pipeline.coordinator import standing
from pipeline.datasets import Splits, load_splits
from pipeline.events import StudyEnded, StudyProgress, StudyStarted, StudyStatus, now_ms
from pipeline.exported_model import load_ahead
from pipeline.final import Crowned, crown, train_finalists, train_refit
from pipeline.finalists import Verdict
from pipeline.followups import FLUSH_SEC, Workshop
from pipeline.interrupts import raise_if_lost
from pipeline.journal import JournalWriter, journal_folder
from pipeline.kernels.library import missing
from pipeline.mirroring import AWAY_SEC, agree, deliver, open_mirror
from pipeline.models import build_model
from pipeline.places import DEFAULT_STORAGE
from pipeline.presence import present
from pipeline.progress import View
from pipeline.registration import AWAY, LOST, Registrar, Registration
from pipeline.retold import retell
from pipeline.standing import Standing
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember, remember_settings, require_known_data
from pipeline.study.storage import check_url, open_storage
from pipeline.study.warm_start import carry, find_warm_start
from pipeline.tracking import Mirror
from pipeline.tracking import Report as DeliveryReport
from pipeline.training.data import DeviceData
from pipeline.workers.plan import Plan, device_name, make_plan, resolve_devices
from pipeline.workforce import run_workers


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
    """What a run of a study came to.

    Attributes:
        experiment_id: of its experiment in MLflow.
    """

    config: RunConfig
    standing: Standing
    crowned: Crowned = field(default_factory=Crowned)
    audit: Audit | None = None
    too_many_failures: str = ""
    is_final_given_up: bool = False
    timed_out: bool = False
    delivery: DeliveryReport = field(default_factory=DeliveryReport)
    seconds: float = 0.0
    experiment_id: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """On the finalists; None where there is no champion."""
        return self.crowned.verdict

    @property
    def registered(self) -> list[Registration]:
        """What became of the champion and the baselines in the registry."""
        return self.crowned.registered

    @property
    def succeeded(self) -> bool:
        """Whether the study got as far as it could, with a champion to show for it; MLflow may be
        away."""
        given_up = self.too_many_failures or self.is_final_given_up
        lost = any(entry.problem not in ("", AWAY) for entry in self.registered)
        return self.verdict is not None and not given_up and not lost


def run_search(space: Space, options: Options, view: View) -> Outcome:
    """Run a study up to its number of finished trials, and register its winner and baselines.

    Raises:
        UserError: bad images, device, store or settings, before any trial.
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
    plan = make_plan(config, splits, ledger, devices, options.num_workers)
    if devices[0] == "cpu" and (reason := missing()):
        view.note(f"norms run op by op, and training takes longer than it might: {reason}")
    ledger.fixed("tags", lambda: _tags(plan))
    batch_size, num_images = config.training.batch_size, len(splits.train)
    if batch_size > num_images:
        words = f"with {num_images} training images, an update takes all of them"
        view.note(f"training.batch_size is {batch_size}: {words}")
    mirror = open_mirror(ledger)
    status: StudyStatus = "FAILED"
    patience_sec = 2 * AWAY_SEC
    limit = options.timeout_sec
    deadline = math.inf if limit is None else time.time() + limit
    with present(ledger.uuid), closing(JournalWriter(journal_folder(ledger.uuid))) as journal:
        try:
            journal.put(StudyStarted(now_ms()))
            before = ledger.num_finished()
            given_up = run_workers(
                ledger, plan, options.storage, deadline, journal, view, when_idle=load_ahead
            )
            retell(ledger, journal)
            shop = Workshop(ledger, plan, options.storage, mirror, view, deadline)
            outcome = Outcome(config, standing(ledger), too_many_failures=given_up)
            outcome.experiment_id = mirror.experiment_id
            finals = _train_finals(shop, len(splits.selection), outcome)
            outcome.audit = audit(ledger.trials(), ledger.config)
            attrs = ledger.study.user_attrs
            journal.try_put(_told(outcome.audit, outcome.standing.ended, attrs))
            if deliver(mirror, FLUSH_SEC):
                reached: Mirror | None = mirror
                agree(ledger, mirror)
            else:
                reached, patience_sec = None, AWAY_SEC / 2
            if ledger.num_finished() > before:
                ledger.keep("has_news", True)  # until the champion is registered
            data = DeviceData.from_splits(splits, torch.device(devices[0]), config.study.seed)
            trained = as_trained(config, measured_for(attrs, devices[0]))
            registrar = Registrar(trained, ledger, data, splits)
            raise_if_lost()
            outcome.crowned = crown(registrar, *finals, reached)
            if any(entry.problem == LOST for entry in outcome.registered):
                finals = _train_finals(shop, len(splits.selection), outcome)
                outcome.crowned = crown(registrar, *finals, reached)
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


def _train_finals(
    shop: Workshop, num_images: int, outcome: Outcome
) -> tuple[FollowUp | None, FollowUp | None]:
    """The finalists and the refit, as far as there shall be any; the outcome says how far they got.

    Args:
        num_images: how many selection images there are.
    """
    finalists = train_finalists(shop, num_images)
    refit = train_refit(shop, finalists)
    finals = [books for books in (finalists, refit) if books]
    unfinished = not all(books.is_over() for books in (shop.ledger, *finals))
    outcome.is_final_given_up = any(books.given_up for books in finals)
    outcome.timed_out = time.time() >= shop.deadline and unfinished
    return finalists, refit


def _told(found: Audit, num_ended: int, attrs: Mapping[str, Any]) -> StudyProgress:
    """What MLflow's run of the study shows once the search is over."""
    tags = found.tags() | tags_as_measured(attrs)
    return StudyProgress(num_ended, found.metrics(), now_ms(), tags)


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
