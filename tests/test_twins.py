"""A net's twin does what the net does, with fewer calls, and shares its weights."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels.norm import FusedNorm
from pipeline.models import ModelSettings
from pipeline.models.resnet import ResnetSettings
from pipeline.models.torchvision_models import TorchvisionSettings
from pipeline.models.vgg import VggSettings
from pipeline.training.twins import folded, fused
from tests.trainings import NEEDS_COMPILER

pytestmark = NEEDS_COMPILER
VGG, RESNET = VggSettings(width=16, head_width=8), ResnetSettings(width=16, depth=1)
MOBILENET = TorchvisionSettings(kind="torchvision/mobilenet_v3_small")
RESNET18 = TorchvisionSettings(kind="torchvision/resnet18")
# Of its norms those of the three shortcuts are a Sequential's, and those of its blocks are not.


def name_of(value: object) -> str:
    return value.kind if isinstance(value, ModelSettings) else ""


def norms_of(model: nn.Module) -> tuple[int, int]:
    """How many are fused, and how many are called by themselves."""
    twins = [module for module in model.modules() if isinstance(module, FusedNorm)]
    taken = {id(twin.norm) for twin in twins}
    plain = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and id(m) not in taken]
    return len(twins), len(plain)


@pytest.mark.parametrize(
    ("settings", "num_fused", "num_left"),
    [(VGG, 6, 0), (RESNET, 9, 0), (MOBILENET, 23, 11), (RESNET18, 3, 17)],
    ids=name_of,
)
def test_a_twin_learns_as_its_net_does(
    settings: ModelSettings, num_fused: int, num_left: int
) -> None:
    torch.manual_seed(1)  # at 0, AVX2's rounding has a value on the other side of a ReLU's corner
    model = settings.build((3, 32, 32), 3)
    reference = deepcopy(model)
    twin = fused(model)
    assert norms_of(twin) == (num_fused, num_left)
    assert norms_of(model)[0] == 0
    images = torch.randn(16, 3, 32, 32) * 2 + 1

    def answers(net: nn.Module, parameters: nn.Module) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(1)  # dropout
        logits = net(images)
        gradients = torch.autograd.grad(logits.square().mean(), list(parameters.parameters()))
        return logits, list(gradients)

    logits, gradients = answers(twin, model)
    wanted, wanted_gradients = answers(reference, reference)
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4)
    scale = max(gradient.abs().max().item() for gradient in wanted_gradients)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-2, atol=1e-3 * scale)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-3, atol=1e-4)


def test_a_twin_goes_on_with_its_nets_weights_and_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
    twin = fused(model)
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(twin(images), deepcopy(model)(images))
    model.eval()
    torch.testing.assert_close(twin(images), model(images))


@pytest.mark.parametrize(
    ("settings", "num_fused", "num_left"),
    [(VGG, 3, 0), (RESNET, 0, 0), (MOBILENET, 0, 0), (RESNET18, 0, 17)],
    ids=name_of,
)
@pytest.mark.parametrize("has_kernels", [True, False])
def test_folding_leaves_out_norms_and_changes_no_logits(
    settings: ModelSettings,
    num_fused: int,
    num_left: int,
    has_kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # with AMX a net has other layers: see test_conv_kernels.py
    monkeypatch.setattr("pipeline.kernels.conv_norm.can_convolve", lambda: False)
    if not has_kernels:
        monkeypatch.setattr("pipeline.training.twins.missing", lambda: "no compiler")
    torch.manual_seed(0)
    model = used(settings.build((3, 32, 32), 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, num_before = torch.randn(8, 3, 32, 32) * 2 + 1, norms_of(model)
    with torch.inference_mode():
        twin = folded(model)
        assert norms_of(twin) == (num_fused if has_kernels else 0, num_left)
        torch.testing.assert_close(twin(images), model(images), rtol=1e-3, atol=1e-4)
    assert norms_of(model) == num_before
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def used(model: nn.Module) -> nn.Module:
    """A net in eval mode, whose norms have seen images that are not normalized."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(16, 3, 32, 32) * 2 + 1)
    return model.eval()


def test_a_folded_norm_is_in_the_weights() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        conv.weight.fill_(3.0)
        norm.weight.fill_(4.0)
        norm.bias.fill_(5.0)
    norm.running_mean, norm.running_var = torch.tensor([1.0]), torch.tensor([4.0])
    twin = folded(nn.Sequential(conv, norm).eval())
    # (3 x - 1) / 2 * 4 + 5 is 6 x + 3
    weights = {name: value.item() for name, value in twin.state_dict().items()}
    assert weights == {"0.weight": 6.0, "0.bias": 3.0}


class Backwards(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for module in reversed(self):
            x = module(x)
        return x


def names(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model._modules.values()]


def test_only_what_follows_at_once_is_taken_along() -> None:
    relu, norm, pool = nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(2)
    # the same ReLU thrice: one child of three names
    nested = nn.Sequential(nn.Sequential(relu, norm), nn.Sequential(pool, relu), pool, relu)
    assert names(fused(nested)) == ["ReLU", "FusedNorm", "MaxPool2d", "ReLU"]
    apart = nn.Sequential(norm, nn.Identity(), relu)
    assert names(fused(apart)) == ["FusedNorm", "Identity", "ReLU"]
    assert names(fused(Backwards(norm, relu))) == ["BatchNorm2d", "ReLU"]
    assert names(fused(nn.Sequential(Backwards(norm, relu)))) == ["Backwards"]


def test_only_what_follows_a_convolution_at_once_is_folded() -> None:
    conv, norm, relu, pool = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)
    for model in (
        nn.Sequential(relu, conv, relu, norm),
        Backwards(conv, norm),
        nn.Sequential(norm, conv),
    ):
        assert norms_of(folded(model.eval())) == (0, 1)
    assert names(folded(nn.Sequential(conv, norm, relu))) == ["Conv2d", "ReLU"]
    assert names(folded(nn.Sequential(conv, norm, relu, pool))) == ["Conv2d", "FusedNorm"]
    assert names(folded(nn.Sequential(conv, norm, relu, relu, conv))) == [
        "Conv2d", "ReLU", "ReLU", "Conv2d"
    ]  # fmt: skip


def test_the_mode_of_a_net_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16).eval(), nn.ReLU())
    assert fused(model).training
    assert not model[1].training
    assert not folded(model.eval()).training
