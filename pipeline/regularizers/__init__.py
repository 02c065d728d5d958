"""The `regularization:` section: every idea is one file, and one base class here.

All of them are off by default. Importing this package imports no torch, so that a space file is
checked at once; a file that needs torch imports it where it is used, and layers live in `masks`.
"""

from pipeline.regularizers.dropout import DropoutSettings
from pipeline.regularizers.label_smoothing import LabelSmoothingSettings
from pipeline.regularizers.mixing import MixingSettings
from pipeline.regularizers.stochastic_depth import StochasticDepthSettings
from pipeline.regularizers.weight_averaging import WeightAveragingSettings
from pipeline.regularizers.weight_penalty import WeightPenaltySettings


class RegularizationSettings(
    DropoutSettings,
    StochasticDepthSettings,
    WeightPenaltySettings,
    LabelSmoothingSettings,
    MixingSettings,
    WeightAveragingSettings,
):
    """What holds the net back from learning its training images by heart."""


__all__ = ["RegularizationSettings"]
