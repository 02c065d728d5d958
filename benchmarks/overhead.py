"""What a study costs beside training: milliseconds a trial and an epoch, and the store's growth.

The workers are real ones, with a real store, journal and weights, whose training is left out: it
reports its epochs at once. So whatever time passes is overhead.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.filling import fill
from benchmarks.results import publish
from pipeline.config import RunConfig

if TYPE_CHECKING:
    from pipeline.study.ledger import Ledger

NOTES = """\
Time that is not training. Above: workers whose training reports its epochs at once, side by side on
one SQLite store, for `vgg` width {width} on {images} random images of 32x32: a trial is claimed,
sampled, its net built, its step filled, and it is settled and its weights are kept where they are
among the best; an epoch is written to the journal and reported to the store, and the pruner is
asked. Milliseconds of a worker's time, median of {trials} trials; with more workers than cores they
wait for each other. The share is of an epoch of 0.25 s.
Below: sampling (TPE on 10 dimensions with a condition) and all of the store's work for a trial of 5
epochs, in a study that has so many finished trials of 25 epochs; median of {repeats}."""

WORKERS = (1, 4, 8)
FINISHED = (100, 1_000, 10_000)
EPOCHS = (1, 11)
WIDTH, IMAGES, REPEATS = 64, 2_560, 7
START_SEC = 120.0

SPACE = """
study: {{name: overhead, trials: {trials}, metric: validation/accuracy}}
data: {{kind: digits}}
model: {{kind: vgg, width: {width}}}
training: {{epochs: {epochs}, batch_size: 512, precision: float32, engine: eager}}
search:
  regularization.dropout:          {{type: float, low: 0.0, high: 0.7}}
  regularization.spatial_dropout:  {{type: float, low: 0.0, high: 0.3}}
  regularization.label_smoothing:  {{type: float, low: 0.0, high: 0.2}}
  regularization.mixup_alpha:      {{type: float, low: 0.0, high: 0.4}}
  regularization.ema_decay:        {{type: categorical, choices: [0.0, 0.99, 0.999]}}
  training.optimizer.weight_decay: {{type: float, low: 1.0e-5, high: 1.0, log: true}}
  augmentation.strength:           {{type: float, low: 0.0, high: 1.0}}
  augmentation.cutout_fraction:    {{type: float, low: 0.0, high: 0.5}}
  lr_schedule.kind: {{type: categorical, choices: [cosine, step, one_cycle, plateau]}}
  lr_schedule.gamma:
    {{type: float, low: 0.05, high: 0.5, when: {{lr_schedule.kind: [step, plateau]}}}}
"""


def run(quick: bool, out: Path | None) -> None:
    """Measure both, and publish them in one table each."""
    trials, sizes = (8, FINISHED[:2]) if quick else (24, FINISHED)
    rows = [side_by_side_row(workers, trials) for workers in WORKERS[: 2 if quick else None]]
    rows += [_grown(size) for size in sizes]
    notes = NOTES.format(width=WIDTH, images=IMAGES, trials=trials, repeats=REPEATS)
    publish("Time that is not training", notes, rows, out)


def side_by_side_row(num_workers: int, trials_each: int) -> dict[str, Any]:
    """Milliseconds a trial and an epoch of so many workers."""
    seconds = {epochs: _trial_sec(num_workers, trials_each, epochs) for epochs in EPOCHS}
    few, many = EPOCHS
    an_epoch = (seconds[many] - seconds[few]) / (many - few)
    a_trial = seconds[few] - few * an_epoch
    row = {
        "": f"{num_workers} worker{'s' if num_workers > 1 else ''}",
        "ms a trial": f"{1000 * a_trial:.1f}",
        "ms an epoch": f"{1000 * an_epoch:.1f}",
        "of an epoch of 0.25 s": f"{an_epoch / 0.25:.1%}",
        "sampler, ms": "",
        "store, ms": "",
    }
    print(row, flush=True)
    return row


def _trial_sec(num_workers: int, trials_each: int, epochs: int) -> float:
    """The median time of a trial."""
    with TemporaryDirectory(prefix="overhead-") as place:
        space = SPACE.format(trials=num_workers * trials_each, width=WIDTH, epochs=epochs)
        Path(place, "space.yaml").write_text(space, encoding="utf-8")
        spawn = multiprocessing.get_context("spawn")
        ready, done = spawn.Barrier(num_workers + 1), spawn.Queue()
        workers = [
            spawn.Process(target=_work, args=(place, ready, done)) for _ in range(num_workers)
        ]
        for worker in workers:
            worker.start()
        ready.wait(START_SEC)
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("a worker has failed; it has told why on stderr")
        times = [done.get() for _ in range(num_workers)]
        return float(median(second for each in times for second in each))


def _work(place: str, ready: Any, done: Any) -> None:
    """A worker's life without training."""
    import numpy as np
    import torch

    from pipeline.checkpoints import CheckpointStore
    from pipeline.datasets import ImageSet, Splits
    from pipeline.journal import JournalWriter, journal_folder
    from pipeline.study.ledger import Ledger
    from pipeline.study.storage import open_storage
    from pipeline.trainers import Trainers
    from pipeline.training.data import DeviceData
    from pipeline.training.loop import FitResult, Trainer
    from pipeline.trial import TrialRunner
    from pipeline.weights import WeightStore

    os.chdir(place)
    torch.set_num_threads(1)
    config = _config(Path("space.yaml"))
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    part = ImageSet(images, np.arange(IMAGES) % 10)
    half = np.full((2, 3), 0.5, np.float32)
    splits = Splits(part, part, part, tuple("0123456789"), "0" * 16, "random", *half)

    def fit(
        trainer: Trainer, report: Callable[[int, Mapping[str, float]], None], *_: object
    ) -> FitResult:
        epochs = trainer.recipe.training.epochs
        accuracy = float(torch.rand(()))
        metrics = {
            "validation/accuracy": accuracy,
            "train/clean_accuracy": accuracy,
            "validation/loss": 1.0,
        }
        for epoch in range(1, epochs + 1):
            report(epoch, metrics)
        return FitResult(epochs, metrics, epochs, epochs)

    Trainer.fit = fit  # type: ignore[method-assign, assignment]
    ledger = Ledger(config, open_storage("sqlite:///overhead.db"))
    data = DeviceData.from_splits(splits, torch.device("cpu"), 0)
    journal = JournalWriter(journal_folder(ledger.uuid))
    stores = (CheckpointStore(ledger.uuid), WeightStore(ledger.uuid))
    runner = TrialRunner(Trainers(config, data), ledger, journal, *stores, worker="worker")
    times: list[float] = []
    ready.wait(START_SEC)
    started = time.perf_counter()
    while (claim := ledger.claim()) is not None:
        verdict = runner.run(claim)
        if verdict.state == "FAIL":  # it would be made up for by another, for ever
            raise RuntimeError(verdict.reason)
        ended = time.perf_counter()
        times.append(ended - started)
        started = ended
    done.put(times[1:])  # the first one builds the step


def _grown(size: int) -> dict[str, Any]:
    """A trial's sampling, and the rest of the store's work, beside so many finished ones."""
    from pipeline.study.ledger import Ledger
    from pipeline.study.storage import open_storage

    with TemporaryDirectory(prefix="overhead-") as place:
        path = Path(place, "space.yaml")
        path.write_text(SPACE.format(trials=10 * size, width=WIDTH, epochs=25), encoding="utf-8")
        config = _config(path)
        storage = open_storage(f"sqlite:///{place}/overhead.db")
        ledger = Ledger(config, storage)
        fill(ledger, size, num_epochs=25)
        ledger = Ledger(config, storage)
        for _ in range(2):  # the baselines, which are not sampled; the first reads all trials
            claim = ledger.claim()
            assert claim is not None, "the study is over"
            ledger.complete(claim, 0.5)
        timed = [_one_trial(ledger) for _ in range(REPEATS)]
        storage.close()
    sampling, store = (median(values) for values in zip(*timed, strict=True))
    row = {
        "": f"{size:,} finished trials",
        "ms a trial": f"{1000 * (sampling + store):.0f}",
        "ms an epoch": "",
        "of an epoch of 0.25 s": "",
        "sampler, ms": f"{1000 * sampling:.0f}",
        "store, ms": f"{1000 * store:.0f}",
    }
    print(row, flush=True)
    return row


def _one_trial(ledger: Ledger) -> tuple[float, float]:
    """Seconds of sampling and of the rest, for what a worker asks of the ledger."""
    sampling = 0.0
    sample = ledger.space.sample

    def timed(trial: Any) -> Any:
        nonlocal sampling
        started = time.perf_counter()
        drawn = sample(trial)
        sampling += time.perf_counter() - started
        return drawn

    started = time.perf_counter()
    ledger.failures_in_a_row()
    object.__setattr__(ledger.space, "sample", timed)
    claim = ledger.claim()
    object.__delattr__(ledger.space, "sample")
    assert claim is not None, "the study is over"
    for epoch in range(1, 6):
        ledger.report(claim, epoch, 0.5)
    ledger.keeps_weights(claim, 0.5)
    ledger.complete(claim, 0.5)
    ledger.is_over()
    return sampling, time.perf_counter() - started - sampling


def _config(path: Path) -> RunConfig:
    from pipeline.config.space_file import load_space

    return load_space(path, []).config
