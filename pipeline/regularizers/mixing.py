"""MixUp and CutMix: each image is mixed with another of its batch, by `mixer.Mixing`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Off, Settings


class MixingSettings(Settings):
    """Mixing of training images; with both on, each batch draws one of the two."""

    mixup_alpha: Annotated[float, Field(ge=0), Off(0.0)] = 0.0
    """MixUp blends two images: the weight is drawn from Beta(alpha, alpha); 0 is off."""

    cutmix_alpha: Annotated[float, Field(ge=0), Off(0.0)] = 0.0
    """CutMix pastes a box of another image: its area is from Beta(alpha, alpha); 0 is off."""
