"""A random sampler whose draws depend on the trial alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class TrialSeededSampler(RandomSampler):
    """Draws each value from (seed, trial number, parameter), as a sampler without memory must.

    A plain `RandomSampler` that is built anew for each trial draws the same values for all.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._seed = seed

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seeds = np.random.SeedSequence([self._seed, trial.number, *param_name.encode()])
        seed = int(seeds.generate_state(1)[0])
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)
