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
    wanted = torch.zeros_like(y)
    wanted[1, 40] = around[1:-1, 1:-1]
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-5)
    # A gradient at that pixel: its own input has it by the middle tap, 5, the one above it on the
    # left by the first one; and of the weights only the middle tap has seen a 1.
    gradient = torch.zeros_like(y)
    gradient[1, 40, row, column] = 2.0
    dx, dweight = torch.autograd.grad(y, [x, conv.weight], gradient)
    around[row : row + 3, column : column + 3] = torch.arange(2.0, 20.0, 2.0).view(3, 3)
    wanted = torch.zeros_like(x)
    wanted[1, 5] = around[1:-1, 1:-1]
    torch.testing.assert_close(dx, wanted, rtol=0, atol=1e-5)
    wanted = torch.zeros_like(dweight)
    wanted[40, 5, 1, 1] = 2.0
    torch.testing.assert_close(dweight, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "height", "width"),
    [
        (3, 16, 64, 8, 8),
        (2, 64, 80, 7, 9),  # a pass, and a smaller one
        (37, 64, 16, 6, 12),  # tiles for several turns, of which the last has fewer
        (2, 48, 48, 34, 33),
        (1, 160, 144, 4, 5),
    ],
)
def test_the_same_as_torch_in_float64(
    count: int, inputs: int, outputs: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
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
        assert (one - other).norm() <= 2e-6 * other.norm()
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_threads_change_nothing() -> None:
    torch.manual_seed(0)
    conv = layer(48, 80, bias=True)
    x, gradient = torch.randn(9, 48, 18, 15, requires_grad=True), torch.randn(9, 80, 18, 15)
    got = []
    for threads in (1, 2, 3, 50):
        torch.set_num_threads(threads)
        y = WinogradConv.of(conv)(x)
        got.append((y, *torch.autograd.grad(y, [x, conv.weight], gradient)))
    for others in got[1:]:
        for one, other in zip(got[0], others, strict=True):
            assert torch.equal(one, other)


def test_values_are_found_however_they_lie_in_memory() -> None:
    torch.manual_seed(0)
    conv = layer(16, 32, bias=True)
    twin, x = WinogradConv.of(conv), torch.randn(3, 6, 5, 16)
    conv.weight = nn.Parameter(torch.randn(3, 32, 3, 16).permute(1, 3, 0, 2))
    conv.bias = nn.Parameter(torch.randn(1).expand(32))
    for images in (
        x.permute(0, 3, 2, 1),
        x.permute(0, 3, 1, 2).contiguous(),
        x[:1].permute(0, 3, 1, 2).expand(4, -1, -1, -1),
        torch._neg_view(x.permute(0, 3, 1, 2)),
    ):
        y, wanted = twin(images), conv(images)
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-4)
        for gradient in (
            torch.randn(y.shape[0], 1, 1, 1).expand_as(y),
            torch._neg_view(torch.randn(y.shape)),
        ):
            got = torch.autograd.grad(y, [conv.weight], gradient, retain_graph=True)
            want = torch.autograd.grad(wanted, [conv.weight], gradient, retain_graph=True)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_it_is_differentiated_once() -> None:
    """A gradient that is a constant for torch does not make that of the input one."""
    conv, x = layer(16, 16), torch.randn(2, 16, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"once: with create_graph=True, train by engine: eager"):
        torch.autograd.grad(WinogradConv.of(conv)(x).sum(), x, create_graph=True)


def test_a_backward_pass_within_autocast() -> None:
    conv, x = layer(16, 16), torch.randn(2, 16, 4, 4, requires_grad=True)
    y = WinogradConv.of(conv)(x)
    apart = torch.autograd.grad(y.sum(), [x, conv.weight], retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        within = torch.autograd.grad(y.sum(), [x, conv.weight])
    for one, other in zip(apart, within, strict=True):
        assert torch.equal(one, other)


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
    whole = conv.weight
    conv.weight = nn.Parameter(whole[:41])  # as pruning does it
    assert torch.equal(twin(x), conv(x))
    conv.weight = whole
    conv.bias = nn.Parameter(torch.zeros(1))
    with pytest.raises(RuntimeError, match="bias"):
        twin(x)
    conv.bias = None
    conv.double()
    assert torch.equal(twin(x.double()), conv(x.double()))
    with pytest.raises(ValueError, match="can't take Conv2d"):
        WinogradConv.of(layer(64, 64, stride=2))


class Twice(nn.Conv2d):
    """Others of the kind may do anything."""

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = super().__call__(x)
        return 2 * y


def test_which_convolutions_are_taken() -> None:
    for inputs, outputs in [(16, 16), (32, 64), (48, 16), (256, 512)]:
        assert can_transform(layer(inputs, outputs))
        assert can_transform(layer(inputs, outputs, bias=True))
    for inputs, outputs in [(64, 40), (24, 64), (3, 64)]:
        assert not can_transform(layer(inputs, outputs))
    for other in (
        {"padding": 0},
        {"padding": "same"},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding_mode": "circular"},
        {"kernel_size": 5, "padding": 2},
        {"dtype": torch.float64},
    ):
        assert not can_transform(layer(64, 64, **other))
    assert not can_transform(Twice(64, 64, 3, padding=1))
    assert not can_transform(nn.utils.parametrizations.weight_norm(layer(64, 64)))
    assert not can_transform(nn.ConvTranspose2d(64, 64, 3, padding=1))
    assert not can_transform(WinogradConv.of(layer(64, 64))), "it is one already"


def num_taken(net: nn.Module) -> int:
    return sum(isinstance(module, WinogradConv) for module in net.modules())


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        (VggSettings(width=32, head_width=8), 5),
        (ResnetSettings(width=64, depth=1), 4),
        (TorchvisionSettings.model_validate({"kind": "torchvision/resnet18"}), 13),
    ],
    ids=["vgg", "resnet", "torchvision/resnet18"],
)
def test_a_net_learns_and_is_scored_as_by_torch(settings: ModelSettings, taken: int) -> None:
    """Of three nets the nearest: now and then a ReLU's input, or two of a pooling's, are so near
    that rounding decides where a gradient goes, torch's as much as ours."""

    def gradients(logits: Tensor, own: nn.Module) -> Tensor:
        torch.manual_seed(1)
        learned = torch.autograd.grad(logits.square().mean(), list(own.parameters()))
        return torch.cat([gradient.flatten() for gradient in learned])

    far = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = settings.build((3, 32, 32), 5).to(memory_format=torch.channels_last)
        exact, twin = deepcopy(model).double(), fused(model)
        assert (num_taken(model), num_taken(twin)) == (0, taken)
        x = torch.randn(8, 3, 32, 32)
        got, wanted = gradients(twin(x), model), gradients(exact(x.double()), exact)
        far.append((got - wanted).norm() / wanted.norm())
    assert min(far) <= 1e-3, far
    scorer = folded(model.eval())
    assert num_taken(scorer) == taken
    assert num_taken(model) == 0
    with torch.no_grad():
        torch.testing.assert_close(
            scorer(x), exact.eval()(x.double()).float(), rtol=1e-3, atol=1e-3
        )
