"""The `lr_schedule:` section: one schedule a file, and one line in the union below.

The learning rate of update t is `training.optimizer.learning_rate` times the multiplier of t.
"""

from typing import Annotated

from pydantic import Field

from pipeline.lr_schedules.base import Schedule
from pipeline.lr_schedules.constant import ConstantSettings
from pipeline.lr_schedules.cosine import CosineSettings
from pipeline.lr_schedules.multi_step import MultiStepSettings
from pipeline.lr_schedules.one_cycle import OneCycleSettings
from pipeline.lr_schedules.plateau import PlateauSettings
from pipeline.lr_schedules.step import StepSettings

LrScheduleUnion = Annotated[
    ConstantSettings
    | StepSettings
    | MultiStepSettings
    | CosineSettings
    | OneCycleSettings
    | PlateauSettings,
    Field(discriminator="kind"),
]


def build_schedule(settings: LrScheduleUnion, num_epochs: int, steps_per_epoch: int) -> Schedule:
    """The schedule of one training; both lengths are at least 1."""
    return settings.build(num_epochs, steps_per_epoch)


__all__ = ["LrScheduleUnion", "Schedule", "build_schedule"]
