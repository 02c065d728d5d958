"""What a machine can do at best: products of matrices, and copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case
from benchmarks.timing import rounds_of
from pipeline.models import build_model
from pipeline.regularizers import RegularizationSettings
from pipeline.training.precision import resolve_precision

ROUNDS = 8
SIDE_ON_CPU, SIDE_ON_GPU = 2_048, 8_192
BYTES_ON_CPU, BYTES_ON_GPU = 2**28, 2**30


@dataclass(frozen=True)
class Ceiling:
    """The best of several rounds.

    Attributes:
        flops_per_sec: of a product of square matrices, in `dtype`.
        bytes_per_sec: read and written by a copy.
    """

    flops_per_sec: float
    bytes_per_sec: float
    dtype: torch.dtype

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.flops_per_sec / 1e9:,.0f} GFLOP/s in {name} (matmul), "
            f"{self.bytes_per_sec / 1e9:,.1f} GB/s (copy)"
        )


def measure_ceiling(device: str = "cpu") -> Ceiling:
    """By the precision that training would use there."""
    where = torch.device(device)
    dtype = resolve_precision("auto", where)
    side = SIDE_ON_GPU if where.type == "cuda" else SIDE_ON_CPU
    num_bytes = BYTES_ON_GPU if where.type == "cuda" else BYTES_ON_CPU
    left, right = torch.rand(2, side, side, device=where).to(dtype)
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    product = min(rounds_of(lambda: torch.mm(left, right), where, ROUNDS))
    copy = min(rounds_of(lambda: target.copy_(source), where, ROUNDS))
    return Ceiling(2 * side**3 / product, 2 * num_bytes / copy, dtype)


def forward_flops(case: Case) -> float:
    """Operations of the products of an image's way through the net; a multiply-add is two."""
    net = build_model(case.net, RegularizationSettings(), (3, 32, 32), 10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(2, 3, 32, 32))
    return float(counter.get_total_flops()) / 2
