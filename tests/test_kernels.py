"""The kernels for a CPU: the numbers of torch, from a library that is built once; or why not."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels import library as building
from pipeline.kernels.conv_norm import can_fuse_convolution
from pipeline.kernels.images import Changes, prepared
from pipeline.kernels.library import (
    SOURCES,
    KernelError,
    can_convolve,
    library,
    missing,
    must_be_built,
)
from pipeline.kernels.norm import FusedNorm, can_follow, can_fuse
from pipeline.kernels.winograd import WinogradConv
from pipeline.training.twins import fused
from tests.trainings import NEEDS_COMPILER

pytestmark = NEEDS_COMPILER
CHANNELS_LAST = torch.channels_last
PARTS = {
    "": [],
    "relu": [nn.ReLU()],
    "pool": [nn.MaxPool2d(2)],
    "relu, pool": [nn.ReLU(), nn.MaxPool2d(2)],
    "pool, relu": [nn.MaxPool2d(2), nn.ReLU()],
}


def in_all_channels(*pixels: float) -> Tensor:
    """An image of 2x2 pixels, the same in each of 16 channels."""
    return torch.tensor(pixels).view(1, 1, 2, 2).repeat(1, 16, 1, 1)


def test_a_norm_worked_out_by_hand() -> None:
    """1, 3, 5 and 7 have mean 4 and variance 5."""
    norm = nn.BatchNorm2d(16, eps=4.0, momentum=0.5)
    with torch.no_grad():
        norm.weight.fill_(3.0)
        norm.bias.fill_(1.0)
    x = in_all_channels(1.0, 3.0, 5.0, 7.0).requires_grad_()
    # (x - 4) / sqrt(5 + 4) * 3 + 1
    y = FusedNorm(norm)(x)
    torch.testing.assert_close(y, in_all_channels(-2.0, 0.0, 2.0, 4.0))
    pooled = FusedNorm(norm, nn.ReLU(), nn.MaxPool2d(2))(x)
    torch.testing.assert_close(pooled, torch.full((1, 16, 1, 1), 4.0))
    # From 0 and 1, twice half the way to 4 and to the unbiased variance, 20 / 3.
    torch.testing.assert_close(norm.running_mean, torch.full((16,), 3.0))
    torch.testing.assert_close(norm.running_var, torch.full((16,), (1 + 20 / 3) / 4 + 10 / 3))
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 2
    # Normalized, x is -1, -1/3, 1/3, 1; of a gradient for the last pixel alone, 1/4 is its mean
    # and 1/4 that of its product with these. dx = 3 / 3 * (g - 1/4 - 1/4 * normalized).
    gradient = in_all_channels(0.0, 0.0, 0.0, 1.0)
    dx, dweight, dbias = torch.autograd.grad(y, [x, norm.weight, norm.bias], gradient)
    torch.testing.assert_close(dx, in_all_channels(0.0, -1 / 6, -1 / 3, 0.5))
    torch.testing.assert_close(dweight, torch.ones(16))
    torch.testing.assert_close(dbias, torch.ones(16))


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
    """Multiples of 16 channels, the kernels' width; images of less than a tile and of several."""
    torch.manual_seed(0)
    sizes = [(8, 6), (32, 48)]
    if dtype == torch.float32:  # pooled by torch, which finds equals among what it has rounded
        sizes.append((7, 6))
    for channels, (height, width) in product((16, 48, 80), sizes):
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
    x = torch.randn(64, 32, 18, 18, requires_grad=True)  # of more than a tile a part
    norm = random_norm(32)
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
    pool, norm = nn.MaxPool2d(2), nn.BatchNorm2d(16)
    both = [in_all_channels(2.0, 2.0, 1.0, 2.0).repeat(2, 1, 2, 2) for _ in range(2)]
    both[0].requires_grad_()
    both[1].requires_grad_()
    FusedNorm(norm, pool)(both[0]).sum().backward()
    pool(norm(both[1])).sum().backward()
    torch.testing.assert_close(both[0].grad, both[1].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are its instructions")
@pytest.mark.parametrize("lacking", ["avx512f", "avx"])
def test_a_processor_of_shorter_vectors_gets_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Most have 8 values in one, or 4: here as a compiler that takes this processor for such."""
    torch.manual_seed(0)
    norm, x = random_norm(32), torch.randn(4, 32, 16, 18, requires_grad=True)
    conv = WinogradConv.of(nn.Conv2d(32, 64, 3, padding=1))
    pixels = torch.randint(0, 256, (6, 3, 9, 21), dtype=torch.uint8)
    turned = Changes(maps=torch.tensor([0.8, -0.6, 1.3, 0.6, 0.8, -2.1, 0, 0, 1]).repeat(6, 1))

    def numbers() -> list[Tensor]:
        y = FusedNorm(norm, nn.MaxPool2d(2), nn.ReLU())(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, norm.weight, norm.bias])
        moments = torch.ones(3) / 3, torch.ones(3) / 7
        shown = prepared(pixels, *moments, torch.float32, None, turned)
        z = conv(x)
        gradients += torch.autograd.grad(z.square().sum(), [x, *conv.parameters()])
        return [y, z, *gradients, shown, prepared(pixels, *moments, torch.bfloat16)]

    wanted = numbers()
    monkeypatch.setattr(building, "_load", cache(building._load.__wrapped__))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler = script(tmp_path / "c++", f'echo x >> {tmp_path}/calls; exec g++ "$@" -mno-{lacking}')
    monkeypatch.setenv("CXX", compiler)
    for got, want in zip(numbers(), wanted, strict=True):
        near(got, want.double(), 1e-5)
    between = -1 - torch.tensor([1.0, 3.0]) / 2**8  # of two neighbours that bfloat16 has
    rounded = prepared(torch.zeros(1, 2, 1, 1).byte(), between, torch.ones(2), torch.bfloat16)
    assert rounded.flatten().tolist() == [1, 1 + 2**-6]  # to the even one
    num_sources = len(list(SOURCES.glob("*.cpp")))  # each is compiled once, and all linked once
    assert (tmp_path / "calls").read_text() == "x\n" * (num_sources + 1)


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


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_in_eval_mode_one_pixel_that_is_no_number_is_seen_in_its_window(
    at: tuple[int, int],
) -> None:
    x = torch.randn(1, 16, 4, 4)
    x[0, 3, at[0], 2 + at[1]] = torch.nan
    with torch.inference_mode():
        y = FusedNorm(nn.BatchNorm2d(16).eval(), nn.MaxPool2d(2), nn.ReLU())(x)
    assert y.isnan().nonzero().tolist() == [[0, 3, 0, 1]]


def test_a_channel_that_does_not_vary_has_no_variance() -> None:
    norm = nn.BatchNorm2d(16, momentum=1.0)
    FusedNorm(norm)(torch.full((8, 16, 40, 40), 1e3))
    torch.testing.assert_close(norm.running_var, torch.zeros(16))


def test_what_the_kernels_cannot_take_goes_to_the_parts() -> None:
    norm, x = random_norm(16), torch.randn(2, 16, 4, 4)
    fused = FusedNorm(norm, nn.ReLU())
    torch.testing.assert_close(fused(x.half()), nn.ReLU()(deepcopy(norm)(x.half())))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        fused(torch.ones(1, 16, 1, 1))
    with pytest.raises(RuntimeError, match="running_mean should contain 4096 elements"):
        fused(torch.ones(2, 4096, 1, 1))
    norm.eval()
    assert fused(x).requires_grad, "a norm whose averages are fixed passes gradients on"
    assert fused(torch.ones(2, 16, 4, 0)).shape == (2, 16, 4, 0)
    with pytest.raises(ValueError, match="can't take BatchNorm2d"):
        FusedNorm(nn.BatchNorm2d(3))


@pytest.mark.parametrize("learns", ["weight", "bias"])
def test_in_eval_mode_gradients_are_had_from_the_parts(learns: str) -> None:
    norm = random_norm(16).eval().requires_grad_(False)
    leaf = norm.get_parameter(learns).requires_grad_()
    x = torch.randn(2, 16, 4, 4)
    got, wanted = (
        torch.autograd.grad(net(x).pow(3).sum(), leaf) for net in (FusedNorm(norm), norm)
    )
    torch.testing.assert_close(got, wanted)


def test_which_modules_are_taken() -> None:
    assert can_fuse(nn.BatchNorm2d(32))
    for other in (
        nn.BatchNorm2d(24),
        nn.BatchNorm2d(32, affine=False),
        nn.BatchNorm2d(32, track_running_stats=False),
        nn.BatchNorm2d(32, momentum=None),
        nn.BatchNorm2d(32).double(),
        nn.SyncBatchNorm(32),
        nn.GroupNorm(1, 32),
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
    """A user without the library: in `cache` is nothing yet. It has no more than names in it."""
    source = tmp_path / "tiny.cpp"
    source.write_text(
        "".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in building.ARGUMENTS)
    )
    monkeypatch.setattr(building, "SOURCES", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    building._load.cache_clear()
    yield tmp_path
    building._load.cache_clear()


def kernels(folder: Path) -> Path:
    return folder / "cache" / "regsearch" / "kernels"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_it_is_built_once(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert must_be_built()
    before = os.umask(0o002)  # as some systems have it
    assert missing() == ""
    os.umask(before)
    assert not must_be_built()
    (built,) = kernels(elsewhere).iterdir()
    when = built.stat().st_mtime_ns
    building._load.cache_clear()
    monkeypatch.setattr("shutil.which", lambda _: None)  # the compiler may be gone by then
    library()
    assert [path.stat().st_mtime_ns for path in built.parent.iterdir()] == [when]


def test_those_who_build_it_at_once_do_not_disturb_each_other(elsewhere: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.kernels import library; "
        f"library.SOURCES = Path({str(elsewhere)!r}); library.library()"
    )
    many = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(3)]
    assert [one.wait() for one in many] == [0, 0, 0]
    assert [path.suffix for path in kernels(elsewhere).iterdir()] == [".so"]


def test_all_sources_are_compiled_at_once(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "other.cpp").write_text("")
    two = f"$(ls {elsewhere}/*.begun | wc -l) -ge 2"
    meet = f"touch {elsewhere}/$$.begun; until [ {two} ]; do sleep 0.05; done"
    compiler = f'case " $* " in *" -c "*) {meet};; esac; exec g++ "$@"'
    monkeypatch.setenv("CXX", script(elsewhere / "c++", compiler))
    monkeypatch.setattr(building, "BUILD_SEC", 30.0)
    assert missing() == ""


def test_what_a_compiler_is_told_is_built_apart(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "g++")
    assert missing() == ""
    building._load.cache_clear()
    monkeypatch.setenv("CXX", "g++ -mno-avx2")
    assert missing() == ""
    assert len(list(kernels(elsewhere).iterdir())) == 2


def test_a_compiler_without_openmp_will_do(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject = 'for a; do [ "$a" = -fopenmp ] && { echo "error: -fopenmp"; exit 1; }; done'
    monkeypatch.setenv("CXX", script(elsewhere / "c++", f'{reject}; exec g++ "$@"'))
    assert missing() == ""


def test_a_compiler_that_knows_no_amx_builds_the_others(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "SOURCES", SOURCES)
    reject = 'for a; do [ "$a" = -march=native ] && { echo "error: $a"; exit 1; }; done'
    monkeypatch.setenv("CXX", script(elsewhere / "c++", f'{reject}; exec g++ "$@" -O0'))
    assert missing() == ""
    assert not can_convolve()
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    assert not can_fuse_convolution(conv)
    twin = fused(nn.Sequential(conv, nn.BatchNorm2d(16)))
    assert [type(part) for part in twin] == [WinogradConv, FusedNorm]
    x = torch.tensor([1.0, 3.0]).repeat(16, 1).T.view(2, 16, 1, 1)
    torch.testing.assert_close(twin[1](x), x - 2, rtol=1e-5, atol=0)


def test_without_a_compiler_it_says_so(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    assert not must_be_built()
    assert missing() == "there is no C++ compiler (c++, g++, clang++)"
    with pytest.raises(KernelError, match="there is no C"):
        FusedNorm(nn.BatchNorm2d(16))
    building._load.cache_clear()
    monkeypatch.setenv("CXX", "icpx -O1")
    assert missing() == "there is no C++ compiler 'icpx', which CXX names"


def test_a_compiler_that_fails_is_quoted_and_not_asked_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = elsewhere / "asked"
    words = "norm.cpp:1: error: no such instruction"
    failing = script(
        elsewhere / "c++", f"echo $1 >> {asked}; printf '{words} \\377\\n' >&2; exit 1"
    )
    monkeypatch.setenv("CXX", f"{failing} -own")
    assert missing() == missing() == f"{failing} -own failed: {words} \ufffd"
    assert asked.read_text().split() == ["-own"] * 4  # with less to ask for each time
    assert list(kernels(elsewhere).iterdir()) == []


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = elsewhere / "started"
    hanging = script(elsewhere / "c++", f"sleep 300 & echo $! > {started}; wait")
    monkeypatch.setenv("CXX", hanging)
    monkeypatch.setattr(building, "BUILD_SEC", 1.0)
    assert missing() == f"{hanging} took more than 1 s"
    assert_ended(int(started.read_text()))


def test_compilers_end_when_a_user_interrupts(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits, and one that has ended before what it started."""
    (elsewhere / "other.cpp").write_text("")
    started = elsewhere / "started"
    wait = 'case "$*" in *other*) wait;; esac'
    hanging = script(elsewhere / "c++", f"sleep 300 & echo $! >> {started}; {wait}")
    monkeypatch.setenv("CXX", hanging)
    interrupting = threading.Thread(target=interrupt_once_one_has_ended, args=(started,))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        missing()
    interrupting.join()
    both = started.read_text().split()
    assert len(both) == 2
    for one in both:
        assert_ended(int(one))


def interrupt_once_one_has_ended(started: Path) -> None:
    while not (started.exists() and len(started.read_text().split()) == 2):
        time.sleep(0.05)
    while psutil.STATUS_ZOMBIE not in [each.status() for each in psutil.Process().children()]:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def assert_ended(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):  # or dead, where nobody asks after it
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_folder_that_is_none_is_told_of(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "cache").write_text("")
    assert missing().startswith("the kernels can't be kept or loaded: [Errno 20] Not a directory")
    building._load.cache_clear()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["nobody"])
    assert missing() == "there is no home folder to keep the kernels in"


@pytest.mark.usefixtures("elsewhere")
def test_a_folder_that_may_not_be_looked_into_is_no_reason_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(_: Path) -> bool:  # as Python has it before 3.14; root may look anywhere
        raise PermissionError

    monkeypatch.setattr(Path, "exists", forbidden)
    assert not must_be_built()


@pytest.mark.usefixtures("elsewhere")
def test_what_others_can_write_to_is_not_loaded() -> None:
    path = building.library_path()
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o777)
    assert missing() == f"others can write to {path.parent}"
    path.parent.chmod(0o700)
    path.write_bytes(b"")
    path.chmod(0o666)
    building._load.cache_clear()
    assert missing() == f"others can write to {path}"


@pytest.mark.usefixtures("elsewhere")
def test_a_library_that_is_damaged_is_built_again() -> None:
    damaged = building.library_path()
    damaged.parent.mkdir(mode=0o700, parents=True)
    damaged.write_bytes(b"\x7fELF")
    damaged.chmod(0o600)
    assert missing() == ""
