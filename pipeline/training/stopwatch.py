"""How long a stretch of work took, on devices that work while the host goes on."""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Stopwatch:
    """Times what is inside the `with`. Nothing waits for the device, so on one that works by itself
    `seconds` may be asked only after something else has."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        if self._on_gpu:
            self._first, self._last = (_event(), _event())

    def __enter__(self) -> Stopwatch:
        if self._on_gpu:
            self._first.record(torch.cuda.current_stream(self._device))
        self._began = self._ended = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_gpu:
            self._last.record(torch.cuda.current_stream(self._device))
        self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long it took, above 0."""
        if self._on_gpu:
            return max(float(self._first.elapsed_time(self._last)) / 1000, 1e-9)
        return self._ended - self._began


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
