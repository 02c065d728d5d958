"""The pruners: which trials are stopped early. A thin table over Optuna's own.

They are asked once an epoch, with epochs counted from 1.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.settings import Settings

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class PrunerSettings(Settings, ABC):
    """What all pruners share."""

    marks_trials: ClassVar[bool] = False
    """Whether Optuna's pruner keeps notes with the trial, which it reads at the next epoch."""

    @abstractmethod
    def build(self, num_epochs: int) -> BasePruner:
        """The Optuna pruner for trials of `num_epochs`."""


class NoneSettings(PrunerSettings):
    """Every trial runs to its end."""

    kind: Literal["none"]

    def build(self, num_epochs: int) -> BasePruner:  # noqa: ARG002 - the table's signature
        from optuna.pruners import NopPruner

        return NopPruner()


class _RankSettings(PrunerSettings):
    """Pruners that compare a trial with the earlier ones at the same epoch."""

    startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that must have run to their end before any is pruned."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs in which no trial is pruned: regularized ones start slowly."""
    interval_epochs: Annotated[int, Field(ge=1)] = 1
    """Ask only every so many epochs."""

    def _percentile(self, percentile: float) -> BasePruner:
        from optuna.pruners import PercentilePruner

        return PercentilePruner(
            percentile,
            n_startup_trials=self.startup_trials,
            n_warmup_steps=self.warmup_epochs + 1,  # Optuna's steps start at 0
            interval_steps=self.interval_epochs,
        )


class MedianSettings(_RankSettings):
    """Stops a trial whose best value so far is worse than the median of the earlier trials."""

    kind: Literal["median"]

    def build(self, num_epochs: int) -> BasePruner:  # noqa: ARG002
        return self._percentile(50.0)


class PercentileSettings(_RankSettings):
    """Keeps the best so many per cent at each epoch."""

    kind: Literal["percentile"]
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """The per cent of trials that are kept."""

    def build(self, num_epochs: int) -> BasePruner:  # noqa: ARG002
        return self._percentile(self.percentile)


class PatientSettings(_RankSettings):
    """The median rule, but only for a trial that is getting worse."""

    kind: Literal["patient"]
    patience_epochs: Annotated[int, Field(ge=0)] = 3
    """It is when its last `patience_epochs` + 1 epochs all fall short of its best before."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By more than how much they fall short, in the metric's unit."""

    def build(self, num_epochs: int) -> BasePruner:  # noqa: ARG002
        from optuna.pruners import PatientPruner

        return PatientPruner(self._percentile(50.0), self.patience_epochs, self.min_delta)


class HyperbandSettings(PrunerSettings):
    """Hyperband (https://arxiv.org/abs/1603.06560): several successive halvings side by side."""

    marks_trials: ClassVar[bool] = True

    kind: Literal["hyperband"]
    min_epochs: Annotated[int, Field(ge=1)] = 1
    """The fewest epochs a trial gets."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One in so many trials goes on at each rung."""

    def build(self, num_epochs: int) -> BasePruner:
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(self.min_epochs, num_epochs, self.reduction_factor)


class SuccessiveHalvingSettings(PrunerSettings):
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934)."""

    marks_trials: ClassVar[bool] = True

    kind: Literal["successive_halving"]
    min_epochs: Annotated[int, Field(ge=1)] = 1
    """The fewest epochs a trial gets."""
    reduction_factor: Annotated[int, Field(ge=2)] = 4
    """One in so many trials goes on at each rung."""

    def build(self, num_epochs: int) -> BasePruner:  # noqa: ARG002
        from optuna.pruners import SuccessiveHalvingPruner

        return SuccessiveHalvingPruner(self.min_epochs, self.reduction_factor)


class ThresholdSettings(PrunerSettings):
    """Stops a trial whose metric leaves a band."""

    kind: Literal["threshold"]
    lower: float | None = None
    """Stop below this."""
    upper: float | None = None
    """Stop above this."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs in which no trial is pruned."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> ThresholdSettings:
        if self.lower is None and self.upper is None:
            raise ValueError("it has no bound; lower, upper or both should be given")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(
                f"lower is {self.lower:g} and upper is {self.upper:g}; "
                "lower should be less than upper"
            )
        return self

    def allows(self, value: float) -> bool:
        """Whether a value lies in the band."""
        too_low = self.lower is not None and value < self.lower
        return not too_low and (self.upper is None or value <= self.upper)

    def build(self, num_epochs: int) -> BasePruner:  # noqa: ARG002
        from optuna.pruners import ThresholdPruner

        return ThresholdPruner(self.lower, self.upper, self.warmup_epochs + 1)


AnyPruner = Annotated[
    NoneSettings
    | MedianSettings
    | PercentileSettings
    | PatientSettings
    | HyperbandSettings
    | SuccessiveHalvingSettings
    | ThresholdSettings,
    Field(discriminator="kind"),
]


def build_pruner(settings: PrunerSettings, num_epochs: int) -> BasePruner:
    """The Optuna pruner for these settings and trials of `num_epochs`."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return settings.build(num_epochs)
