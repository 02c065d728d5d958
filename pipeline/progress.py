"""What the user sees while a study runs: a live view in a terminal, log lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.events import EpochEnded, TrialStarted, now_ms
from pipeline.standing import Pace, Standing
from pipeline.words import describe, duration

NUM_RECENT = 8
EPOCH_LINE_SEC = 5.0
"""A trial's epochs have a line each, but for those that end sooner than this after the last one."""
STYLES = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red", "WAITING": "cyan"}
OPENING_MLFLOW = "loading MLflow and opening its store"


class View(AbstractContextManager["View"], Protocol):
    """Is told what happens, and shows it.

    It may be told some seconds later: `time_ms` is when it happened, in milliseconds since 1970.
    """

    def loading(self, what: str, done: int, total: int) -> None:
        """Data is being fetched or decoded: `done` of `total` units (0: not known)."""

    def doing(self, what: str) -> AbstractContextManager[None]:
        """Inside, seconds pass in which there is nothing else to tell."""

    def note(self, text: str, time_ms: int | None = None) -> None:
        """A line that stays on the screen; of now, if nothing else is said."""

    def study(self, standing: Standing) -> None:
        """The counts have changed."""

    def trial_started(self, event: TrialStarted) -> None:
        """A trial begins, with its values of what is searched."""

    def epoch_ended(self, event: EpochEnded) -> None:
        """A trial's epoch, counted from 1, has been scored."""

    def trial_ended(self, number: int, state: str, text: str, time_ms: int) -> None:
        """A trial is COMPLETE, PRUNED or FAIL, or is WAITING for another attempt."""


class LogView(View):
    """A plain line an event, quick epochs left out: for files, pipes and CI."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._pace: Pace | None = None
        self._started: dict[int, tuple[str, int]] = {}
        self._told_ms: dict[int, int] = {}
        self._shown: tuple[str, int] = ("", -1)

    def __exit__(self, *_: object) -> None:
        return None

    def loading(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if (what, tenth) != self._shown:
            self._shown = (what, tenth)
            self._print(f"{what}: {done:,}" + (f" of {total:,}" if total else " ..."))

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        self._print(f"{what} ...")
        yield

    def note(self, text: str, time_ms: int | None = None) -> None:
        self._print(text, time_ms)

    def study(self, standing: Standing) -> None:
        if self._pace is None or self._pace.kind != standing.kind:
            self._pace = Pace.of(standing)
        seconds = self._pace.left_sec(standing)
        left = f"; about {duration(seconds)} left" if seconds else ""
        best = f"; best {standing.metric}: {standing.best}" if standing.is_search else ""
        self._print(
            f"{standing.kind}: {standing.finished} of {standing.target} {standing.unit} finished "
            f"({standing.counts()}){best}{left}"
        )

    def trial_started(self, event: TrialStarted) -> None:
        self._started[event.trial] = (event.name, event.num_epochs)
        self._print(f"{event.name}: {describe(event.params)}", event.time_ms)

    def epoch_ended(self, event: EpochEnded) -> None:
        name, num_epochs = self._started.get(event.trial, (f"trial {event.trial}", None))
        since_ms = event.time_ms - self._told_ms.get(event.trial, 0)
        soon = 0 <= since_ms < 1000 * EPOCH_LINE_SEC  # negative where a clock was set back
        if soon and event.epoch != num_epochs:
            return
        self._told_ms[event.trial] = event.time_ms
        of = f"/{num_epochs}" if num_epochs else ""
        self._print(f"{name}: epoch {event.epoch}{of}: {scores(event.metrics)}", event.time_ms)

    def trial_ended(self, number: int, state: str, text: str, time_ms: int) -> None:
        name, _ = self._started.get(number, (f"trial {number}", None))
        self._print(f"{name}: {state}: {text}", time_ms)

    def _print(self, text: str, time_ms: int | None = None) -> None:
        seconds = (now_ms() if time_ms is None else time_ms) / 1000
        at = time.strftime("%H:%M:%S", time.localtime(seconds))
        self.console.print(f"{at} {text}", markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Running:
    started: TrialStarted
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


class LiveView(View):
    """One screen that is redrawn in place: counts, best, running trials, the latest results."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.standing: Standing | None = None
        self._running: dict[int, _Running] = {}
        self._recent: deque[tuple[str, str, str]] = deque(maxlen=NUM_RECENT)
        self._loading = ""
        self._pace: Pace | None = None
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=8)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.clear()
        self._live.stop()

    def loading(self, what: str, done: int, total: int) -> None:
        of = f" of {total:,}" if total else ""
        self._loading = f"{what}: {done:,}{of}" if done < total or not total else ""

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        before, self._loading = self._loading, f"{what} ..."
        try:
            yield
        finally:
            self._loading = before

    def note(self, text: str, time_ms: int | None = None) -> None:  # noqa: ARG002
        self.console.print(text, markup=False, highlight=False)

    def study(self, standing: Standing) -> None:
        self.standing = standing
        if self._pace is None or self._pace.kind != standing.kind:
            self._pace = Pace.of(standing)

    def trial_started(self, event: TrialStarted) -> None:
        self._running[event.trial] = _Running(event)

    def epoch_ended(self, event: EpochEnded) -> None:
        if event.trial in self._running:  # else its start was before this run's
            running = self._running[event.trial]
            running.epoch, running.metrics = event.epoch, event.metrics

    def trial_ended(self, number: int, state: str, text: str, time_ms: int) -> None:  # noqa: ARG002
        running = self._running.pop(number, None)
        name = running.started.name if running else f"trial {number}"
        self._recent.append((name, state, text.splitlines()[0] if text else ""))

    def render(self) -> RenderableType:
        """The screen as it stands now."""
        parts: list[RenderableType] = [Text(self.title, style="bold")]
        if self._loading:
            parts.append(Text(self._loading, style="cyan"))
        if self.standing is not None:
            parts += self._study_lines(self.standing)
        for running in self._running.values():
            parts += self._trial_lines(running)
        if self._recent:
            table = Table.grid(padding=(0, 2))
            for name, state, text in self._recent:
                table.add_row(Text(name, style="dim"), Text(state, style=STYLES[state]), Text(text))
            parts += [Text(""), table]
        return Group(*parts)

    def _study_lines(self, standing: Standing) -> list[RenderableType]:
        bar = Table.grid(padding=(0, 1))
        seconds = self._pace.left_sec(standing) if self._pace else None
        left = f"about {duration(seconds)} left" if seconds else ""
        bar.add_row(
            Text(standing.unit),
            ProgressBar(standing.target, min(standing.finished, standing.target), width=32),
            Text(f"{standing.finished}/{standing.target}"),
            Text(left, style="dim"),
        )
        lines: list[RenderableType] = [bar, Text(standing.counts(), style="dim")]
        if standing.is_search:
            lines.append(Text.assemble(f"best {standing.metric}: ", (standing.best, "bold green")))
        return lines

    def _trial_lines(self, running: _Running) -> list[RenderableType]:
        bar, trial = Table.grid(padding=(0, 1)), running.started
        bar.add_row(
            Text(trial.name, style="cyan"),
            ProgressBar(trial.num_epochs, running.epoch, width=20),
            Text(f"epoch {running.epoch}/{trial.num_epochs}"),
        )
        lines = Text(scores(running.metrics)), Text(describe(trial.params), style="dim")
        return [Text(""), bar, *(Padding(line, (0, 0, 0, 2)) for line in lines)]


def scores(metrics: Mapping[str, float]) -> str:
    """An epoch's metrics in a few words."""
    if not metrics:
        return ""
    validation = ""
    if "validation/loss" in metrics:  # not where its images are trained on
        validation = (
            f"validation loss {metrics['validation/loss']:.3f}, "
            f"accuracy {metrics['validation/accuracy']:.2%}, "
        )
    return (
        f"train loss {metrics['train/loss']:.3f}, {validation}"
        f"{metrics['images_per_sec']:,.0f} images/s"
    )


def open_view(console: Console, title: str) -> View:
    """The live view in a terminal; log lines where the output goes anywhere else."""
    if console.is_terminal:
        return LiveView(console, title)
    view = LogView(console)
    view.note(title)
    return view
