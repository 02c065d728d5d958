"""How long stretches of work took, on devices that work while the host goes on."""

from __future__ import annotations

import time
from types import TracebackType

import torch

_Moment = float | torch.cuda.Event


class Stopwatch:
    """Times what is inside each `with` of it, all together. Nothing waits for the device, so on one
    that works by itself `seconds` may be asked only after something else has."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moments: list[tuple[_Moment, _Moment]] = []

    def __enter__(self) -> Stopwatch:
        self._began = self._now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._moments.append((self._began, self._now()))

    @property
    def seconds(self) -> float:
        """How long it took, above 0."""
        return max(sum(_between(*moments) for moments in self._moments), 1e-9)

    def _now(self) -> _Moment:
        if self._device.type != "cuda":
            return time.perf_counter()
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(first: _Moment, last: _Moment) -> float:
    if isinstance(first, float) or isinstance(last, float):
        return float(last) - float(first)  # type: ignore[arg-type]
    return float(first.elapsed_time(last)) / 1000
