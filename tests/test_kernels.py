"""The kernels for a CPU: the numbers of torch, from a library that is built once; or why not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels import library as building
from pipeline.kernels.library import KernelError, library, missing
from pipeline.kernels.norm import FusedNorm, can_follow, can_fuse

CHANNELS_LAST = torch.channels_last
PARTS = {
    "": [],
    "relu": [nn.ReLU()],
    "pool": [nn.MaxPool2d(2)],
    "relu, pool": [nn.ReLU(), nn.MaxPool2d(2)],
    "pool, relu": [nn.MaxPool2d(2), nn.ReLU()],
}


def test_a_norm_worked_out_by_hand() -> None:
    """One channel, four pixels: 1, 3, 5, 7 have mean 4 and variance 5."""
    norm = nn.BatchNorm2d(1, eps=4.0, momentum=0.5)
    with torch.no_grad():
        norm.weight.fill_(3.0)
        norm.bias.fill_(1.0)
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 2, 2).requires_grad_()
    # (x - 4) / sqrt(5 + 4) * 3 + 1
    y = FusedNorm(norm)(x)
    assert y.flatten().tolist() == pytest.approx([-2.0, 0.0, 2.0, 4.0], abs=1e-6)
    assert FusedNorm(norm, nn.ReLU(), nn.MaxPool2d(2))(x).tolist() == [[[[pytest.approx(4.0)]]]]
    # From 0 and 1, twice half the way to 4 and to the unbiased variance, 20 / 3.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(3.0)
    assert norm.running_var.item() == pytest.approx((1 + 20 / 3) / 4 + 10 / 3)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 2
    # Normalized, x is -1, -1/3, 1/3, 1; of a gradient for the last pixel alone, 1/4 is its mean
    # and 1/4 its product with these. dx = 3 / 3 * (g - 1/4 - 1/4 * normalized * (5 + 4) / (5 + 4)).
    gradient = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2)
    dx, dweight, dbias = torch.autograd.grad(y, [x, norm.weight, norm.bias], gradient)
    assert dx.flatten().tolist() == pytest.approx([0.0, -1 / 6, -1 / 3, 0.5], abs=1e-6)
    assert (dweight.item(), dbias.item()) == (pytest.approx(1.0), pytest.approx(1.0))


def in_turn(norm: nn.Module, parts: list[nn.Module], x: Tensor) -> Tensor:
    for part in (norm, *parts):
        x = part(x)
    return x


def random_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(-1, 1)  # of either sign: a negative one turns the order round
        norm.bias.uniform_(-1, 1)
    return norm


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)], ids=str
)
def test_the_same_as_torch_in_float64(
    parts: list[nn.Module], dtype: torch.dtype, tolerance: float
) -> None:
    """Numbers of channels around 16, the kernels' width; images of several tiles."""
    torch.manual_seed(0)
    sizes = [(8, 6), (32, 48)]
    if dtype == torch.float32:  # pooled by torch, which finds equals among what it has rounded
        sizes.append((7, 6))
    for channels, (height, width) in product((4, 16, 21, 48), sizes):
        x = (torch.randn(5, channels, height, width) * 3 + 20).to(dtype)
        x = x.contiguous(memory_format=CHANNELS_LAST).requires_grad_()
        exact = x.detach().double().requires_grad_()
        ours = random_norm(channels)
        theirs = deepcopy(ours).double()
        y, wanted = FusedNorm(ours, *parts)(x), in_turn(theirs, parts, exact)
        gradient = torch.randn_like(wanted).to(dtype)
        got = torch.autograd.grad(y, [x, ours.weight, ours.bias], gradient)
        want = torch.autograd.grad(wanted, [exact, theirs.weight, theirs.bias], gradient.double())
        assert y.dtype == got[0].dtype == dtype
        near(y, wanted, tolerance)
        near(got[0], want[0], tolerance)
        for one, other in zip(got[1:], want[1:], strict=True):
            near(one, other, 1e-5)  # sums over all pixels, in float32 whatever x is
        torch.testing.assert_close(
            ours.state_dict(), dict(theirs.float().state_dict()), rtol=2e-6, atol=1e-6
        )
        with torch.no_grad():
            near(
                FusedNorm(ours.eval(), *parts)(x),
                in_turn(deepcopy(ours).double().eval(), parts, exact),
                tolerance,
            )


def near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    """As near as the dtype allows, by the scale of what there is."""
    assert got.shape == wanted.shape
    assert (got.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_sums_do_not_depend_on_threads() -> None:
    """A study keeps its threads for the sake of torch's own sums; these don't need it to."""
    before = torch.get_num_threads()
    torch.manual_seed(0)
    x = torch.randn(16, 20, 18, 18, requires_grad=True)
    norm = random_norm(20)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = FusedNorm(norm, nn.ReLU(), nn.MaxPool2d(2))(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, norm.weight, norm.bias])))
    torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_equal_pixels_share_no_gradient() -> None:
    """Of equals the first pixel is the largest, as torch has it: in bfloat16 there are many."""
    norm = nn.BatchNorm2d(1, affine=True)
    x = torch.tensor([[2.0, 2.0, 1.0, 0.0], [2.0, 0.0, 1.0, 1.0]]).view(1, 1, 2, 4)
    both = [x.clone().requires_grad_() for _ in range(2)]
    pool = nn.MaxPool2d(2)
    FusedNorm(norm, pool)(both[0]).sum().backward()
    pool(norm(both[1])).sum().backward()
    torch.testing.assert_close(both[0].grad, both[1].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_what_is_not_a_number_stays_visible(parts: list[nn.Module], number: float) -> None:
    """A ReLU or a maximum that hid it would hide that a training has diverged."""
    x = torch.zeros(2, 16, 4, 4, dtype=torch.bfloat16)
    x[0, 3, 0, 0] = number
    norm = nn.BatchNorm2d(16)
    y = FusedNorm(norm, *parts)(x)
    assert y[:, 3].isnan().all()
    assert y.isnan().sum() == y[:, 3].numel()
    assert norm.running_var is not None
    assert norm.running_var.isnan().nonzero().tolist() == [[3]]


def test_a_channel_that_does_not_vary_has_no_variance() -> None:
    norm = nn.BatchNorm2d(1, momentum=1.0)
    FusedNorm(norm)(torch.full((8, 1, 40, 40), 1e3))
    assert norm.running_var is not None
    assert norm.running_var.item() == 0.0


def test_what_the_kernels_cannot_take_goes_to_the_parts() -> None:
    norm = random_norm(3)
    x = torch.randn(2, 3, 4, 4)
    halves = FusedNorm(norm, nn.ReLU())(x.half())
    torch.testing.assert_close(halves, nn.ReLU()(deepcopy(norm)(x.half())))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        FusedNorm(norm)(torch.ones(1, 3, 1, 1))


def test_which_modules_are_taken() -> None:
    assert can_fuse(nn.BatchNorm2d(3))
    for other in (
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3).double(),
        nn.SyncBatchNorm(3),
        nn.GroupNorm(1, 3),
    ):
        assert not can_fuse(other)
    assert can_follow(nn.ReLU(), [])
    assert can_follow(nn.MaxPool2d(2), [nn.ReLU()])
    assert not can_follow(nn.MaxPool2d(2), [nn.MaxPool2d(2)])
    for other in (
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
    ):
        assert not can_follow(other, [])


# Building it, in folders of the test's own. Compilers are real, or shell scripts that fail.


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without the library; in `cache` is nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    building._load.cache_clear()
    yield tmp_path
    building._load.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_it_is_built_once(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == ""
    (built,) = (elsewhere / "cache" / "regsearch").iterdir()
    when = built.stat().st_mtime_ns
    building._load.cache_clear()
    monkeypatch.setattr("shutil.which", lambda _: None)  # the compiler may be gone by then
    library()
    assert [path.stat().st_mtime_ns for path in built.parent.iterdir()] == [when]


def test_those_who_build_it_at_once_do_not_disturb_each_other(elsewhere: Path) -> None:
    code = "from pipeline.kernels.library import library; library()"
    many = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(3)]
    assert [one.wait() for one in many] == [0, 0, 0]
    assert [path.suffix for path in (elsewhere / "cache" / "regsearch").iterdir()] == [".so"]


def test_a_compiler_without_openmp_will_do(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject = 'for a; do [ "$a" = -fopenmp ] && { echo "error: -fopenmp"; exit 1; }; done'
    monkeypatch.setenv("CXX", script(elsewhere / "c++", f'{reject}; exec g++ "$@"'))
    assert missing() == ""


def test_without_a_compiler_it_says_so(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    assert missing() == "there is no C++ compiler (g++, clang++)"
    with pytest.raises(KernelError, match="there is no C"):
        FusedNorm(nn.BatchNorm2d(4))


def test_a_compiler_that_fails_is_quoted_and_not_asked_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = elsewhere / "asked"
    words = "norm.cpp:1: error: no such instruction"
    failing = script(elsewhere / "c++", f"echo >> {asked}; echo '{words}' >&2; exit 1")
    monkeypatch.setenv("CXX", failing)
    assert missing() == missing() == f"{failing} failed: {words}"
    assert len(asked.read_text().splitlines()) == 3  # with less to ask for each time
    assert list((elsewhere / "cache" / "regsearch").iterdir()) == []


def test_a_folder_that_is_none_is_told_of(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "cache").write_text("")
    assert missing().startswith("the kernels can't be kept or loaded: [Errno 20] Not a directory")
    building._load.cache_clear()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["nobody"])
    assert missing() == "there is no home folder to keep the kernels in"


@pytest.mark.usefixtures("elsewhere")
def test_a_library_that_is_damaged_is_told_of() -> None:
    damaged = building.library_path()
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"\x7fELF")
    assert missing() == f"the kernels can't be kept or loaded: {damaged}: file too short"
