"""The architectures: shapes, sizes, masks, export, and mistakes that are refused."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline.errors import UserError
from pipeline.models import ImageShape, ModelSettings, ModelSettingsUnion, build_model
from pipeline.models.layers import Convolution, ResidualBlock, convolution, norm_layer
from pipeline.regularizers import RegularizationSettings
from pipeline.regularizers.masks import RandomMask

OFF = RegularizationSettings()
NORMS = ["batch", "group", "layer", "none"]
SMALL: dict[str, dict[str, Any]] = {
    "vgg": {"kind": "vgg", "width": 8, "head_width": 16},
    "resnet": {"kind": "resnet", "width": 8, "depth": 1},
    "torchvision": {"kind": "torchvision/mobilenet_v3_small"},
}


def settings_of(**values: Any) -> ModelSettings:
    settings: ModelSettings = TypeAdapter(ModelSettingsUnion).validate_python(values)
    return settings


def small(kind: str, image_shape: ImageShape = (3, 32, 32), **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(settings_of(**SMALL[kind], **values), OFF, image_shape, 10)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_default_vgg_has_the_parameters_counted_by_hand() -> None:
    model = build_model(settings_of(kind="vgg"), OFF, (3, 32, 32), 10)
    channels = [3, 64, 64, 128, 128, 256, 256]
    convolutions = sum(9 * a * b for a, b in pairwise(channels))
    norms = sum(2 * outputs for outputs in channels[1:])
    head = (4096 * 512 + 512) + (512 * 10 + 10)
    assert num_parameters(model) == convolutions + norms + head == 3_249_098


def test_a_vgg_block_gives_the_numbers_of_one_whose_relu_is_before_the_pooling() -> None:
    ours = small("vgg")[0].train()
    (convolution, norm, relu), (second, second_norm), pool, *_ = ours
    usual = nn.Sequential(convolution, norm, relu, second, second_norm, nn.ReLU(), pool)
    images = torch.randn(4, 3, 8, 8).bfloat16().float()  # as coarse as the least precise training
    found = []
    for block in (ours, usual):
        answers = block(images)
        gradients = torch.autograd.grad(answers.square().sum(), list(convolution.parameters()))
        found.append((answers, *gradients))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][0].min() == 0  # ReLU has something to do, also on whole windows


def test_a_resnet_has_the_parameters_counted_by_hand() -> None:
    def block(inputs: int, outputs: int) -> int:
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return 9 * outputs * (inputs + outputs) + 4 * outputs + shortcut

    stem, head = 9 * 3 * 8 + 2 * 8, 32 * 10 + 10
    expected = stem + block(8, 8) + block(8, 16) + block(16, 32) + head
    assert num_parameters(small("resnet")) == expected


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
@pytest.mark.parametrize("image_shape", [(1, 8, 8), (1, 28, 28), (3, 40, 56)])
def test_any_image_size_and_norm_trains(kind: str, norm: str, image_shape: ImageShape) -> None:
    model = small(kind, image_shape, norm=norm)
    logits = model(torch.randn(4, *image_shape))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("num_channels", "num_groups"), [(8, 4), (36, 18), (64, 32), (7, 1)])
def test_a_group_of_a_group_norm_has_two_channels_or_more(
    num_channels: int, num_groups: int
) -> None:
    norm = norm_layer("group", num_channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == num_groups


def test_a_resnet_halves_the_image_twice() -> None:
    sides = []
    model = small("resnet", (3, 30, 32))
    for block in (m for m in model.modules() if isinstance(m, ResidualBlock)):
        block.register_forward_hook(lambda _, __, y: sides.append(tuple(y.shape[2:])))
    model(torch.randn(2, 3, 30, 32))
    assert sides == [(30, 32), (15, 16), (8, 8)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolution_padded_to_eight_channels_is_the_same_one(channels: int) -> None:
    """As it is on a GPU; on the CPU nothing is padded."""
    layer = convolution(channels, 16, "none")
    assert isinstance(layer, Convolution)
    images = torch.rand(2, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    plain, padded = nn.Conv2d.forward(layer, images), layer.padded(images)
    assert torch.equal(layer(images), plain)
    torch.testing.assert_close(padded, plain)
    assert padded.is_contiguous(memory_format=torch.channels_last)
    pull = torch.rand_like(plain)
    expected, found = (torch.autograd.grad(y, [*layer.parameters()], pull) for y in (plain, padded))
    torch.testing.assert_close(found, expected)


def test_layers_of_many_channels_are_plain_convolutions() -> None:
    assert type(convolution(8, 16, "batch")) is nn.Conv2d


def test_a_large_image_leaves_the_head_as_it_is() -> None:
    assert num_parameters(small("vgg", (3, 96, 96))) == num_parameters(small("vgg"))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_initial_logits_are_of_ordinary_size(kind: str, norm: str) -> None:
    logits = small(kind, norm=norm)(torch.randn(64, 3, 32, 32))
    assert 0.1 < logits.std().item() < 10


@pytest.mark.parametrize("kind", list(SMALL))
def test_the_masks_of_a_model_are_those_it_declares(kind: str) -> None:
    masks = [m for m in small(kind).modules() if isinstance(m, RandomMask)]
    assert {mask.setting for mask in masks} == settings_of(**SMALL[kind]).regularizers


@pytest.mark.parametrize("kind", list(SMALL))
def test_each_mask_changes_training_and_not_evaluation(kind: str) -> None:
    settings = settings_of(**SMALL[kind])
    x = torch.randn(8, 3, 32, 32)
    for name in settings.regularizers:
        torch.manual_seed(0)
        model = build_model(settings, RegularizationSettings(**{name: 0.5}), (3, 32, 32), 10)
        assert not torch.equal(model(x), model(x)), name
        model.eval()
        assert torch.equal(model(x), model(x)), name
    model = small(kind)
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", list(SMALL))
def test_the_global_seed_decides_the_initial_weights(kind: str) -> None:
    first, again = small(kind).state_dict(), small(kind).state_dict()
    torch.testing.assert_close(first, again, rtol=0, atol=0)


@pytest.mark.parametrize("kind", list(SMALL))
def test_channels_last_and_bfloat16_give_nearly_the_same(kind: str) -> None:
    model, x = small(kind).eval(), torch.randn(4, 3, 32, 32)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.to(memory_format=torch.channels_last)(
            x.to(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_an_exported_model_takes_any_batch(kind: str) -> None:
    model = small(kind).eval()
    exported = torch.export.export(
        model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    for batch_size in (1, 5):
        x = torch.randn(batch_size, 3, 32, 32)
        torch.testing.assert_close(exported(x), model(x))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet"])
def test_a_torchvision_net_gets_a_head_for_our_classes(name: str) -> None:
    model = build_model(settings_of(kind=f"torchvision/{name}"), OFF, (1, 64, 64), 7)
    assert model.training
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)


def test_pretrained_weights_are_taken_over_all_but_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    saved = {k: torch.ones_like(v) for k, v in models.squeezenet1_1().state_dict().items()}
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(saved, tmp_path / "hub" / "checkpoints" / Path(weights.url).name)
    settings = settings_of(kind="torchvision/squeezenet1_1", pretrained=True)
    state = build_model(settings, OFF, (3, 64, 64), 7).state_dict()
    assert [name for name, value in state.items() if not (value == 1).all()] == [
        "classifier.1.1.weight",
        "classifier.1.1.bias",
    ]


def test_weights_that_cannot_be_downloaded_are_the_users_to_provide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    settings = settings_of(kind="torchvision/squeezenet1_1", pretrained=True)
    with pytest.raises(UserError, match=r"no route to host[\s\S]*pretrained: false"):
        build_model(settings, OFF, (3, 64, 64), 7)


@pytest.mark.parametrize("name", ["vit_b_16", "alexnet"])
def test_a_net_that_cannot_take_the_images_says_so(name: str) -> None:
    with pytest.raises(UserError, match="does not take 3x32x32 images"):
        build_model(settings_of(kind=f"torchvision/{name}"), OFF, (3, 32, 32), 10)


@pytest.mark.parametrize("image_shape", [(3, 7, 32), (3, 32, 7), (2, 32, 32)])
def test_images_that_no_net_takes_are_refused(image_shape: ImageShape) -> None:
    with pytest.raises(UserError, match="1 or 3 channels"):
        small("vgg", image_shape)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"kind": "vg"}, "'vgg', 'resnet', 'torchvision/<name>'"),
        ({"width": 16}, "Unable to extract tag"),
        ({"kind": "torchvision/resnet81"}, "did you mean torchvision/resnet18"),
        ({"kind": "vgg", "depth": 2}, "depth"),
        ({"kind": "resnet", "width": 2}, "greater than or equal to 4"),
    ],
)
def test_a_mistake_is_refused_with_its_rule(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        settings_of(**values)


NARROW_RESNET = """
import torch
from pipeline.models import build_model
from pipeline.models.resnet import ResnetSettings
from pipeline.regularizers import RegularizationSettings

model = build_model(ResnetSettings(width=4), RegularizationSettings(), (3, 16, 16), 10)
model = model.to(memory_format=torch.channels_last)
for _ in range(30):
    images = torch.randn(16, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    model(images).sum().backward()
"""


def test_a_narrow_resnet_does_not_corrupt_memory() -> None:
    """A strided 1x1 convolution of few channels did: the process aborted."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NARROW_RESNET], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
