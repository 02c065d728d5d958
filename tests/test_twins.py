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
from pipeline.training.twins import fused

NETS = [
    (VggSettings(width=4, head_width=8), 6, 0),
    (ResnetSettings(width=4, depth=1), 9, 0),
    (TorchvisionSettings(kind="torchvision/mobilenet_v3_small"), 34, 0),
    # the norms of its blocks are no Sequential's; those of its three shortcuts are
    (TorchvisionSettings(kind="torchvision/resnet18"), 3, 17),
]


def norms_of(model: nn.Module) -> tuple[int, int]:
    """How many are fused, and how many are called by themselves."""
    twins = [module for module in model.modules() if isinstance(module, FusedNorm)]
    taken = {id(twin.norm) for twin in twins}
    plain = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and id(m) not in taken]
    return len(twins), len(plain)


@pytest.mark.parametrize(
    ("settings", "num_fused", "num_left"),
    NETS,
    ids=lambda value: value.kind if isinstance(value, ModelSettings) else "",
)
def test_a_twin_learns_and_answers_as_its_net_does(
    settings: ModelSettings, num_fused: int, num_left: int
) -> None:
    torch.manual_seed(0)
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
    with torch.inference_mode():
        model.eval()  # the twin follows its net
        torch.testing.assert_close(twin(images), model(images), rtol=1e-3, atol=1e-4)


def test_a_twin_goes_on_with_its_nets_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    twin = fused(model).eval()
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(twin(images), model.eval()(images))


class Backwards(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for module in reversed(self):
            x = module(x)
        return x


def names(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model._modules.values()]


def test_only_what_follows_at_once_is_taken_along() -> None:
    relu, norm = nn.ReLU(), nn.BatchNorm2d(4)
    pool = nn.MaxPool2d(2)
    # the same ReLU twice: one child of two names
    nested = nn.Sequential(nn.Sequential(relu, norm), nn.Sequential(pool, relu), pool, relu)
    assert names(fused(nested)) == ["ReLU", "FusedNorm", "MaxPool2d", "ReLU"]
    assert names(fused(nn.Sequential(norm, nn.Identity(), relu))) == [
        "FusedNorm", "Identity", "ReLU"
    ]  # fmt: skip
    assert names(fused(Backwards(norm, relu))) == ["BatchNorm2d", "ReLU"]
    assert names(fused(nn.Sequential(Backwards(norm, relu)))) == ["Backwards"]
