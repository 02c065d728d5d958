"""The kernel that augments and normalizes images: the numbers of `Augmentation.apply`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.augmentation import AugmentationSettings
from pipeline.augmentation.augmentation import NUM_DRAWS, Augmentation, Structure
from pipeline.kernels.images import Changes, can_prepare, prepared
from pipeline.seeding import TrialSeeds
from pipeline.training.step import TrainStep
from pipeline.training.structure import Structure as StepStructure
from tests.trainings import NEEDS_COMPILER, net, random_data, recipe

pytestmark = NEEDS_COMPILER
CPU = torch.device("cpu")
NO_GEOMETRY = {"crop_padding_fraction": 0.0, "horizontal_flip": "none", "rotation_degrees": 0.0}
NO_COLOUR = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
SETTINGS = {
    "nothing": {"strength": 0.0},
    "crop, flip": {"rotation_degrees": 0.0, **NO_COLOUR},
    "alternating": {"rotation_degrees": 0.0, **NO_COLOUR, "horizontal_flip": "alternating"},
    "rotation, zoom": {"translation_fraction": 0.3, "scale_fraction": 0.4, **NO_COLOUR},
    "colour": {**NO_GEOMETRY, "brightness": 0.8, "contrast": 0.9, "saturation": 0.9, "hue": 0.3},
    "rectangles": {"cutout_fraction": 0.4, "erasing_probability": 0.7},
}


def batch(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def moments(num_channels: int) -> tuple[Tensor, Tensor]:
    shape = (1, num_channels, 1, 1)
    return torch.rand(shape), torch.rand(shape) + 0.1


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 5, 19), (4, 16, 9)], ids=str)
@pytest.mark.parametrize("changed", SETTINGS.values(), ids=SETTINGS)
def test_the_same_as_op_by_op(changed: dict[str, float], shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    settings = AugmentationSettings.model_validate({"strength": 1.0, **changed})
    augmentation = Augmentation(settings, shape, CPU)
    images, indices = batch(20, *shape), torch.tensor([19, 3, 3, 0, 7, 12, 5])
    draws, (mean, std) = torch.rand(NUM_DRAWS, len(indices)), moments(shape[0])
    wanted = augmentation.apply(images[indices], indices, 3, draws).sub(mean).div(std)
    changes = augmentation.changes(indices, 3, draws)
    got = prepared(images, mean, std, torch.float32, indices, changes)
    assert got.is_contiguous(memory_format=torch.channels_last)
    # a position that is rounded otherwise is off by some 1e-6 pixels
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    rounded = prepared(images, mean, std, torch.bfloat16, indices, changes)
    torch.testing.assert_close(rounded, got.bfloat16(), rtol=0, atol=0)


def test_images_as_they_are_come_out_normalized_to_the_last_bit() -> None:
    """Also where a map, or a crop, leaves their pixels as they are, whatever the size."""
    torch.manual_seed(0)
    images, (mean, std) = batch(6, 3, 7, 20), moments(3)
    wanted = (images / 255 - mean) / std
    assert torch.equal(prepared(images, mean, std, torch.float32), wanted)
    maps = torch.eye(3).repeat(6, 1, 1)
    unmoved = prepared(images, mean, std, torch.float32, None, Changes(maps))
    assert torch.equal(unmoved, wanted)
    maps[:, 0, 0], maps[:, 1, 2] = -1, 2  # mirrored, and two rows further down
    moved = prepared(images, mean, std, torch.float32, None, Changes(maps))
    assert torch.equal(moved[:, :, :-2], wanted[:, :, 2:].flip(3))


def test_what_does_not_fit_is_refused_before_any_of_it_is_read() -> None:
    images, (mean, std) = batch(6, 3, 8, 8), moments(3)
    how = {"images": images, "mean": mean, "std": std, "dtype": torch.float32}
    for wrong in (
        {"images": images.float()},
        {"images": batch(6, 5, 8, 8)},
        {"mean": mean[:, :1]},
        {"std": std.double()},
        {"dtype": torch.float16},
        {"indices": torch.arange(6, dtype=torch.int32)},
        {"changes": Changes(maps=torch.eye(3)[None])},
        {"changes": Changes(colours=torch.zeros(6, 3, 3), grey=torch.ones(3))},
        {"changes": Changes(colours=torch.zeros(6, 3, 4), grey=torch.ones(1))},
        {"changes": Changes(colours=torch.zeros(6, 3, 4))},
        {"changes": Changes(erased=torch.zeros(6, 8, 8))},
        {"changes": Changes(maps=torch.eye(3).repeat(6, 1, 1)), "indices": torch.arange(5)},
    ):
        with pytest.raises(ValueError, match=r"values of|no kernel for|without grey"):
            prepared(**{**how, **wrong})  # type: ignore[arg-type]


def test_moved_recoloured_and_blanked_by_hand() -> None:
    """One row of pixels, 0, 51, 102 and 255: 0, 0.2, 0.4 and 1."""
    images = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(1, 1, 1, 4)
    mean, std = torch.tensor(0.5), torch.tensor(2.0)

    def shown(**changes: Tensor) -> list[float]:
        made = prepared(images, mean, std, torch.float32, None, Changes(**changes))
        return [round(value * 2 + 0.5, 5) for value in made.flatten().tolist()]

    half = torch.eye(3)[None].clone()
    half[0, 0, 2] = 0.5  # shows what is half a pixel to the right
    assert shown(maps=half) == [0.1, 0.3, 0.7, 0.5]
    half[0, 0, 2] = -1.0
    assert shown(maps=half) == [0.0, 0.0, 0.2, 0.4]
    half[0, 0, 2] = 1e9
    assert shown(maps=half) == [0.0] * 4
    # Twice as bright, and 0.5 of the mean, which is 0.4, on top.
    bright = torch.tensor([[[2.0, 0.5]]])
    assert shown(colours=bright, grey=torch.ones(1)) == [0.2, 0.6, 1.0, 1.0]
    blank = torch.tensor([False, True, False, True]).view(1, 1, 1, 4)
    assert shown(erased=blank) == [0.0, 0.0, 0.4, 0.0]


def test_threads_change_no_number() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(AugmentationSettings(strength=1.0), (3, 32, 32), CPU)
    images, indices, (mean, std) = batch(50, 3, 32, 32), torch.randperm(50), moments(3)
    changes = augmentation.changes(indices, 1, torch.rand(NUM_DRAWS, 50))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 60):
            torch.set_num_threads(threads)
            results.append(prepared(images, mean, std, torch.float32, indices, changes))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_what_it_is_for() -> None:
    assert can_prepare(3, torch.bfloat16, CPU)
    assert can_prepare(4, torch.float32, CPU)
    assert not can_prepare(5, torch.float32, CPU)
    assert not can_prepare(3, torch.float16, CPU)
    assert not can_prepare(3, torch.float32, torch.device("cuda"))
    strong = AugmentationSettings(strength=1.0, randaugment_num_ops=2, randaugment_magnitude=9)
    with pytest.raises(ValueError, match="no kernel for RandAugment"):
        Augmentation(strong, (3, 8, 8), CPU).changes(torch.arange(2), 1, torch.rand(NUM_DRAWS, 2))


def test_parts_without_reach_change_nothing() -> None:
    """A step has what any trial may need: a trial at strength 0 sees its images as they are."""
    everything = Structure.of(AugmentationSettings(strength=1.0, cutout_fraction=0.5))
    augmentation = Augmentation(
        AugmentationSettings(strength=0.0), (3, 16, 16), CPU, structure=everything
    )
    torch.manual_seed(0)
    images, (mean, std) = batch(8, 3, 16, 16), moments(3)
    changes = augmentation.changes(torch.arange(8), 1, torch.rand(NUM_DRAWS, 8))
    assert changes.maps is not None
    assert changes.colours is not None
    assert changes.erased is not None
    torch.testing.assert_close(
        prepared(images, mean, std, torch.float32, None, changes),
        prepared(images, mean, std, torch.float32),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    ("sections", "dtype", "in_kernel"),
    [
        ({}, torch.bfloat16, True),
        ({"regularization": {"mixup_alpha": 0.4}}, torch.float32, True),  # mixed in full
        ({"augmentation": {"strength": 1.0, "randaugment_num_ops": 1}}, torch.float32, False),
    ],
    ids=["", "mixup", "randaugment"],
)
def test_a_fused_step_sees_the_images_of_an_eager_one(
    sections: dict[str, dict[str, float]], dtype: torch.dtype, in_kernel: bool
) -> None:
    how = recipe(sections={"augmentation": {"strength": 1.0}} | sections)
    (mean, std), seen = moments(3), []
    data = replace(random_data(num_channels=3), mean=mean, std=std)
    for fuses in (False, True):
        step = TrainStep(net(), data, how, StepStructure.of(how), torch.bfloat16)
        if fuses:
            step.fuse()
        step.begin(how, TrialSeeds.of(0, 0))
        step.begin_epoch(1, torch.arange(32).flip(0).view(4, 8), torch.zeros(4))
        step.position.fill_(2)
        seen.append(step.batch())
    (wanted, labels), (images, own_labels) = ((shown, to.labels) for shown, to in seen)
    assert images.dtype == dtype
    torch.testing.assert_close(images.float(), wanted, rtol=2**-8, atol=1e-4)
    assert torch.equal(images, wanted) is not in_kernel
    assert torch.equal(labels, own_labels)
