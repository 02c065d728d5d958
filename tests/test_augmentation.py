"""The augmentation as a whole: what a user sees of it, part by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.augmentation import AugmentationSettings
from pipeline.augmentation.augmentation import NUM_DRAWS, Augmentation
from pipeline.settings import scalar_fields

OFF: dict[str, Any] = {
    path: field.off.value
    for path, field in scalar_fields(AugmentationSettings)
    if field.off is not None
}
ALL_PARTS: dict[str, Any] = {
    "horizontal_flip": "alternating",
    "translation_fraction": 0.1,
    "scale_fraction": 0.2,
    "hue": 0.1,
    "cutout_fraction": 0.5,
    "erasing_probability": 0.5,
    "randaugment_num_ops": 2,
}
PARTS: list[dict[str, Any]] = [
    {"crop_padding_fraction": 0.25},
    {"horizontal_flip": "random"},
    {"horizontal_flip": "alternating"},
    {"rotation_degrees": 30.0},
    {"translation_fraction": 0.2},
    {"scale_fraction": 0.5},
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"saturation": 0.5},
    {"hue": 0.3},
    {"cutout_fraction": 0.5},
    {"erasing_probability": 1.0},
    {"randaugment_num_ops": 2, "randaugment_magnitude": 9.0},
]


def only(**parts: Any) -> AugmentationSettings:
    """Full strength, every part off but those given."""
    return AugmentationSettings(**OFF | {"strength": 1.0} | parts)


def batch(num_images: int = 16, shape: tuple[int, int, int] = (3, 16, 16)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (num_images, *shape)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def augment(
    images: Tensor, augmentation: Augmentation | AugmentationSettings, seed: int = 0, epoch: int = 0
) -> Tensor:
    if isinstance(augmentation, AugmentationSettings):
        num_channels, height, width = images.shape[1:]
        augmentation = Augmentation(augmentation, (num_channels, height, width), "cpu")
    generator = torch.Generator().manual_seed(seed)
    return augmentation(images, torch.arange(len(images)), epoch, generator)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 9, 14)])
@pytest.mark.parametrize("parts", [{}, ALL_PARTS, *PARTS])
def test_strength_zero_is_bit_exact_through_the_step_built_for_full_strength(
    shape: tuple[int, int, int], parts: dict[str, Any]
) -> None:
    images = batch(8, shape)
    augmentation = Augmentation(AugmentationSettings(**{"strength": 1.0} | parts), shape, "cpu")
    augmentation.update(AugmentationSettings(**parts))
    assert torch.equal(augment(images, augmentation, epoch=1), images / 255)
    assert torch.equal(augment(images, AugmentationSettings(**parts)), images / 255)


@pytest.mark.parametrize("parts", PARTS)
def test_each_part_alone_changes_images_each_its_own_way(parts: dict[str, Any]) -> None:
    images = batch(1).expand(64, -1, -1, -1)
    result = augment(images, only(**parts))
    num_distinct = len(result.flatten(1).unique(dim=0))
    assert num_distinct == 2 if "horizontal_flip" in parts else num_distinct > 20


@pytest.mark.parametrize("parts", PARTS)
def test_a_part_that_is_off_leaves_no_trace_in_a_step_built_for_it(parts: dict[str, Any]) -> None:
    augmentation = Augmentation(only(**parts), (3, 16, 16), "cpu")
    augmentation.update(only())
    assert torch.equal(augment(batch(), augmentation, epoch=1), batch() / 255)


def test_a_seed_gives_the_same_images_and_another_seed_others() -> None:
    both = AugmentationSettings(strength=0.7, **ALL_PARTS)
    assert torch.equal(augment(batch(), both, seed=3), augment(batch(), both, seed=3))
    assert not torch.equal(augment(batch(), both, seed=3), augment(batch(), both, seed=4))


def test_another_part_leaves_the_draws_of_the_first_alone() -> None:
    images = batch().clamp(1, 100)  # no factor up to 1.5 is cut off
    flipped = augment(images, only(horizontal_flip="random"))
    bright = augment(images, only(horizontal_flip="random", brightness=0.5))
    assert (bright / flipped).flatten(1).std(dim=1).max() < 1e-5


def test_update_equals_a_new_augmentation_and_fills_the_same_memory() -> None:
    before = AugmentationSettings(strength=1.0, **ALL_PARTS)
    after = AugmentationSettings(strength=0.3, rotation_degrees=50.0, **ALL_PARTS)
    augmentation = Augmentation(before, (3, 16, 16), "cpu")
    address = augmentation._ranges.data_ptr()
    augmentation.update(after)
    assert augmentation._ranges.data_ptr() == address
    assert torch.equal(augment(batch(), augmentation), augment(batch(), after))


def test_update_refuses_a_part_that_the_step_was_not_built_for() -> None:
    augmentation = Augmentation(only(horizontal_flip="random"), (3, 16, 16), "cpu")
    for parts in (*PARTS[2:], PARTS[0]):
        with pytest.raises(ValueError, match="does not cover"):
            augmentation.update(only(**parts))


def test_random_flip_happens_half_of_the_time_and_half_as_often_at_half_strength() -> None:
    images = batch(1).expand(4000, -1, -1, -1)
    for strength in (1.0, 0.5):
        result = augment(images, only(horizontal_flip="random", strength=strength))
        flipped = (result == images.flip(3) / 255).flatten(1).all(dim=1)
        untouched = (result == images / 255).flatten(1).all(dim=1)
        assert (flipped ^ untouched).all()
        assert flipped.float().mean().item() == pytest.approx(strength / 2, abs=0.04)


def test_alternating_flips_undo_themselves_in_the_next_epoch() -> None:
    flips = Augmentation(only(horizontal_flip="alternating"), (3, 16, 16), "cpu")
    even, odd = (augment(batch(), flips, seed=epoch, epoch=epoch) for epoch in (0, 1))
    assert torch.equal(even, odd.flip(3))


@pytest.mark.parametrize(("strength", "reach"), [(1.0, 4), (0.5, 2), (0.1, 0)])
def test_crop_shifts_every_whole_pixel_of_its_range_equally_often(
    strength: float, reach: int
) -> None:
    images = torch.zeros(9000, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    result = augment(images, only(crop_padding_fraction=0.125, strength=strength))
    shift_y = 16 - result.amax(3).argmax(2).flatten()
    shift_x = 16 - result.amax(2).argmax(2).flatten()
    for shift in (shift_y, shift_x):
        counts = (shift + reach).bincount()
        assert len(counts) == 2 * reach + 1
        share = 9000 / len(counts)
        assert (counts - share).abs().max() < 5 * share**0.5
    assert reach == 0 or not torch.equal(shift_y, shift_x)


def test_brightness_factors_fill_their_range_evenly() -> None:
    images = torch.full((4000, 1, 8, 8), 102, dtype=torch.uint8)
    factors = augment(images, only(brightness=0.8, strength=0.5))[:, 0, 0, 0] / 0.4
    assert factors.min().item() == pytest.approx(0.6, abs=0.01)
    assert factors.max().item() == pytest.approx(1.4, abs=0.01)
    assert factors.std().item() == pytest.approx(0.8 / 12**0.5, abs=0.02)


def test_cutout_and_erasing_leave_black_and_touch_nothing_else() -> None:
    images = batch(64).clamp(min=1)
    result = augment(images, only(cutout_fraction=0.5, erasing_probability=1.0))
    erased = result == 0
    assert torch.equal(erased.all(1), erased.any(1))
    assert torch.equal(result, images / 255 * ~erased)
    assert erased[:, 0].sum((1, 2)).min() >= 16  # a quarter of 8 x 8 hangs inside at least


@pytest.mark.parametrize("parts", [{"saturation": 1.0}, {"hue": 0.5}])
def test_greyscale_images_have_no_saturation_nor_hue(parts: dict[str, Any]) -> None:
    images = batch(4, (1, 8, 8))
    assert torch.equal(augment(images, only(**parts)), images / 255)


def test_the_result_has_the_type_and_memory_format_asked_for() -> None:
    augmentation = Augmentation(
        only(brightness=0.5), (3, 16, 16), "cpu", torch.bfloat16, torch.channels_last
    )
    result = augment(batch(), augmentation)
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, augment(batch(), only(brightness=0.5)).bfloat16())


def test_the_images_given_are_not_written_to() -> None:
    images = batch()
    augment(images, AugmentationSettings(strength=1.0, **ALL_PARTS))
    assert torch.equal(images, batch())


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 20),
    width=st.integers(8, 20),
    num_channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_any_settings_keep_shape_and_range(
    height: int, width: int, num_channels: int, seed: int, data: st.DataObject
) -> None:
    unit = st.floats(0, 1, width=32)
    extreme = AugmentationSettings(
        strength=data.draw(unit),
        crop_padding_fraction=data.draw(st.floats(0, 0.5)),
        horizontal_flip=data.draw(st.sampled_from(["none", "random", "alternating"])),
        rotation_degrees=data.draw(st.floats(0, 180)),
        scale_fraction=data.draw(st.floats(0, 0.9)),
        brightness=data.draw(unit),
        contrast=data.draw(unit),
        saturation=data.draw(unit),
        hue=data.draw(st.floats(0, 0.5)),
        cutout_fraction=data.draw(unit),
        erasing_probability=data.draw(unit),
        randaugment_num_ops=data.draw(st.integers(0, 4)),
        randaugment_magnitude=data.draw(st.floats(0, 30)),
    )
    images = batch(3, (num_channels, height, width))
    result = augment(images, extreme, seed=seed)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1


class NoHostWaits(TorchDispatchMode):
    """Fails on what reads a device tensor on the host, or copies one from it, at every step."""

    HOST_OPS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        assert name not in self.HOST_OPS, name
        return func(*args, **kwargs or {})


def test_a_step_waits_for_nothing_on_the_host() -> None:
    everything = AugmentationSettings(strength=1.0, **ALL_PARTS)
    for shape in ((3, 16, 16), (1, 9, 9)):
        augmentation = Augmentation(everything, shape, "cpu")
        with NoHostWaits():
            augment(batch(4, shape), augmentation)


def test_one_compiled_graph_serves_every_trial() -> None:
    graphs = CompileCounter()
    augmentation = Augmentation(AugmentationSettings(strength=1.0, **ALL_PARTS), (3, 16, 16), "cpu")
    step = torch.compile(augmentation.apply, backend=graphs, fullgraph=True)
    for strength in (1.0, 0.4, 0.0):
        augmentation.update(AugmentationSettings(strength=strength, **ALL_PARTS))
        draws = torch.rand(NUM_DRAWS, 16, generator=torch.Generator().manual_seed(2))
        args = batch(), torch.arange(16), torch.tensor(1), draws
        assert torch.equal(step(*args), augmentation.apply(*args))
    assert graphs.frame_count == 1
