"""The `augmentation:` section: what may happen to a training image, and how strongly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Off, Settings


class AugmentationSettings(Settings):
    """What may happen to a training image; each image draws its own parameters.

    `strength` scales every part at once, so a search can treat augmentation as one number; each
    part can be searched as well. The parts are applied in the order of the fields, except that
    RandAugment comes before cutout and erasing.
    """

    strength: Annotated[float, Field(ge=0, le=1), Off(0.0)] = 0.0
    """Scale of every part below, from 0 (images are left exactly as they are) to 1."""

    crop_padding_fraction: Annotated[float, Field(ge=0, le=0.5), Off(0.0)] = 0.125
    """Zero padding before a random crop, as a fraction of the side (0.125 is 4 px of 32)."""

    horizontal_flip: Annotated[Literal["none", "random", "alternating"], Off("none")] = "random"
    """Mirroring: `random` half of the time, or `alternating` every other epoch for each image."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180), Off(0.0)] = 15.0
    """Largest rotation about the centre, in degrees, either way."""

    translation_fraction: Annotated[float, Field(ge=0, le=0.5), Off(0.0)] = 0.0
    """Largest sub-pixel translation along each axis, as a fraction of that side."""

    scale_fraction: Annotated[float, Field(ge=0, le=0.9), Off(0.0)] = 0.0
    """Zoom s: the factor is drawn from [1 - s, 1 + s]."""

    brightness: Annotated[float, Field(ge=0, le=1), Off(0.0)] = 0.2
    """Brightness jitter x: the factor is drawn from [1 - x, 1 + x]."""

    contrast: Annotated[float, Field(ge=0, le=1), Off(0.0)] = 0.2
    """Contrast jitter x: the factor is drawn from [1 - x, 1 + x]."""

    saturation: Annotated[float, Field(ge=0, le=1), Off(0.0)] = 0.2
    """Saturation jitter x: the factor is drawn from [1 - x, 1 + x]; nothing on greyscale images."""

    hue: Annotated[float, Field(ge=0, le=0.5), Off(0.0)] = 0.0
    """Largest rotation of RGB about the grey axis, in turns; nothing on greyscale images."""

    cutout_fraction: Annotated[float, Field(ge=0, le=1), Off(0.0)] = 0.0
    """Side of the black square of Cutout, as a fraction of the image's shorter side."""

    erasing_probability: Annotated[float, Field(ge=0, le=1), Off(0.0)] = 0.0
    """Probability of Random Erasing: a black rectangle over 2-33 % of the area."""

    randaugment_num_ops: Annotated[int, Field(ge=0, le=4), Off(0)] = 0
    """RandAugment operations applied to each image, one after another."""

    randaugment_magnitude: Annotated[float, Field(ge=0, le=30), Off(0.0)] = 9.0
    """Magnitude of the RandAugment operations, on the usual scale of 0 to 30."""

    def silent_parts(self) -> list[str]:
        """The parts that were set explicitly, and do nothing because `strength` is 0."""
        if self.strength > 0:
            return []
        return [
            name
            for name, field in type(self).model_fields.items()
            if name != "strength" and name in self.model_fields_set
            if not any(
                isinstance(m, Off) and m.value == getattr(self, name) for m in field.metadata
            )
        ]
