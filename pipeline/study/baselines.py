"""What every study tries first: no regularization at all, and the file's own settings."""

from __future__ import annotations

from typing import Literal

from pipeline.config.run_config import RunConfig, off_values
from pipeline.config.search_space import same
from pipeline.settings import Scalar

Baseline = Literal["unregularized", "recipe"]
BASELINES: tuple[Baseline, ...] = ("unregularized", "recipe")

STRENGTH = "augmentation.strength"


def baselines(config: RunConfig) -> dict[Baseline, dict[str, Scalar]]:
    """Each baseline's changes to the file's settings.

    *Unregularized* switches off every setting with an `Off` mark (early stopping, gradient clipping
    and norm layers stay: they belong to how the net is trained). A strength of 0 takes all parts of
    the augmentation with it. Where the file's own settings don't regularize, the two are one.
    """
    values = config.values()
    off = {
        path: value
        for path, value in off_values().items()
        if not same(values.get(path), value)
        and (path == STRENGTH or not path.startswith("augmentation."))
    }
    return {"unregularized": off, "recipe": {}} if off else {"unregularized": {}}
