"""Where a study stands: its counts, its best, and how long it may still take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.words import show_metric


@dataclass(frozen=True)
class Standing:
    """Where the study stands: counts of trials, and the best of them (None while there is none).

    `interrupted` counts the trials that were interrupted or killed, and were or will be taken up.
    `saved_epochs` are those that pruned trials did not run, of the `allowed_epochs` of all that are
    finished. `carried` trials are another study's, and in none of the other counts. `missed` says
    which trial comes nearest to the constraints, where none keeps them. `front` counts the trials
    that none beats in all metrics, in a search by several. `kind` names what is counted: the study,
    or a follow-up of it. `running` trials come and go without being told of.
    """

    target: int
    complete: int
    pruned: int
    failed: int
    metric: str
    best_value: float | None = None
    best_trial: int | None = None
    interrupted: int = 0
    saved_epochs: int = 0
    allowed_epochs: int = 0
    carried: int = 0
    missed: str = ""
    front: int = 0
    kind: str = "study"
    running: int = field(default=0, compare=False)

    @property
    def is_search(self) -> bool:
        """Whether trials are counted, one of which is the best. A follow-up's trainings are never
        pruned, and judged together at its end, by the selection images."""
        return self.kind == "study"

    @property
    def unit(self) -> str:
        """What is counted: a follow-up's numbers are not the search's trials."""
        return "trials" if self.is_search else "trainings"

    @property
    def saved_share(self) -> float:
        """The share of epochs that pruning saved, in [0, 1)."""
        return self.saved_epochs / max(1, self.allowed_epochs)

    @property
    def finished(self) -> int:
        return self.complete + self.pruned

    @property
    def ended(self) -> int:
        return self.finished + self.failed

    @property
    def is_claimed(self) -> bool:
        """Whether the running trials are the last, unless one fails."""
        return self.finished + self.running >= self.target

    @property
    def best(self) -> str:
        if self.best_trial is None:
            return self.missed or "-"
        front = f"; {self.front} on the front" if self.front else ""
        return f"{show_metric(self.metric, self.best_value)} (trial {self.best_trial}){front}"

    def counts(self) -> str:
        interrupted = f", {self.interrupted} interrupted" if self.interrupted else ""
        carried = f", {self.carried} carried over" if self.carried else ""
        pruned = f", {self.pruned} pruned" if self.is_search else ""
        return f"{self.complete} complete{pruned}, {self.failed} failed{interrupted}{carried}"


@dataclass(frozen=True)
class Pace:
    """When this run began with a study, or a follow-up of it, and what was finished by then."""

    kind: str
    began_at: float
    finished: int

    @classmethod
    def of(cls, standing: Standing) -> Pace:
        """From now on."""
        return cls(standing.kind, time.monotonic(), standing.finished)

    def left_sec(self, standing: Standing) -> float | None:
        """Seconds to the end, from the pace so far; None before there is one."""
        if standing.finished <= self.finished:
            return None
        seconds = time.monotonic() - self.began_at
        pace = seconds / (standing.finished - self.finished)
        return pace * max(standing.target - standing.finished, 0)
