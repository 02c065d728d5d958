"""Seeds: one number in the space file, and from it a separate stream for every use of chance.

A trial's seeds depend on the study's seed and the trial's number alone: neither the worker that
runs it nor the attempt changes them. Chosen points that are trained again name their streams
instead (`finalists/2`): several of them share one, and none has the search's. The streams are
apart, so that, say, another augmentation leaves the order of the data as it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

Stream = Literal["split", "init", "order", "augmentation", "mixing", "dropout", "sampler", "audit"]


def stream_seed(study_seed: int, stream: Stream, trial: int | str | None = None) -> int:
    """A 63-bit seed for one use of chance in one trial (or in the study, with `trial=None`)."""
    key = f"{study_seed}/{'study' if trial is None else trial}/{stream}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1


def generator(study_seed: int, stream: Stream, trial: int | None = None) -> np.random.Generator:
    """A NumPy generator on that stream."""
    return np.random.default_rng(stream_seed(study_seed, stream, trial))


@dataclass(frozen=True)
class TrialSeeds:
    """The seeds of one trial: the same on every worker and in every attempt."""

    init: int
    order: int
    augmentation: int
    mixing: int
    dropout: int

    @classmethod
    def of(cls, study_seed: int, trial: int | str) -> TrialSeeds:
        """The seeds of trial number `trial`, or those of that name."""
        streams: tuple[Stream, ...] = ("init", "order", "augmentation", "mixing", "dropout")
        return cls(**{name: stream_seed(study_seed, name, trial) for name in streams})
