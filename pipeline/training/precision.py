"""Which arithmetic the forward and backward pass use."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

SIDE = 768
NUM_TURNS = 6
WORTHWHILE_GAIN = 1.3


def resolve_precision(
    precision: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> torch.dtype:
    """The dtype that autocast uses; `auto` takes bfloat16 where it is native and faster."""
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return bool(native) and bfloat16_gain() > WORTHWHILE_GAIN


@cache
def bfloat16_gain() -> float:
    """How many times faster the CPU multiplies matrices in bfloat16 than in float32.

    A processor that has the instructions is not always faster with them: AVX512-BF16 without AMX
    has been seen to gain 3.5 and 0.55. Measured once a process (less than 0.1 s), each dtype by the
    best of several turns, so that a busy machine doesn't change the answer.
    """
    dtypes = (torch.float32, torch.bfloat16)
    matrices = {dtype: torch.ones(SIDE, SIDE, dtype=dtype) for dtype in dtypes}
    best = dict.fromkeys(dtypes, float("inf"))
    for _ in range(NUM_TURNS):
        for dtype, matrix in matrices.items():
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
