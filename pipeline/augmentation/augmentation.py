"""Augmentation of a batch on the device, in one pass of arithmetic without host synchronisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.augmentation import colour, erasing, flips, geometry, randaugment
from pipeline.augmentation.settings import AugmentationSettings
from pipeline.kernels.images import Changes

NUM_DRAWS = 26  # 7 for geometry, 4 for colour, 7 for rectangles, 2 for each RandAugment round


@dataclass(frozen=True)
class Structure:
    """The parts that an augmentation is able to apply: what decides its code path."""

    crop: bool
    flip: str
    affine: bool
    colour: bool
    rectangles: bool
    num_ops: int

    @classmethod
    def of(cls, settings: AugmentationSettings) -> Structure:
        """The parts that these settings need: none at strength 0."""
        on, s = settings.strength > 0, settings
        num_ops = s.randaugment_num_ops if on and s.randaugment_magnitude > 0 else 0
        return cls(
            crop=on and s.crop_padding_fraction > 0,
            flip=s.horizontal_flip if on else "none",
            affine=on and max(s.rotation_degrees, s.translation_fraction, s.scale_fraction) > 0,
            colour=on and max(s.brightness, s.contrast, s.saturation, s.hue) > 0,
            rectangles=on and max(s.cutout_fraction, s.erasing_probability) > 0,
            num_ops=num_ops,
        )

    @property
    def is_nothing(self) -> bool:
        """Whether images are left as they are."""
        return self == Structure(False, "none", False, False, False, 0)

    @property
    def moves(self) -> bool:
        """Whether pixels are moved, RandAugment's rounds aside."""
        return self.crop or self.flip != "none" or self.affine

    def widened(self, other: Structure) -> Structure:
        """This structure with the other's parts beside its own, as far as there is room."""
        return Structure(
            crop=self.crop or other.crop,
            flip=other.flip if self.flip == "none" else self.flip,
            affine=self.affine or other.affine,
            colour=self.colour or other.colour,
            rectangles=self.rectangles or other.rectangles,
            num_ops=self.num_ops or other.num_ops,
        )

    def covers(self, other: Structure) -> bool:
        """Whether a step built for this structure can also do the other's work."""
        return (
            other.flip in ("none", self.flip)
            and other.num_ops in (0, self.num_ops)
            and other.crop <= self.crop
            and other.affine <= self.affine
            and other.colour <= self.colour
            and other.rectangles <= self.rectangles
        )


class Augmentation:
    """Augments batches of training images; each image draws its own parameters.

    Order: crop and flip, rotation with zoom and translation, RandAugment's geometry (all of it one
    resampling), colour jitter, RandAugment's colours, Cutout and Random Erasing. Crop and flip
    alone are an exact gather. The draws of a part do not depend on the other parts.

    What can be searched is read from one device tensor that `update` fills in place, so a compiled
    or captured step serves every trial whose settings have the same `Structure` or less.

    Args:
        settings: what to apply.
        image_shape: (C, H, W); with C other than 3, saturation and hue do nothing.
        device: where the images are.
        dtype: of the result; the arithmetic is float32.
        memory_format: of the result.
        structure: the parts to be ready for, if more than these settings need.
    """

    def __init__(
        self,
        settings: AugmentationSettings,
        image_shape: tuple[int, int, int],
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        structure: Structure | None = None,
    ) -> None:
        self.structure = Structure.of(settings) if structure is None else structure
        self._num_channels, *size = image_shape
        self._size = (size[0], size[1])
        self._dtype, self._memory_format = dtype, memory_format
        ranges = _ranges(settings, self._size)
        self._ranges = torch.zeros(len(ranges), device=device)
        self._range = dict(zip(ranges, self._ranges.unbind(), strict=True))
        self.update(settings)

    def update(self, settings: AugmentationSettings) -> None:
        """Takes other settings, in place.

        Raises:
            ValueError: they need a part that `structure` lacks.
        """
        if not self.structure.covers(Structure.of(settings)):
            raise ValueError(f"{self.structure} does not cover {Structure.of(settings)}")
        values = list(_ranges(settings, self._size).values())
        self._ranges.copy_(torch.tensor(values))

    def __call__(
        self, images: Tensor, indices: Tensor, epoch: int | Tensor, generator: torch.Generator
    ) -> Tensor:
        """Augments one batch.

        Args:
            images: (N, C, H, W) uint8.
            indices: (N,) int64, positions in the training split, for alternating flips.
            epoch: a count of epochs, as an int or a 0-d int64 tensor.
            generator: on the device; the only source of chance.

        Returns:
            (N, C, H, W) in [0, 1]; exactly `images / 255` at strength 0.
        """
        draws = torch.rand(NUM_DRAWS, len(images), generator=generator, device=images.device)
        return self.apply(images, indices, epoch, draws)

    def apply(self, images: Tensor, indices: Tensor, epoch: int | Tensor, draws: Tensor) -> Tensor:
        """The arithmetic of a call, apart from its chance: (26, N) uniform draws in [0, 1), or
        none of them where there is nothing to do. Other arguments as in a call."""
        if self.structure.is_nothing:
            return self._finished(images.float().div_(255))
        rounds = [
            randaugment.Round.drawn(pair, self._range["randaugment"])
            for pair in draws[18:].view(-1, 2, draws.shape[1])[: self.structure.num_ops]
        ]
        result = self._move(images, indices, epoch, draws[:7], rounds)
        result = self._recolour(result, draws[7:11], rounds)
        if self.structure.rectangles:
            result = result.mul_(~self._erased(draws[11:18]))
        return self._finished(result)

    def changes(self, indices: Tensor, epoch: int | Tensor, draws: Tensor) -> Changes:
        """What `apply` would do to images, for the kernel that does the same on a CPU; arguments as
        there.

        Raises:
            ValueError: for RandAugment, which the kernel doesn't have.
        """
        structure = self.structure
        if structure.num_ops:
            raise ValueError("there is no kernel for RandAugment")
        maps = colours = grey = erased = None
        if structure.moves:
            maps = self._maps(*self._shift(indices, epoch, draws), draws[3:7])
        if structure.colour:
            colours = self._matrices(draws[7:11], torch.ones_like(draws[0]))
            grey = torch.tensor(colour.grey_weights(self._num_channels))
        if structure.rectangles:
            erased = self._erased(draws[11:18])
        return Changes(maps, colours, grey, erased)

    def _finished(self, images: Tensor) -> Tensor:
        return images.to(self._dtype).contiguous(memory_format=self._memory_format)

    def _shift(
        self, indices: Tensor, epoch: int | Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How far down and right each window is moved, in pixels, and whether it is mirrored."""
        dy = _whole(draws[0], self._range["shift_y"])
        dx = _whole(draws[1], self._range["shift_x"])
        if self.structure.flip == "alternating":
            return dy, dx, flips.alternating(indices, epoch, self._range["flip"])
        return dy, dx, draws[2] < self._range["flip"] / 2

    def _maps(self, dy: Tensor, dx: Tensor, flip: Tensor, draws: Tensor) -> Tensor:
        maps = geometry.shift_and_flip_map(dy, dx, flip)
        if not self.structure.affine:
            return maps
        return geometry.compose(maps, self._affine_map(draws))

    def _move(
        self,
        images: Tensor,
        indices: Tensor,
        epoch: int | Tensor,
        draws: Tensor,
        rounds: list[randaugment.Round],
    ) -> Tensor:
        """uint8 images, (7, N) draws -> float32 images in [0, 1], cropped, flipped and mapped."""
        shift = self._shift(indices, epoch, draws)
        if not (self.structure.affine or rounds):
            if self.structure.moves:
                images = geometry.shift_and_flip(images, *shift)
            return images.float().div_(255)
        maps = self._maps(*shift, draws[3:])
        for choice in rounds:
            maps = geometry.compose(maps, randaugment.affine_map(choice, self._size))
        # Bilinear weights may add up to a rounding error more than 1 on some devices.
        return geometry.resample(images.float().div_(255), maps).clamp_(0, 1)

    def _affine_map(self, draws: Tensor) -> Tensor:
        return geometry.affine_map(
            angle=_centred(draws[0], self._range["angle"]),
            translate_x=_centred(draws[1], self._range["translate_x"]),
            translate_y=_centred(draws[2], self._range["translate_y"]),
            scale=1 + _centred(draws[3], self._range["zoom"]),
        )

    def _recolour(self, images: Tensor, draws: Tensor, rounds: list[randaugment.Round]) -> Tensor:
        if self.structure.colour:
            matrices = self._matrices(draws, colour.grey_mean(images))
            images = colour.apply(images, matrices).clamp_(0, 1)
        for choice in rounds:
            images = randaugment.recolour(images, choice)
        return images

    def _matrices(self, draws: Tensor, grey_mean: Tensor) -> Tensor:
        return colour.matrix(
            brightness=1 + _centred(draws[0], self._range["brightness"]),
            contrast=1 + _centred(draws[1], self._range["contrast"]),
            saturation=1 + _centred(draws[2], self._range["saturation"]),
            hue=_centred(draws[3], self._range["hue"]),
            mean=grey_mean,
            num_channels=self._num_channels,
        )

    def _erased(self, draws: Tensor) -> Tensor:
        """True where an image is blanked, (N, 1, H, W)."""
        cutout = erasing.cutout_mask(draws[:2], self._range["cutout"], self._size)
        return cutout | erasing.random_erasing_mask(draws[2:], self._range["erasing"], self._size)


def _ranges(settings: AugmentationSettings, size: tuple[int, int]) -> dict[str, float]:
    """How far each part may go at this strength: in pixels, radians, factors, probabilities."""
    s, (height, width) = settings, size
    full = {
        "flip": float(s.horizontal_flip != "none"),
        "angle": math.radians(s.rotation_degrees),
        "translate_x": s.translation_fraction * width,
        "translate_y": s.translation_fraction * height,
        "zoom": s.scale_fraction,
        "brightness": s.brightness,
        "contrast": s.contrast,
        "saturation": s.saturation,
        "hue": s.hue,
        "erasing": s.erasing_probability,
        "randaugment": s.randaugment_magnitude / 30 * (s.randaugment_num_ops > 0),
    }
    pixels = {
        "shift_y": s.crop_padding_fraction * height,
        "shift_x": s.crop_padding_fraction * width,
        "cutout": s.cutout_fraction * min(height, width),
    }
    scaled = {name: s.strength * value for name, value in full.items()}
    return scaled | {name: round(s.strength * value) for name, value in pixels.items()}


def _centred(draws: Tensor, reach: Tensor) -> Tensor:
    """Uniform in [-reach, reach) from uniform draws in [0, 1)."""
    return (2 * draws - 1) * reach


def _whole(draws: Tensor, reach: Tensor) -> Tensor:
    """Whole numbers from -reach to reach, equally likely, from uniform draws in [0, 1)."""
    return (draws * (2 * reach + 1)).floor().long() - reach.long()
