"""The trainings of a study's trials, as they are before their first epoch."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.config import RunConfig
from pipeline.models import build_model
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData
from pipeline.training.engine import Note, Steps, resolve_engine
from pipeline.training.loop import Trainer
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

    def make(self, config: RunConfig, seed: int | str) -> Trainer:
        """The training of a trial, from its start.

        Args:
            config: the trial's settings.
            seed: names its streams of chance (`Claim.seed`).
        """
        seeds = TrialSeeds.of(self.config.study.seed, seed)
        model = build_seeded(config, self.data, seeds.init)
        structure = Structure.of(config).widened(self.needs)
        shared = self.steps.get(config.model, model, config, structure)
        return Trainer(model, self.data, config, config.study.metric, seeds, shared)


def build_seeded(config: RunConfig, data: DeviceData, seed: int | None = None) -> nn.Module:
    """The network of these settings for this data, initialised from `seed`."""
    if seed is not None:
        torch.manual_seed(seed)
    return build_model(config.model, config.regularization, data.image_shape, data.num_classes)
