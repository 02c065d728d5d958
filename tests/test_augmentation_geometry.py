"""Crops, flips, affine maps and rectangles at fixed parameters, against hand-made results."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from pipeline.augmentation import erasing, flips, geometry


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("dy", "dx", "flip"), [(0, 0, True), (2, -3, False), (-4, 1, True)])
def test_shift_and_flip_is_crop_after_zero_padding_then_flip(dy: int, dx: int, flip: bool) -> None:
    image = torch.randint(0, 256, (3, 10, 12), dtype=torch.uint8)
    window = F.pad(image, (4, 4, 4, 4))[:, 4 + dy : 14 + dy, 4 + dx : 16 + dx]
    expected = window.flip(2) if flip else window
    result = geometry.shift_and_flip(
        image[None], torch.tensor([dy]), torch.tensor([dx]), torch.tensor([flip])
    )
    assert result.dtype == torch.uint8
    assert torch.equal(result[0], expected)


def test_resampling_agrees_with_the_exact_gather() -> None:
    images = random_images(3, 2, 16, 32)
    args = torch.tensor([1, -5, 0]), torch.tensor([-2, 3, 0]), torch.tensor([True, False, True])
    resampled = geometry.resample(images, geometry.shift_and_flip_map(*args))
    torch.testing.assert_close(resampled, geometry.shift_and_flip(images, *args))


@pytest.mark.parametrize(
    ("degrees", "x", "y", "scale"),
    [
        (30.0, 0.0, 0.0, 1.0),
        (-100.0, 0.0, 0.0, 1.0),
        (0.0, 3.0, -2.0, 1.0),
        (0.0, 0.0, 0.0, 1.7),
        (0.0, 0.0, 0.0, 0.6),
        (15.0, 2.0, 1.0, 1.2),
    ],
)
def test_affine_map_is_torchvisions_affine(
    degrees: float, x: float, y: float, scale: float
) -> None:
    images = random_images(2, 3, 17, 32)
    maps = geometry.affine_map(
        *(torch.full((2,), value) for value in (math.radians(degrees), x, y, scale))
    )
    expected = TF.affine(
        images, degrees, [x, y], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR
    )
    torch.testing.assert_close(geometry.resample(images, maps), expected, atol=1e-4, rtol=0)


def test_shear_moves_each_row_by_its_distance_from_the_centre() -> None:
    images = torch.zeros(1, 1, 9, 9)
    images[..., 4] = 1  # a vertical line through the centre
    maps = geometry.shear_map(torch.tensor([0.5]), torch.tensor([0.0]))
    sheared = geometry.resample(images, maps)[0, 0]
    # Row 6 is 2 px below the centre and shows x + 1: the line stands at column 3.
    assert sheared[6].argmax() == 3
    assert sheared[2].argmax() == 5


def test_composition_is_one_transform_after_the_other() -> None:
    images = F.pad(random_images(1, 1, 4, 4), (14, 14, 14, 14))
    turn = geometry.affine_map(*(torch.tensor([v]) for v in (math.pi / 2, 0.0, 0.0, 1.0)))
    shift = geometry.shift_and_flip_map(*(torch.tensor([v]) for v in (3, -2)), torch.tensor([True]))
    at_once = geometry.resample(images, geometry.compose(turn, shift))
    torch.testing.assert_close(
        at_once, geometry.resample(geometry.resample(images, turn), shift), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (9, 13)])
def test_the_identity_map_is_bit_exact(size: tuple[int, int]) -> None:
    images = random_images(4, 3, *size)
    maps = torch.eye(3).expand(4, 3, 3).clone()
    maps[1, 0, 2] = 0.5  # another image of the batch moves
    result = geometry.resample(images, maps)
    assert torch.equal(result[[0, 2, 3]], images[[0, 2, 3]])
    assert not torch.equal(result[1], images[1])


def test_alternating_flips_show_every_image_both_ways_in_two_epochs() -> None:
    indices = torch.arange(20_000)
    first, second, third = (
        flips.alternating(indices, epoch, torch.tensor(1.0)) for epoch in range(3)
    )
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert first.float().mean().item() == pytest.approx(0.5, abs=0.02)  # 0.0035 is one sigma
    neighbours = (first[1:] == first[:-1]).float().mean().item()
    assert neighbours == pytest.approx(0.5, abs=0.02)


def test_alternating_flips_of_a_share_leave_the_others_unflipped() -> None:
    indices, share = torch.arange(20_000), torch.tensor(0.3)
    ever = flips.alternating(indices, 0, share) | flips.alternating(indices, torch.tensor(1), share)
    assert ever.float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_rectangle_mask_by_hand() -> None:
    top, left, height, width = (torch.tensor([v]) for v in (1, -1, 2, 3))
    expected = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    expected[0, 0, 1:3, 0:2] = True
    assert torch.equal(erasing.mask(top, left, height, width, (4, 5)), expected)


def test_cutout_is_one_square_that_may_hang_over_the_edge() -> None:
    draws = torch.tensor([[0.5, 0.0], [0.5, 0.99]])  # centres (8, 8) and (0, 15)
    squares = erasing.cutout_mask(draws, torch.tensor(4.0), (16, 16))
    assert squares[0, 0, 6:10, 6:10].all()
    assert squares.sum((1, 2, 3)).tolist() == [16, 2 * 3]


def test_random_erasing_has_the_papers_probability_area_and_aspect() -> None:
    draws = torch.rand(5, 4000, generator=torch.Generator().manual_seed(0))
    masks = erasing.random_erasing_mask(draws, torch.tensor(0.4), (32, 32))
    area = masks.float().mean((1, 2, 3))
    assert ((area > 0) == (draws[0] < 0.4)).all()
    erased = area[area > 0]
    assert erased.min() > 0.015
    assert erased.max() < 0.345
    assert erased.mean().item() == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    height = masks.any(3).sum((1, 2))[area > 0]
    width = masks.any(2).sum((1, 2))[area > 0]
    assert torch.equal(height * width, (erased * 1024).round().long())  # a full rectangle
    assert (height.float() / width).log().median().item() == pytest.approx(0, abs=0.1)
