"""The trainings of a study's trials, as they are before their first epoch."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.calibration import as_trained, calibrate_gpu
from pipeline.config import RunConfig
from pipeline.journal import journal_folder
from pipeline.models import build_model
from pipeline.seeding import TrialSeeds
from pipeline.study.ledger import Ledger
from pipeline.study.storage import file_lock
from pipeline.training.data import DeviceData
from pipeline.training.engine import Engine, Note, Steps, resolve_engine
from pipeline.training.loop import Trainer
from pipeline.training.precision import resolve_precision
from pipeline.training.structure import Structure


class Trainers:
    """Makes the trainings of one study on one device; those of a structure share their step.

    Args:
        config: the study's settings, as all trials share them, with the precision and the engine
            that were measured.
        data: the images, on the device.
        note: takes a line for the people who watch.
    """

    def __init__(self, config: RunConfig, data: DeviceData, note: Note = lambda _: None) -> None:
        self.config, self.data = config, data
        engine = resolve_engine(config.training.engine, data.mean.device)
        self.steps = Steps(data, engine, note)
        # Every trial's step has what any of the study's may need, so that they share it, and so
        # that which step a trial has follows from the study and not from the trials before it.
        self.needs = (Structure.of(config), Structure.of(config.strongest()))

    def make(self, config: RunConfig, seed: int | str, last_epoch: int | None = None) -> Trainer:
        """The training of a trial, from its start.

        Args:
            config: the trial's settings.
            seed: names its streams of chance (`Claim.seed`).
            last_epoch: end after this one, on the schedule of all epochs.
        """
        seeds = TrialSeeds.of(self.config.study.seed, seed)
        model = build_seeded(config, self.data, seeds.init)
        structure = Structure.of(config).widened(self.needs)
        shared = self.steps.get(config.model, model, config, structure)
        metric = config.study.metric
        return Trainer(model, self.data, config, metric, seeds, shared, last_epoch)


def calibrated_trainers(
    config: RunConfig, data: DeviceData, ledger: Ledger, num_devices: int, note: Note
) -> Trainers:
    """A GPU's, by the engine and the precision that the study has, or that are measured now.

    They are measured here, in a process that trains: a step that was compiled to be timed need not
    be compiled again, which takes the better part of a minute. Other workers wait for it meanwhile,
    since two that are timed side by side slow each other.

    Args:
        config: how it is trained: the study's settings, or those of a follow-up.
        ledger: the study's own, also where a follow-up is trained.
        num_devices: on how many GPUs the study is shared out.
    """
    compiled: list[Steps] = []

    def make(engine: Engine) -> Trainer:
        asked = ledger.config.with_overrides({"training.engine": engine})
        trainers = Trainers(asked, data, note)
        if engine == "compiled":
            note("the training step is compiled, and timed: that may take a minute")
            compiled.append(trainers.steps)
        return trainers.make(asked, seed=0)

    def measure() -> dict[str, int | str]:
        dtype = resolve_precision(ledger.config.training.precision, data.mean.device)
        return calibrate_gpu(make, ledger.config, len(data.train) / num_devices, dtype).to_dict()

    lock = journal_folder(ledger.uuid) / "calibration.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(lock):
        trained = as_trained(config, ledger.fixed("gpu_calibration", measure))
    trainers = Trainers(trained, data, note)
    for steps in compiled:
        if steps.engine == trainers.steps.engine == "compiled":
            trainers.steps = steps
        else:
            steps.let_go()
    return trainers


def build_seeded(config: RunConfig, data: DeviceData, seed: int | None = None) -> nn.Module:
    """The network of these settings for this data, initialised from `seed`."""
    if seed is not None:
        torch.manual_seed(seed)
    return build_model(config.model, config.regularization, data.image_shape, data.num_classes)
