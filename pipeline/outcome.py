"""What a run came to: after its last trial, the finalists, the champion, and MLflow in agreement.

It takes seconds to load, as MLflow does: a run loads it while its workers train.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.analysis.audit import Audit, audit
from pipeline.calibration import as_trained, measured_for, tags_as_measured
from pipeline.config import RunConfig
from pipeline.coordinator import standing
from pipeline.datasets import Splits
from pipeline.events import StudyProgress, now_ms
from pipeline.final import Crowned, crown, train_finalists, train_refit
from pipeline.finalists import Verdict
from pipeline.followups import FLUSH_SEC, Workshop
from pipeline.interrupts import raise_if_lost
from pipeline.journal import JournalWriter
from pipeline.mirroring import agree, deliver
from pipeline.registration import AWAY, LOST, Registrar, Registration
from pipeline.retold import retell
from pipeline.standing import Standing
from pipeline.study.followup import FollowUp
from pipeline.tracking import Report as DeliveryReport
from pipeline.training.data import DeviceData

JUDGING = "comparing on the selection images, and registering the best and the baselines"


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


def conclude(
    shop: Workshop, splits: Splits, journal: JournalWriter, given_up: str, num_before: int
) -> tuple[Outcome, bool]:
    """All that follows the search's own trials; and whether MLflow took it.

    Args:
        journal: the study's.
        given_up: why the search was, if it was.
        num_before: trials that had finished before this run.
    """
    ledger, mirror = shop.ledger, shop.mirror
    retell(ledger, journal)
    outcome = Outcome(ledger.config, standing(ledger), too_many_failures=given_up)
    outcome.experiment_id = mirror.experiment_id
    finals = _train_finals(shop, len(splits.selection), outcome)
    outcome.audit = audit(ledger.trials(), ledger.config)
    attrs = ledger.study.user_attrs
    journal.try_put(_told(outcome.audit, outcome.standing.ended, attrs))
    reached = mirror if deliver(mirror, FLUSH_SEC) else None
    if reached is not None:
        agree(ledger, reached)
    if ledger.num_finished() > num_before:
        ledger.keep("has_news", True)  # until the champion is registered
    device = shop.plan.devices[0]
    data = DeviceData.from_splits(splits, torch.device(device), ledger.config.study.seed)
    trained = as_trained(ledger.config, measured_for(attrs, device))
    registrar = Registrar(trained, ledger, data, splits)
    raise_if_lost()
    with shop.view.doing(JUDGING):
        outcome.crowned = crown(registrar, *finals, reached)
    if any(entry.problem == LOST for entry in outcome.registered):
        finals = _train_finals(shop, len(splits.selection), outcome)
        with shop.view.doing(JUDGING):
            outcome.crowned = crown(registrar, *finals, reached)
    return outcome, reached is not None


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
