"""How a network is trained: everything of a space file that a trial's training depends on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.augmentation import AugmentationSettings
from pipeline.lr_schedules import LrScheduleUnion
from pipeline.lr_schedules.cosine import CosineSettings
from pipeline.optimizers import AdamwSettings, OptimizerUnion
from pipeline.regularizers import RegularizationSettings
from pipeline.settings import Settings
from pipeline.training.early_stopping import EarlyStoppingSettings


class TrainingSettings(Settings):
    """`training:` - how long, in which batches, with which optimizer."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 25
    """Passes over the training images, at most."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images in a step, which batch norm and mixing relate to one another. An incomplete last batch
    of an epoch is left out."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward and backward pass; `auto` takes bfloat16 where it is native."""
    engine: Literal["auto", "eager", "fused", "captured", "compiled"] = "auto"
    """How an update runs: op by op, with fused layers and augmentation (CPU), captured as a CUDA
    graph, or compiled by torch.compile (and captured too, on a GPU). `auto` on a CPU is fused where
    there is a C++ compiler, unless op by op was measured to be faster by a quarter; on a GPU it is
    captured, and compiled where the study is long enough for the measured gain to pay."""
    gradient_clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Scale gradients down to this global norm; 0 leaves them as they are."""
    optimizer: OptimizerUnion = AdamwSettings()
    """The optimizer and its learning rate."""
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    """When to stop before the last epoch."""


class Recipe(Settings):
    """The four sections of a space file that say how to train."""

    training: TrainingSettings = TrainingSettings()
    """Epochs, batches, optimizer, early stopping."""
    lr_schedule: LrScheduleUnion = CosineSettings()
    """How the learning rate changes."""
    regularization: RegularizationSettings = RegularizationSettings()
    """Dropout, penalties, label smoothing, mixing, averaging: all off unless given."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """Random changes to training images: off unless `strength` is given."""
