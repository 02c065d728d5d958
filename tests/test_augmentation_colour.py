"""Colour and RandAugment's operations at fixed parameters, against torchvision's functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from pipeline.augmentation import colour, geometry, randaugment

# torchvision's grey weights, 0.2989 + 0.587 + 0.114, add up to 0.9999.
TOLERANCE = {"atol": 3e-4, "rtol": 0.0}
BILINEAR = InterpolationMode.BILINEAR


def recoloured(
    images: Tensor,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> Tensor:
    factors = (torch.full((len(images),), f) for f in (brightness, contrast, saturation, hue))
    mean = colour.grey_mean(images)
    return colour.apply(images, colour.matrix(*factors, mean, images.shape[1]))


def muted_images(num_channels: int = 3) -> Tensor:
    """Values that no single change below drives out of [0, 1], so that no clamping differs."""
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.3 * torch.rand(2, num_channels, 8, 9, generator=generator)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_brightness_then_contrast_then_saturation_is_torchvisions(num_channels: int) -> None:
    images = muted_images(num_channels)
    expected = TF.adjust_contrast(TF.adjust_brightness(images, 1.2), 0.7)
    if num_channels == 3:
        expected = TF.adjust_saturation(expected, 1.4)
    result = recoloured(images, brightness=1.2, contrast=0.7, saturation=1.4, hue=0.0)
    torch.testing.assert_close(result, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", TF.adjust_brightness),
        ("contrast", TF.adjust_contrast),
        ("saturation", TF.adjust_saturation),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.5])
def test_each_change_alone_is_torchvisions(
    name: str, change: Callable[[Tensor, float], Tensor], factor: float
) -> None:
    images = muted_images()
    result = recoloured(images, **{name: factor})
    torch.testing.assert_close(result, change(images, factor), **TOLERANCE)


def test_clamped_once_at_the_end_a_bright_image_keeps_what_torchvision_cuts_off() -> None:
    image = torch.full((1, 3, 8, 8), 0.75)
    image[..., 4:] = 0.25
    result = recoloured(image, brightness=2.0, contrast=0.5)
    # Brightness gives 1.5 and 0.5 with mean 1; halving the contrast brings 1.25 and 0.75.
    assert result[0, 0, 0].tolist() == pytest.approx([1.25] * 4 + [0.75] * 4)
    clamped = TF.adjust_contrast(TF.adjust_brightness(image, 2.0), 0.5)[0, 0, 0]
    assert clamped.tolist() == pytest.approx([0.875] * 4 + [0.625] * 4, abs=3e-4)


def test_hue_turns_rgb_about_the_grey_axis() -> None:
    image = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    third = recoloured(image, hue=1 / 3).flatten()
    assert third.tolist() == pytest.approx([0.1, 0.6, 0.3])  # red's value becomes green's
    half = recoloured(image, hue=0.5).flatten()
    # Half a turn mirrors at the grey axis: 2 * mean - value, the mean being 1/3.
    assert half.tolist() == pytest.approx([2 / 3 - v for v in (0.6, 0.3, 0.1)])


def test_neutral_colour_is_bit_exact_and_greyscale_ignores_saturation_and_hue() -> None:
    images = torch.randint(0, 256, (4, 3, 9, 9), dtype=torch.uint8) / 255
    assert torch.equal(recoloured(images), images)
    assert torch.equal(recoloured(images[:, :1], saturation=0.2, hue=0.3), images[:, :1])


def one_operation(images: Tensor, name: str, magnitude: float, sign: float = 1.0) -> Tensor:
    """One RandAugment operation on every image; magnitude in [0, 1]."""
    choice = randaugment.Round(
        torch.full((len(images),), randaugment.OPERATIONS.index(name)),
        torch.full((len(images),), sign),
        torch.tensor(magnitude),
    )
    maps = randaugment.affine_map(choice, (images.shape[2], images.shape[3]))
    return randaugment.recolour(geometry.resample(images, maps), choice)


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        ("identity", 1.0, lambda x: x),
        ("rotate", 0.5, lambda x: TF.rotate(x, -15, BILINEAR)),
        ("translate_x", 0.5, lambda x: TF.affine(x, 0, [75 / 331 * 32, 0], 1, [0, 0], BILINEAR)),
        ("translate_y", 0.5, lambda x: TF.affine(x, 0, [0, 75 / 331 * 32], 1, [0, 0], BILINEAR)),
        ("brightness", 0.5, lambda x: TF.adjust_brightness(x, 1.45)),
        ("contrast", 0.5, lambda x: TF.adjust_contrast(x, 1.45)),
        ("saturation", 0.5, lambda x: TF.adjust_saturation(x, 1.45)),
        ("autocontrast", 1.0, TF.autocontrast),
        ("solarize", 0.6, lambda x: TF.solarize(x, 0.4)),
    ],
)
def test_randaugment_operations_are_torchvisions(
    name: str, magnitude: float, expected: Callable[[Tensor], Tensor]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator) / 255
    images[1] = images[1] / 2 + 0.2  # autocontrast has something to stretch
    images[2, 0] = 0.5  # and nothing in a flat channel
    result = one_operation(images, name, magnitude)
    torch.testing.assert_close(result, expected(images), **TOLERANCE)


@pytest.mark.parametrize(("magnitude", "bits"), [(0.25, 7), (0.5, 6), (1.0, 4)])
def test_posterize_keeps_the_high_bits_of_every_level(magnitude: float, bits: int) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result = one_operation(levels / 255, "posterize", magnitude)
    torch.testing.assert_close(result, TF.posterize(levels, bits) / 255, atol=1e-6, rtol=0)


def test_shear_x_slants_by_its_tangent() -> None:
    images = torch.zeros(1, 1, 41, 41)
    images[..., 20] = 1
    sheared = one_operation(images, "shear_x", 1.0)
    # 10 px above the centre, a shear of 0.3 shows what is 3 px to the left.
    assert sheared[0, 0, 10].argmax() == 23
    assert sheared[0, 0, 30].argmax() == 17
    assert torch.equal(one_operation(images.mT, "shear_y", 1.0), sheared.mT)


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_magnitude_zero_is_the_bit_exact_identity(name: str, num_channels: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16) / 255
    images = images.expand(2, num_channels, -1, -1)
    assert torch.equal(one_operation(images, name, 0.0, sign=-1.0), images)


def test_operations_are_drawn_with_equal_chance_and_both_signs() -> None:
    draws = torch.rand(2, 24_000, generator=torch.Generator().manual_seed(0))
    choice = randaugment.Round.drawn(draws, torch.tensor(0.3))
    counts = choice.operation.bincount()
    assert len(counts) == len(randaugment.OPERATIONS)
    assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)
    assert choice.sign.mean().abs() < 0.03
