"""The `model:` section: one architecture a file, and one line in the union below.

Importing this package imports no torch, so that a space file is checked at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Tag

from pipeline.errors import UserError
from pipeline.models.base import ImageShape, ModelSettings
from pipeline.models.resnet import ResnetSettings
from pipeline.models.torchvision_models import PREFIX, TorchvisionSettings
from pipeline.models.vgg import VggSettings

if TYPE_CHECKING:
    from torch import nn

    from pipeline.regularizers import RegularizationSettings

MIN_SIDE = 8


def _kind(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    if kind is None:
        return None
    return "torchvision/<name>" if str(kind).startswith(PREFIX) else str(kind)


ModelSettingsUnion = Annotated[
    Annotated[VggSettings, Tag("vgg")]
    | Annotated[ResnetSettings, Tag("resnet")]
    | Annotated[TorchvisionSettings, Tag("torchvision/<name>")],
    Discriminator(_kind),
]


def build_model(
    settings: ModelSettings,
    regularization: RegularizationSettings,
    image_shape: ImageShape,
    num_classes: int,
) -> nn.Module:
    """A net in train mode, with initial weights from torch's global generator.

    It maps normalized images, (N, *image_shape) float, to logits, (N, num_classes). Its masks
    have their rates from `regularization`; `masks.set_rates` gives them those of another trial.

    Raises:
        UserError: the images are too small, or have another number of channels than 1 or 3.
    """
    from pipeline.regularizers.masks import set_rates

    num_channels, height, width = image_shape
    if num_channels not in (1, 3) or min(height, width) < MIN_SIDE:
        raise UserError(
            f"the images are {num_channels}x{height}x{width} (channels, height, width)",
            where="data",
            rule=f"1 or 3 channels, at least {MIN_SIDE} pixels high and wide",
            cure="convert or enlarge the images",
        )
    model = settings.build(image_shape, num_classes)
    set_rates(model, regularization)
    return model


__all__ = ["ImageShape", "ModelSettings", "ModelSettingsUnion", "build_model"]
