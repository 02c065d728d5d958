"""Which arithmetic the forward and backward pass use."""

from __future__ import annotations

from typing import Literal

import torch


def resolve_precision(
    precision: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> torch.dtype:
    """The dtype that autocast uses; `auto` takes bfloat16 only where it is native.

    Native is not always faster: on a CPU a study measures both first, and names one of them.
    """
    if precision == "auto":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
