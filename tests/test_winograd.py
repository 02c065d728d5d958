"""Convolutions in float32 by fewer products: the numbers of torch."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels.winograd import WinogradConv, can_transform
from pipeline.models import ModelSettings
from pipeline.models.resnet import ResnetSettings
from pipeline.models.torchvision_models import TorchvisionSettings
from pipeline.models.vgg import VggSettings
from pipeline.training.twins import folded, fused
from tests.trainings import NEEDS_COMPILER

pytestmark = NEEDS_COMPILER


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def layer(inputs: int, outputs: int, **changed: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, **{"kernel_size": 3, "padding": 1, "bias": False, **changed})


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 2), (3, 5), (4, 6)])
def test_a_convolution_worked_out_by_hand(row: int, column: int) -> None:
    """One pixel is 1, in channel 5; the filter's taps for it are 1 to 9, for output 40 alone: the
    pixel's neighbours see it by them, the last one above it on the left."""
    conv = layer(32, 64)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[40, 5] = torch.arange(1.0, 10.0).view(3, 3)
    x = torch.zeros(2, 32, 5, 7, requires_grad=True)
    with torch.no_grad():
        x[1, 5, row, column] = 1.0
    around = torch.zeros(7, 9)
    around[row : row + 3, column : column + 3] = torch.arange(9.0, 0.0, -1.0).view(3, 3)
    y = WinogradConv.of(conv)(x)
    assert torch.equal(y[1, 40], around[1:-1, 1:-1])
    assert y.count_nonzero() == around[1:-1, 1:-1].count_nonzero()
    # A gradient at that pixel: its own input has it by the middle tap, 5, the one above it on the
    # left by the first one; and of the weights only the middle tap has seen a 1.
    gradient = torch.zeros_like(y)
    gradient[1, 40, row, column] = 2.0
    dx, dweight = torch.autograd.grad(y, [x, conv.weight], gradient)
    around[row : row + 3, column : column + 3] = torch.arange(2.0, 20.0, 2.0).view(3, 3)
    assert torch.equal(dx[1, 5], around[1:-1, 1:-1])
    assert dx[0].count_nonzero() == 0
    assert dweight.nonzero().tolist() == [[40, 5, 1, 1]]
    assert dweight[40, 5, 1, 1] == 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "height", "width"),
    [
        (3, 32, 64, 8, 8),  # the gradient of the weights is torch's
        (2, 64, 80, 7, 9),
        (37, 64, 64, 6, 12),  # several blocks, of which the last is smaller
        (2, 48, 48, 34, 33),  # an image is more than a block
        (1, 128, 64, 4, 5),
    ],
)
def test_the_same_as_torch_in_float64(
    count: int, inputs: int, outputs: int, height: int, width: int, threads: int
) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    conv = layer(inputs, outputs, bias=outputs > inputs)
    theirs = deepcopy(conv).double()
    x = torch.randn(count, inputs, height, width, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    y, wanted = WinogradConv.of(conv)(x), theirs(exact)
    gradient = torch.randn_like(y)
    got = torch.autograd.grad(y, [x, *conv.parameters()], gradient)
    want = torch.autograd.grad(wanted, [exact, *theirs.parameters()], gradient.double())
    for one, other in zip((y, *got), (wanted, *want), strict=True):
        assert (one.dtype, one.shape) == (torch.float32, other.shape)
        assert (one - other).norm() <= 1e-6 * other.norm()
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_only_what_is_asked_for_is_computed() -> None:
    conv = layer(64, 64)
    twin, x = WinogradConv.of(conv), torch.randn(2, 64, 4, 4)
    (alone,) = torch.autograd.grad(twin(x).sum(), [conv.weight])
    (beside, _) = torch.autograd.grad(twin(x.requires_grad_()).sum(), [conv.weight, x])
    assert torch.equal(alone, beside)
    conv.requires_grad_(False)
    assert torch.autograd.grad(twin(x).sum(), [x])[0].shape == x.shape
    with torch.no_grad():
        assert not twin(x).requires_grad


def test_it_goes_on_with_the_convolutions_weights_and_hooks() -> None:
    conv, called = layer(64, 32, bias=True), list[str]()
    twin, x = WinogradConv.of(conv), torch.randn(2, 64, 4, 4)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.fill_(7.0)  # type: ignore[union-attr] # it has one
    torch.testing.assert_close(twin(x), conv(x), rtol=1e-5, atol=1e-4)
    conv.weight = nn.Parameter(torch.zeros_like(conv.weight))
    assert twin(x).unique().tolist() == [7]
    conv.register_forward_hook(lambda *_: called.append("hook"))
    twin(x)
    assert called == ["hook"]
    assert [name for name, _ in twin.named_parameters()] == ["weight", "bias"]
    assert type(conv) is nn.Conv2d


def test_what_is_not_a_number_stays_visible() -> None:
    conv, x = layer(64, 64), torch.zeros(2, 64, 6, 6)
    x[1, 3, 0, 3], x[0, 60, 5, 5] = torch.nan, torch.inf
    seen = ~conv(x).isfinite()
    assert seen.any()
    assert (~WinogradConv.of(conv)(x)[seen].isfinite()).all()


def test_what_it_cannot_take_goes_to_the_convolution() -> None:
    torch.manual_seed(0)
    conv = layer(64, 64)
    twin, x = WinogradConv.of(conv), torch.randn(2, 64, 8, 8)
    assert not torch.equal(twin(x), conv(x)), "as their rounding differs"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(twin(x), conv(x))
    for small in (x[..., :3], x[..., :2, :], x[:0], x[0]):
        assert torch.equal(twin(small), conv(small))
    with pytest.raises(RuntimeError, match="to have 64 channels"):
        twin(x[:, :32])
    conv.double()
    assert torch.equal(twin(x.double()), conv(x.double()))
    with pytest.raises(ValueError, match="can't take Conv2d"):
        WinogradConv.of(layer(64, 64, stride=2))


class Standardized(nn.Conv2d):
    """With weights that it makes of its own, as some nets have it."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_which_convolutions_are_taken() -> None:
    for inputs, outputs in [(64, 32), (32, 64), (48, 48), (256, 512)]:
        assert can_transform(layer(inputs, outputs))
        assert can_transform(layer(inputs, outputs, bias=True))
    for inputs, outputs in [(32, 32), (16, 256), (64, 40), (3, 64)]:
        assert not can_transform(layer(inputs, outputs))
    for other in (
        {"padding": 0},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding_mode": "circular"},
        {"kernel_size": 5, "padding": 2},
        {"dtype": torch.float64},
    ):
        assert not can_transform(layer(64, 64, **other))
    assert not can_transform(Standardized(64, 64, 3, padding=1))
    assert not can_transform(nn.utils.parametrizations.weight_norm(layer(64, 64)))
    assert not can_transform(nn.ConvTranspose2d(64, 64, 3, padding=1))
    assert not can_transform(WinogradConv.of(layer(64, 64))), "it is one already"


def num_taken(net: nn.Module) -> int:
    return sum(isinstance(module, WinogradConv) for module in net.modules())


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        (VggSettings(width=32, head_width=8), 4),
        (ResnetSettings(width=64, depth=1), 4),
        (TorchvisionSettings.model_validate({"kind": "torchvision/resnet18"}), 13),
    ],
    ids=["vgg", "resnet", "torchvision/resnet18"],
)
def test_a_net_learns_and_is_scored_as_by_torch(settings: ModelSettings, taken: int) -> None:
    torch.manual_seed(0)
    model = settings.build((3, 32, 32), 5).to(memory_format=torch.channels_last)
    exact, twin = deepcopy(model).double(), fused(model)
    assert (num_taken(model), num_taken(twin)) == (0, taken)
    x = torch.randn(8, 3, 32, 32)

    def gradients(logits: Tensor, own: nn.Module) -> Tensor:
        torch.manual_seed(1)
        learned = torch.autograd.grad(logits.square().mean(), list(own.parameters()))
        return torch.cat([gradient.flatten() for gradient in learned])

    got, wanted = gradients(twin(x), model), gradients(exact(x.double()), exact)
    assert (got - wanted).norm() <= 1e-3 * wanted.norm()
    scorer = folded(model.eval())
    assert num_taken(scorer) == taken
    assert num_taken(model) == 0
    with torch.no_grad():
        torch.testing.assert_close(
            scorer(x), exact.eval()(x.double()).float(), rtol=1e-3, atol=1e-3
        )
