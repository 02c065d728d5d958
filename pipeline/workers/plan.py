"""How many workers, on which devices, with how many threads each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.calibration import Calibration, Precision, as_trained, calibrate, cpu_engines
from pipeline.config import RunConfig
from pipeline.datasets import Splits
from pipeline.errors import UserError
from pipeline.kernels.library import missing, must_be_built
from pipeline.progress import View
from pipeline.study.ledger import Ledger
from pipeline.trainers import Trainers
from pipeline.training.data import DeviceData
from pipeline.training.engine import Engine
from pipeline.training.loop import Trainer

MAX_AUTO_WORKERS = 8


@dataclass(frozen=True)
class Plan:
    """Who trains how.

    Attributes:
        config: the study's settings, with the precision and the engine by which trials are trained,
            as far as they are known here.
        devices: a device for each worker.
        threads: torch's threads in each worker; 0 leaves torch's choice.
        splits_file: where the splits are kept (`Splits.file`); None where they aren't.
    """

    config: RunConfig
    devices: tuple[str, ...]
    threads: int
    splits_file: Path | None = None

    @property
    def num_devices(self) -> int:
        """How many there are, however many workers each has."""
        return len(set(self.devices))


def resolve_devices(device: str) -> tuple[str, ...]:
    """`auto`, `cpu`, `cuda` or `cuda:i` as the devices that are there; `auto` takes every GPU.

    Raises:
        UserError: for another word, or a GPU that this machine doesn't have.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = tuple(f"cuda:{i}" for i in range(available))
    if device in ("auto", "cuda") and gpus:
        return gpus if device == "auto" else gpus[:1]
    if device in ("auto", "cpu"):
        return ("cpu",)
    if device not in gpus:
        names = ", ".join(["auto", "cpu", *(["cuda"] if gpus else []), *gpus])
        raise UserError(
            f"there is no device {device!r} on this machine",
            where="--device",
            rule=f"one of {names}",
            cure="leave the option out to use the best there is",
        )
    return (device,)


def device_name(device: str) -> str:
    """What results are said to be from: a GPU's product name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def make_plan(
    config: RunConfig,
    splits: Splits,
    ledger: Ledger,
    devices: tuple[str, ...],
    num_workers: int | None,
    view: View,
) -> Plan:
    """One worker a GPU; on the CPU as many as its cores hold, with threads that were measured once.

    A study keeps its threads, its precision and its engine, since they decide how sums come out: a
    later run with more workers has no fewer threads in each. On a GPU its first worker measures
    them (see `calibrated_trainers`).
    """
    device = torch.device(devices[0])
    if device.type == "cuda":
        count = len(devices) if num_workers is None else num_workers
        chosen = tuple(devices[i % len(devices)] for i in range(count))
        return Plan(config, chosen, threads=0, splits_file=splits.file)

    def measure() -> dict[str, int | str]:
        data = DeviceData.from_splits(splits, device, config.study.seed)

        def trainer(precision: Precision, engine: Engine) -> Trainer:
            changes = {"training.precision": precision, "training.engine": engine}
            how = config.with_overrides(changes)
            return Trainers(how, data).make(how, seed=0)

        with view.doing("measuring what trains fastest on this machine"):
            engines = cpu_engines(config.training.engine)
            return calibrate(trainer, num_workers, engines).to_dict()

    if must_be_built():
        with view.doing("building kernels for this processor, once"):
            missing()
    cores = torch.get_num_threads()
    measured = ledger.fixed("calibration", measure)
    calibration = Calibration(**measured)
    fitting = min(max(1, _num_cores(cores) // calibration.threads), MAX_AUTO_WORKERS)
    count = min(fitting, config.study.trials) if num_workers is None else num_workers
    trained = as_trained(config, measured)
    return Plan(trained, ("cpu",) * count, calibration.threads, splits.file)


def _num_cores(threads: int) -> int:
    """The cores that this process may use; torch's own count follows `OMP_NUM_THREADS`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(threads, usable or 1)
