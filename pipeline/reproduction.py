"""A trial of a study trained again from its record, and set beside the curve that is on record.

Whoever asks changes nothing: no store, journal, checkpoint or run in MLflow hears of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pipeline.datasets import load_splits
from pipeline.events import EpochEnded
from pipeline.memory import keep_freed
from pipeline.progress import View
from pipeline.recorded_trial import Record
from pipeline.study.spec import require_same_data
from pipeline.trainers import Trainers
from pipeline.training.data import DeviceData
from pipeline.training.loop import NonFiniteLossError

Curve = dict[int, Mapping[str, float]]
"""Epoch, from 1 -> its metrics."""


@dataclass(frozen=True)
class Difference:
    """A metric at the epoch where it is farthest from the record; `again` is what came now."""

    metric: str
    epoch: int
    recorded: float
    again: float

    @property
    def size(self) -> float:
        """0 for the same number, bit for bit; else the distance, infinite to what is no number."""
        if self.recorded == self.again:
            return 0.0
        distance = abs(self.recorded - self.again)
        return math.inf if math.isnan(distance) else distance


@dataclass(frozen=True)
class Reproduction:
    """What came of a trial that was trained again.

    Attributes:
        differences: a row a metric, by name.
        ended: why it ended before the record does; empty where it did not.
    """

    record: Record
    again: Curve
    differences: Sequence[Difference]
    ended: str = ""

    @property
    def identical(self) -> bool:
        """Whether every epoch on record came again, bit for bit."""
        return not self.ended and not any(found.size for found in self.differences)


Told = Callable[[Record, int, Difference], None]
"""Called after each epoch: the record, the epoch, and its metric that is off by the most."""


def reproduce(record: Record, view: View, told: Told) -> Reproduction:
    """Train a trial again, for as many epochs as are on record.

    Args:
        view: is told while images are read, and what else is to be known.

    Raises:
        UserError: the images are not there, or others than the study's.
    """
    config = record.config
    splits = load_splits(config.data, config.study.seed, view.loading)
    require_same_data(record.digest, splits.digest, config.study.name)
    keep_freed()
    with _as_a_worker(record):
        device = torch.device(record.device)
        data = DeviceData.from_splits(splits, device, config.study.seed)
        again, ended = _train(record, Trainers(record.config, data, view.note), told)
    found = list(compare(record.epochs, again))
    return Reproduction(record, again, found, ended)


def compare(recorded: Iterable[EpochEnded], again: Curve) -> Iterator[Difference]:
    """The largest difference of each metric that both have, over the epochs that both have."""
    pairs = [
        Difference(metric, event.epoch, value, again[event.epoch][metric])
        for event in recorded
        if event.epoch in again
        for metric, value in event.metrics.items()
        if metric in again[event.epoch] and not is_clock(metric)
    ]
    for metric in sorted({pair.metric for pair in pairs}):
        yield max((p for p in pairs if p.metric == metric), key=lambda pair: pair.size)


def is_clock(metric: str) -> bool:
    """Whether a metric is a time or a speed, which never comes again: `epoch_sec`."""
    return metric.endswith("_sec")


class _Enough(Exception):  # noqa: N818 - not an error
    """The record goes no further."""


def _train(record: Record, trainers: Trainers, told: Told) -> tuple[Curve, str]:
    """The curve that comes now, and why it is shorter than the record, if it is."""
    again: Curve = {}

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        again[epoch] = dict(metrics)
        of_epoch = [event for event in record.epochs if event.epoch == epoch]
        for worst in sorted(compare(of_epoch, again), key=lambda pair: -pair.size)[:1]:
            told(record, epoch, worst)
        if epoch == record.num_epochs:
            raise _Enough

    config = record.config.with_overrides(record.overrides)
    try:
        trainers.make(config, record.seed).fit(report)
    except _Enough:
        return again, ""
    except NonFiniteLossError as error:
        return again, str(error)
    return again, f"it stopped early, after epoch {len(again)}"


@contextmanager
def _as_a_worker(record: Record) -> Iterator[None]:
    """With the threads, and on the device, of a worker of the study: both decide on sums."""
    before = torch.get_num_threads()
    if record.threads:
        torch.set_num_threads(record.threads)
    if record.device.startswith("cuda"):
        torch.cuda.set_device(record.device)
    try:
        yield
    finally:
        torch.set_num_threads(before)
