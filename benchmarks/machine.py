"""What a benchmark ran on, and how busy it was with other things."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch
import torchvision

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "CXX")
"""By which libraries and the kernels can be kept to less than the processor has."""


def describe() -> dict[str, str]:
    """Processor, cores, versions: what absolute figures depend on; and what was kept to less."""
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    return {
        "processor": f"{_cpuinfo('model name')}, {len(os.sched_getaffinity(0))} cores",
        "flags": " ".join(flag for flag in _FLAGS if flag in _cpuinfo("flags").split()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        **({"kept to": ", ".join(limits)} if limits else {}),
    }


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores other programs kept busy during so many seconds of rest (Linux)."""
    before = _busy_sec()
    time.sleep(seconds)
    return (_busy_sec() - before) / seconds


def _busy_sec() -> float:
    user, nice, system = Path("/proc/stat").read_text(encoding="ascii").split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return platform.machine()
