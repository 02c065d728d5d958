"""The samplers: which point of the space is tried next. A thin table over Optuna's own."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.settings import Settings

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class SamplerSettings(Settings, ABC):
    """What all samplers share."""

    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the sampler alone; the study's seed where it is not given."""

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """The Optuna sampler."""


class TpeSettings(SamplerSettings):
    """Tree-structured Parzen estimator (https://arxiv.org/abs/2304.11127): a good first choice."""

    kind: Literal["tpe"]
    startup_trials: Annotated[int, Field(ge=0)] = 10
    """Trials drawn at random before the model is used."""
    multivariate: bool = True
    """Model the settings jointly rather than one by one."""
    group: bool = True
    """Model each branch of a conditional space on its own; needs `multivariate`."""

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(
            n_startup_trials=self.startup_trials,
            multivariate=self.multivariate,
            group=self.group and self.multivariate,
            seed=seed,
        )


class RandomSettings(SamplerSettings):
    """Every point at random: the yardstick for all others."""

    kind: Literal["random"]

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class QmcSettings(SamplerSettings):
    """A quasi-random sequence: covers the space more evenly than chance does."""

    kind: Literal["qmc"]
    sequence: Literal["sobol", "halton"] = "sobol"
    """Which low-discrepancy sequence."""

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import QMCSampler

        from pipeline.study.trial_seeded import TrialSeededSampler

        return QMCSampler(
            qmc_type=self.sequence,
            scramble=True,
            seed=seed,
            independent_sampler=TrialSeededSampler(seed),
            warn_independent_sampling=False,
        )


class GpSettings(SamplerSettings):
    """Gaussian process with expected improvement: for few, costly trials."""

    kind: Literal["gp"]
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials drawn at random before the model is used."""

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(
            n_startup_trials=self.startup_trials, warn_independent_sampling=False, seed=seed
        )


class CmaEsSettings(SamplerSettings):
    """CMA-ES: for hundreds of trials over numbers; choices and conditions are drawn at random."""

    kind: Literal["cma_es"]
    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Trials drawn at random before the evolution starts."""

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(
            n_startup_trials=self.startup_trials, warn_independent_sampling=False, seed=seed
        )


AnySampler = Annotated[
    TpeSettings | RandomSettings | QmcSettings | GpSettings | CmaEsSettings,
    Field(discriminator="kind"),
]


def build_sampler(settings: SamplerSettings, seed: int) -> BaseSampler:
    """The Optuna sampler for these settings."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return settings.build(seed)
