"""Convolutions by AMX, with the norms after them: the numbers of torch. Skipped without AMX."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels.conv_norm import FusedConvNorm, can_fuse_convolution
from pipeline.kernels.library import can_convolve
from pipeline.kernels.norm import FusedNorm
from pipeline.models import ModelSettings
from pipeline.models.resnet import ResnetSettings
from pipeline.models.vgg import VggSettings
from pipeline.training.twins import folded, fused
from tests.trainings import NEEDS_COMPILER

CHANNELS_LAST = torch.channels_last
PARTS = {"": [], "relu": [nn.ReLU()], "pool, relu": [nn.MaxPool2d(2), nn.ReLU()]}


@pytest.fixture(autouse=True)
def _has_convolutions() -> Iterator[None]:
    if not can_convolve():
        pytest.skip("the processor has no AMX, or the compiler doesn't know it")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


pytestmark = NEEDS_COMPILER


def layer(inputs: int, outputs: int, size: int = 3) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """With random weights that bfloat16 has, laid out as a step has them."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    norm = nn.BatchNorm2d(outputs)
    with torch.no_grad():
        conv.weight.copy_(conv.weight.bfloat16())
        norm.weight.uniform_(-1, 1)
        norm.bias.uniform_(-1, 1)
    return conv.to(memory_format=CHANNELS_LAST), norm


def images(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16().contiguous(memory_format=CHANNELS_LAST)


def by(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y: Tensor = net(x)
    return y


def test_a_convolution_worked_out_by_hand() -> None:
    """One pixel is 1, in channel 5; the filter's taps for it are 1 to 9, for output 2 alone."""
    conv, norm = layer(16, 16)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[2, 5] = torch.arange(1.0, 10.0).view(3, 3)
        norm.weight.fill_(2.0)
        norm.bias.fill_(1.0)
    x = torch.zeros(1, 16, 4, 6, requires_grad=True)
    with torch.no_grad():
        x[0, 5, 0, 3] = 1.0
    norm.eps = 4.0
    y = by(FusedConvNorm(conv, FusedNorm(norm)), x)
    # The pixel is below the upper edge. It is the right neighbour of the pixel left of it, which
    # takes it by the tap 6, and is above the row below, which takes it by 3, 2 and 1.
    z = torch.tensor([[0, 0, 6, 5, 4, 0], [0, 0, 3, 2, 1, 0], [0] * 6, [0] * 6], dtype=torch.float)
    mean = 21 / 24
    deviation = (91 / 24 - mean**2 + 4) ** 0.5  # 36 + 25 + 16 + 9 + 4 + 1
    torch.testing.assert_close(y[0, 2].float(), (z - mean) / deviation * 2 + 1, rtol=2**-8, atol=0)
    torch.testing.assert_close(y[0, 3].float(), torch.ones(4, 6))
    # A gradient for the pixel (0, 3) of output 2, which sees the 1 by its middle tap. The norm
    # gives of it 2 / deviation * (it - 1/24 - its own share by the normalized pixels).
    gradient = torch.zeros_like(y)
    gradient[0, 2, 0, 3] = 1.0
    dweight, dx = torch.autograd.grad(y, [conv.weight, x], gradient)
    normalized = (z - mean) / deviation
    dz = -1 / 24 - normalized * normalized[0, 3] / 24
    dz[0, 3] += 1
    dz *= 2 / deviation
    assert dweight[:, 5].flatten(1).any(1).nonzero().tolist() == [[2]]
    # tap (row, column) of the filter: what the pixel (1 - row, 4 - column) has of the gradient
    taken = torch.stack([dz[1, [4, 3, 2]], dz[0, [4, 3, 2]]])
    torch.testing.assert_close(dweight[2, 5, :2], taken, rtol=2**-7, atol=0)
    assert not dweight[2, 5, 2].any(), "there are no pixels above the first row"
    back = nn.functional.conv_transpose2d(dz.view(1, 1, 4, 6), conv.weight[2:3, 5:6], padding=1)
    torch.testing.assert_close(dx[0, 5], back[0, 0], rtol=2**-6, atol=2**-8)
    assert not dx[0, 4].any()


SHAPES = [
    # (images, inputs, outputs, height, width)
    (3, 3, 16, 8, 10),  # colours
    (3, 1, 48, 6, 14),  # one, and an odd number of sixteens
    (2, 2, 16, 5, 6),  # two
    (2, 16, 16, 7, 32),  # pixels two by two
    (5, 16, 32, 6, 6),
    (2, 32, 16, 8, 48),
    (20, 48, 64, 8, 8),  # some images at a time, of which the last are fewer
    (3, 64, 80, 12, 2),
]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [*product(SHAPES, [3]), *product(SHAPES[3:], [1])],
    ids=str,
)
def test_the_same_as_torch_in_float64(
    shape: tuple[int, int, int, int, int], size: int, parts: list[nn.Module]
) -> None:
    count, inputs, outputs, height, width = shape
    if height % 2:
        parts = [part for part in parts if not isinstance(part, nn.MaxPool2d)]
    torch.manual_seed(0)
    conv, norm = layer(inputs, outputs, size)
    theirs = deepcopy(norm).double()
    x = images(count, inputs, height, width).requires_grad_(inputs > 3)
    y = by(FusedConvNorm(conv, FusedNorm(norm, *parts)), x)
    # The convolution is rounded to bfloat16 on its way: from there on all is exact.
    weight, exact = (tensor.detach().double().requires_grad_() for tensor in (conv.weight, x))
    z = nn.functional.conv2d(exact, weight, padding=size // 2)
    rounded = z + (z.bfloat16().double() - z).detach()
    wanted = nn.Sequential(theirs, *parts)(rounded)
    gradient = torch.randn_like(y)
    leaves = [conv.weight, norm.weight, norm.bias, *([x] if x.requires_grad else [])]
    got = torch.autograd.grad(y, leaves, gradient)
    want = torch.autograd.grad(
        wanted, [weight, theirs.weight, theirs.bias, exact], gradient.double()
    )
    assert got[0].dtype == torch.float32
    assert y.dtype == torch.bfloat16
    for one, other in zip((y, *got), (wanted, *want), strict=False):
        assert one.shape == other.shape
        # by the scale of what there is: of two roundings, where one of z turns out otherwise
        assert (one.double() - other).norm() <= 2**-8 * other.norm()
    torch.testing.assert_close(
        norm.state_dict(), dict(theirs.float().state_dict()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    ("shape", "size"), [*product(SHAPES, [3]), *product(SHAPES[3:], [1])], ids=str
)
@torch.no_grad()
def test_in_eval_mode_the_same_as_torch_in_float64(
    shape: tuple[int, int, int, int, int], size: int, parts: list[nn.Module]
) -> None:
    count, inputs, outputs, height, width = shape
    torch.manual_seed(0)
    conv, norm = layer(inputs, outputs, size)
    norm.running_mean, norm.running_var = torch.randn(outputs), torch.rand(outputs) + 0.5
    norm.eval()
    books = deepcopy(norm.state_dict())
    x = images(count, inputs, height, width)
    net = FusedConvNorm(conv, FusedNorm(norm, *parts), otherwise=nn.Identity)
    y = by(net, x)
    z = nn.functional.conv2d(x.double(), conv.weight.double(), padding=size // 2)
    wanted = nn.Sequential(deepcopy(norm).double(), *parts)(z.bfloat16().double())
    assert y.shape == wanted.shape
    assert y.dtype == torch.bfloat16
    assert (y.double() - wanted).norm() <= 2**-8 * wanted.norm()
    torch.set_num_threads(3)
    torch.testing.assert_close(by(net, x), y, rtol=0, atol=0)
    torch.testing.assert_close(norm.state_dict(), books, rtol=0, atol=0)


@torch.no_grad()
def test_in_eval_mode_what_the_kernels_cannot_take_is_done_otherwise() -> None:
    conv, norm = layer(16, 16)
    made: list[nn.Module] = []

    def otherwise() -> nn.Module:
        made.append(nn.Identity())
        return made[-1]

    net = FusedConvNorm(conv, FusedNorm(norm.eval()), otherwise)
    for x in (images(2, 16, 4, 5), images(2, 16, 1, 2), images(1, 16, 130, 130)):
        assert by(net, x) is x
    taken = images(2, 16, 4, 4)
    assert net(taken) is taken, "without autocast"
    assert by(net, taken) is not taken
    assert len(made) == 1
    norm.train()
    assert by(net, images(2, 16, 4, 5)).shape == (2, 16, 4, 5)
    assert len(made) == 1, "for eval mode alone"


@pytest.mark.parametrize("learns", ["conv.weight", "norm.norm.weight", "norm.norm.bias"])
def test_in_eval_mode_gradients_are_had_from_the_two(learns: str) -> None:
    torch.manual_seed(0)
    conv, norm = layer(16, 16)
    net, apart = FusedConvNorm(conv, FusedNorm(norm.eval())), nn.Sequential(conv, norm)
    net.requires_grad_(False)
    x, leaf = images(2, 16, 4, 4), net.get_parameter(learns).requires_grad_()
    got, wanted = (torch.autograd.grad(by(n, x).float().pow(3).sum(), leaf) for n in (net, apart))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("settings", "num_taken"),
    [(VggSettings(width=16, head_width=8), 6), (ResnetSettings(width=16, depth=1), 7)],
    ids=["vgg", "resnet"],
)
@pytest.mark.parametrize("side", [16, 20])  # with 20, the widths are 10 and 5 further on
@torch.no_grad()
def test_a_net_is_scored_as_well_as_by_torch(
    settings: ModelSettings, num_taken: int, side: int
) -> None:
    torch.manual_seed(0)
    model = settings.build((3, side, side), 10).to(memory_format=CHANNELS_LAST)
    x = torch.randn(32, 3, side, side).contiguous(memory_format=CHANNELS_LAST)
    for _ in range(3):
        model.train()(x)
    twin = folded(model.eval())
    kinds = [type(module) for module in twin.modules()]
    assert kinds.count(FusedConvNorm) == num_taken
    exact = model(x)
    torch.testing.assert_close(twin(x), exact, rtol=1e-3, atol=1e-4)
    ours, theirs = ((by(net, x).float() - exact).norm() for net in (twin, model))
    assert 0 < ours <= 1.1 * theirs <= 0.1 * exact.norm()


@pytest.mark.parametrize("inputs", [3, 32])
def test_threads_change_no_number_but_the_weights_gradients_last_digits(inputs: int) -> None:
    torch.manual_seed(0)
    conv, norm = layer(inputs, 32)
    net = FusedConvNorm(conv, FusedNorm(norm, nn.ReLU()))
    x = images(50, inputs, 8, 8).requires_grad_(inputs > 3)
    leaves = [norm.weight, norm.bias, *([x] if x.requires_grad else []), conv.weight]
    results = []
    for threads in (1, 2, 3, 3, 40):  # there are four groups of images for them
        torch.set_num_threads(threads)
        y = by(net, x)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), leaves)))
    for other in results[1:]:
        torch.testing.assert_close(other[:-1], results[0][:-1], rtol=0, atol=0)
        torch.testing.assert_close(other[-1], results[0][-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[3], results[2], rtol=0, atol=0)


def test_others_who_use_the_tiles_are_left_alone() -> None:
    """oneDNN keeps its own arrangement of them from one call to the next."""
    torch.manual_seed(0)
    conv, norm = layer(32, 32)
    net, x = FusedConvNorm(conv, FusedNorm(norm)), images(4, 32, 16, 16)
    matrix = torch.randn(40, 72).bfloat16()
    filters = torch.randn(24, 32, 3, 3).bfloat16()

    def theirs() -> tuple[Tensor, Tensor]:
        return matrix @ matrix.T, nn.functional.conv2d(x, filters)

    alone = theirs()
    for _ in range(3):
        y = by(net, x.clone().requires_grad_())
        torch.testing.assert_close(theirs(), alone, rtol=0, atol=0)
        y.float().sum().backward()
        torch.testing.assert_close(theirs(), alone, rtol=0, atol=0)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_what_is_not_a_number_stays_visible(parts: list[nn.Module]) -> None:
    x = torch.zeros(2, 16, 4, 4)
    x[1, 3, 0, 0] = torch.nan
    conv, norm = layer(16, 16)
    assert by(FusedConvNorm(conv, FusedNorm(norm, *parts)), x).isnan().all()


def test_what_the_kernels_cannot_take_goes_to_the_two() -> None:
    """In float32, with an odd width, and with a gradient for colours."""
    torch.manual_seed(0)
    conv, norm = layer(16, 16)
    net, apart = FusedConvNorm(conv, FusedNorm(norm)), nn.Sequential(conv, deepcopy(norm))
    x = images(2, 16, 4, 4).float()
    torch.testing.assert_close(net(x), apart(x), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.float16):
        assert net(x).dtype == torch.float16
    odd = images(2, 16, 4, 5)
    answers = [by(net, odd), by(apart, odd)]
    torch.testing.assert_close(*answers, rtol=2**-7, atol=2**-7)
    gradients = [torch.autograd.grad(y.float().pow(3).sum(), conv.weight)[0] for y in answers]
    assert (gradients[0] - gradients[1]).norm() <= 0.02 * gradients[1].norm()
    assert by(net, images(0, 16, 4, 4)).shape == (0, 16, 4, 4)
    with pytest.raises(RuntimeError, match=r"expected input.* to have 16 channels"):
        by(net, images(2, 32, 4, 4))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        by(net, images(1, 16, 1, 1))
    pooled = FusedConvNorm(conv, FusedNorm(norm, nn.MaxPool2d(2)))
    odd = images(2, 16, 5, 4)
    torch.testing.assert_close(
        by(pooled, odd), nn.functional.max_pool2d(by(apart, odd), 2), rtol=2**-7, atol=2**-7
    )
    large = images(1, 16, 130, 130)
    torch.testing.assert_close(by(net, large), by(apart, large), rtol=2**-7, atol=2**-7)
    coloured = FusedConvNorm(layer(3, 16)[0], FusedNorm(norm))
    colours = torch.randn(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(by(coloured, colours).sum(), colours)
    assert gradient.shape == colours.shape
    with pytest.raises(ValueError, match="can't take Conv2d"):
        FusedConvNorm(nn.Conv2d(16, 16, 3), FusedNorm(norm))
    with pytest.raises(ValueError, match="can't take Conv2d"):
        FusedConvNorm(layer(16, 32)[0], FusedNorm(norm))


@pytest.mark.parametrize(
    ("settings", "num_taken", "num_norms"),
    [(VggSettings(width=16, head_width=8), 6, 6), (ResnetSettings(width=16, depth=1), 7, 9)],
    ids=["vgg", "resnet"],
)
def test_a_twin_learns_as_its_net_does(
    settings: ModelSettings, num_taken: int, num_norms: int
) -> None:
    """Without those with a stride. It is as near to float32 as the net itself is in bfloat16."""
    torch.manual_seed(0)
    model = settings.build((3, 16, 16), 3).to(memory_format=CHANNELS_LAST)
    copies, twin = [deepcopy(model) for _ in range(2)], fused(model)
    kinds = [type(module) for module in twin.modules()]
    assert kinds.count(FusedConvNorm) == num_taken
    assert kinds.count(FusedNorm) == num_norms
    x = torch.randn(32, 3, 16, 16).contiguous(memory_format=CHANNELS_LAST)

    def gradients(logits: Tensor, own: nn.Module) -> Tensor:
        learned = torch.autograd.grad(logits.float().square().mean(), list(own.parameters()))
        return torch.cat([gradient.flatten() for gradient in learned])

    exact = gradients(copies[0](x), copies[0])
    theirs = (gradients(by(copies[1], x), copies[1]) - exact).norm()
    ours = (gradients(by(twin, x), model) - exact).norm()
    assert ours <= 1.1 * theirs <= 0.25 * exact.norm()


def test_layers_that_are_cast_later_go_to_the_two() -> None:
    """They are shared with the net, which whoever holds it may do with as they like."""
    torch.manual_seed(0)
    conv, norm = layer(16, 16)
    net, x = FusedConvNorm(conv, FusedNorm(norm)), images(2, 16, 4, 4)
    wanted = by(net, x)
    conv.bfloat16()
    torch.testing.assert_close(by(net, x), wanted, rtol=2**-7, atol=2**-7)
    norm.double()
    with pytest.raises(RuntimeError, match="mixed dtype"):  # torch's own words
        by(net, x)


def test_another_process_asks_for_the_tiles_itself(tmp_path: Path) -> None:
    conv, norm = layer(16, 16)
    net, x = FusedConvNorm(conv, FusedNorm(norm)), images(2, 16, 4, 4)
    file = tmp_path / "net"
    file.write_bytes(pickle.dumps((net, x)))
    code = (
        "import pathlib, pickle, torch\n"
        f"net, x = pickle.loads(pathlib.Path({str(file)!r}).read_bytes())\n"
        "with torch.autocast('cpu', torch.bfloat16): print(net(x).float().sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == by(net, x).float().sum().item()


def test_which_convolutions_are_taken() -> None:
    for inputs, outputs, size in [(1, 16, 3), (3, 16, 3), (16, 48, 3), (64, 32, 1)]:
        assert can_fuse_convolution(layer(inputs, outputs, size)[0])
    plain = {"kernel_size": 3, "padding": 1, "bias": False}
    for other in (
        {"bias": True},
        {"padding": 0},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 16},
        {"padding_mode": "circular"},
        {"kernel_size": 5, "padding": 2},
        {"dtype": torch.float64},
    ):
        assert not can_fuse_convolution(nn.Conv2d(16, 16, **{**plain, **other}))
    for inputs, outputs, size in [(4, 16, 3), (3, 16, 1), (16, 24, 3)]:
        assert not can_fuse_convolution(layer(inputs, outputs, size)[0])
    assert not can_fuse_convolution(nn.Linear(16, 16))
    watched = layer(16, 16)[0]
    watched.register_forward_hook(lambda *_: None)
    assert not can_fuse_convolution(watched)
