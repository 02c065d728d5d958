"""What `regsearch run` prints at the end: the winner, what it gained, and where to look next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.errors import redact
from pipeline.finalists import CHAMPION, Finalist
from pipeline.registry import Registered
from pipeline.search import Outcome
from pipeline.study.baselines import baselines
from pipeline.study.ledger import BASELINE, value_of
from pipeline.tracking import Report
from pipeline.training.metrics import direction
from pipeline.words import duration, show_metric, spell


def summary(outcome: Outcome) -> RenderableType:
    """The counts, the champion beside the baselines, its settings, and the next commands."""
    standing = outcome.standing
    head = (
        f"{standing.finished} of {standing.target} trials finished ({standing.counts()}) "
        f"in {duration(outcome.seconds)}"
    )
    parts: list[RenderableType] = [Text(head, style="bold")]
    if standing.saved_epochs:
        parts.append(Text(f"pruning saved {standing.saved_share:.0%} of their epochs"))
    parts += _warnings(outcome)
    champion = next((f for f in outcome.finalists if f.alias == CHAMPION), None)
    if champion is not None:
        parts += [Text(""), _comparison(outcome), Text(""), _settings(champion)]
        parts += [Text(""), _next_steps(champion)]
    return Group(*parts)


def _warnings(outcome: Outcome) -> list[Text]:
    lines = []
    if outcome.too_many_failures:
        limit = outcome.config.study.max_consecutive_failures
        lines.append(f"stopped: {limit} trials in a row failed, the last one with:")
        lines.append(outcome.too_many_failures)
    if outcome.timed_out:
        lines.append("stopped at the time limit; the same command goes on")
    if outcome.standing.missed:
        lines.append(f"{outcome.standing.missed}, so there is no champion")
    elif not outcome.finalists and not outcome.timed_out:
        lines.append("no trial is complete, so there is no champion")
    for finalist in outcome.finalists:
        if finalist.problem:
            lines.append(f"the {finalist.alias} is not registered: {finalist.problem}")
        if finalist.registered is not None and finalist.registered.other:
            lines.append(taken_over(finalist.registered))
    missing = set(baselines(outcome.config)) - {f.alias for f in outcome.finalists}
    if outcome.finalists and missing:
        lines.append(f"baseline without a result: {', '.join(sorted(missing))}")
    if not outcome.delivery.complete:
        lines += _undelivered(outcome.delivery)
    return [Text(line, style="yellow") for line in lines]


def taken_over(registered: Registered) -> str:
    """What became of an alias that was another study's."""
    alias = f"models:/{registered.name}@{registered.alias}"
    if registered.has_alias:
        return f"{alias} was {registered.other}; it is version {registered.version} now"
    return f"{alias} stays {registered.other}: this run finished no trial, and leaves it alone"


def _undelivered(delivery: Report) -> list[str]:
    """What MLflow does not have: kept in the journal, and how to bring it there."""
    lines = [f"MLflow has refused a write: {redact(text)}" for text in delivery.refused]
    if delivery.num_pending:
        reason = redact(delivery.last_error or "it was too slow").splitlines()[0]
        lines.append(
            f"MLflow did not take {delivery.num_pending} events ({reason}); nothing is lost:\n"
            "    regsearch sync\ndelivers them once it answers"
        )
    return lines


def _comparison(outcome: Outcome) -> RenderableType:
    """One row a finalist; the gain is the champion's over that baseline, where nobody chose."""
    metric = outcome.config.study.metric
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("", "trial", metric, "on selection", "champion's gain"):
        table.add_column(column, no_wrap=True)
    champion = outcome.finalists[0]
    for finalist in outcome.finalists:
        table.add_row(
            finalist.alias,
            str(finalist.trial.number),
            show_metric(metric, finalist.trial.value),
            _selection(finalist),
            "" if finalist is champion else _gain(metric, champion, finalist),
            style="bold green" if finalist is champion else "",
        )
    return Group(table, *_explanations(metric, outcome.finalists))


def _selection(finalist: Finalist) -> str:
    interval = finalist.selection_interval
    if interval is None:
        return "-"
    low, high = (f"{100 * bound:.1f}" for bound in interval)
    return f"{show_metric('accuracy', finalist.selection_accuracy)} ({low}-{high})"


def _gain(metric: str, champion: Finalist, baseline: Finalist) -> str:
    """In points of selection accuracy; else of what the search chose by."""
    paired = champion.gain_over(baseline)
    if paired is not None:
        return f"{100 * paired[0]:+.2f} ± {100 * paired[1]:.2f}"
    difference = value_of(champion.trial) - value_of(baseline.trial)
    if metric.endswith("loss"):
        return f"{-difference:+.4f}"
    sign = 1 if direction(metric) == "maximize" else -1
    return f"{100 * sign * difference:+.2f}"


def _explanations(metric: str, finalists: list[Finalist]) -> list[Text]:
    """How the table is to be read, and where it says less than it seems to."""
    champion, *baselines_ = finalists
    if champion.selection_accuracy is None:
        return [Text(f"the search chose by {metric}, which flatters the champion", style="dim")]
    text = (
        "on selection: accuracy on images that the search never saw, and the gain there in points, "
        f"image by image, with 95 % intervals. The champion was chosen by {metric}, which flatters "
        "it."
    )
    lines = [Text(text, style="dim italic")]
    for baseline in baselines_:
        paired = champion.gain_over(baseline)
        if paired is not None and abs(paired[0]) <= paired[1]:
            text = f"champion and {baseline.alias} can't be told apart on these images"
            lines.append(Text(text, style="yellow"))
    return lines


def _settings(champion: Finalist) -> RenderableType:
    """What was sampled for the champion."""
    if BASELINE in champion.trial.user_attrs:
        return Text("No trial of the search did better than the better baseline.")
    table = Table("the champion's settings", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for path, value in champion.trial.params.items():
        table.add_row(path, spell(value))
    return table


def _next_steps(champion: Finalist) -> RenderableType:
    """Each command on a line of its own, so that it can be copied whole."""
    steps = [("see every trial and its curves", _mlflow_line())]
    if champion.registered is not None:
        uri = shlex.quote(champion.registered.uri)
        steps.append(("score it on the test split", f"{_program('regsearch')} evaluate {uri}"))
    return Group(
        *(Text.assemble(f"{text}:\n    ", (command, "bold cyan")) for text, command in steps)
    )


def _mlflow_line() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        return f"open {redact(uri)}"
    store = 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" ' if uri else ""
    return f"{store}{_program('mlflow')} ui"


def _program(name: str) -> str:
    """How to call one of this environment's programs from the current folder: by its name where
    the shell finds it, else by its path."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found is not None and Path(found).samefile(own)):
        return name
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
