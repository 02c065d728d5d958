"""What `regsearch run` prints at the end: the winner, what it gained, and where to look next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.ablation_design import first_that_regularizes
from pipeline.errors import redact
from pipeline.finalists import Finalist, Verdict
from pipeline.outcome import Outcome
from pipeline.registration import CHAMPION, OFFERED
from pipeline.report.ablation import ONE_SEED
from pipeline.report.champion import champion_lines
from pipeline.report.tradeoff import trade_off_lines
from pipeline.study.baselines import baselines
from pipeline.tracking import Report
from pipeline.words import duration, fresh_seeds, points, show_gain, show_mean, show_metric, spell

MANY_SEEDS, MANY_IMAGES = 10, 100
"""From so many seeds on, more of them narrow the intervals by little; with fewer images than that,
one image more or less is a whole point."""


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
    if outcome.audit is not None and outcome.audit.num_audited:
        parts.append(Text(f"pruning audit: {outcome.audit.advice}"))
    parts += _warnings(outcome)
    if outcome.verdict is not None:
        parts += [Text(""), _comparison(outcome.verdict, outcome.config.study.metric)]
        parts += trade_off_lines(outcome.crowned.trade_off)
        parts += champion_lines(outcome.crowned.champion)
        parts += [Text(""), _settings(outcome.verdict.winner), Text(""), _next_steps(outcome)]
    return Group(*parts)


def _warnings(outcome: Outcome) -> list[Text]:
    lines = []
    if outcome.too_many_failures:
        limit = outcome.config.study.max_consecutive_failures
        lines.append(f"stopped: {limit} trials in a row failed, the last one with:")
        lines.append(outcome.too_many_failures)
    if outcome.timed_out:
        lines.append("stopped at the time limit; the same command goes on")
    if outcome.verdict is None:
        if outcome.standing.missed:
            lines.append(f"{outcome.standing.missed}, so there is no champion")
        elif not outcome.timed_out:
            lines.append("no trial is complete, so there is no champion")
        there = [r.registered.uri for r in outcome.registered if r.registered]
        lines += [f"registered all the same: {', '.join(there)}"] if there else []
    else:
        lines += outcome.verdict.notes
        lines += outcome.crowned.champion.notes if outcome.crowned.champion else ()
        missing = {name for name in baselines(outcome.config) if not _found(outcome, name)}
        if missing:
            lines.append(f"baseline without a result: {', '.join(sorted(missing))}")
    for entry in outcome.registered:
        if entry.problem:
            lines.append(f"the {entry.alias} is not registered: {entry.problem}")
        if entry.registered is not None and entry.registered.moved:
            lines.append(entry.registered.moved)
    if not outcome.delivery.complete:
        lines += _undelivered(outcome.delivery)
    return [Text(line, style="yellow") for line in lines]


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


def _found(outcome: Outcome, baseline: str) -> bool:
    return outcome.verdict is not None and outcome.verdict.baseline(baseline) is not None


def _comparison(verdict: Verdict, metric: str) -> RenderableType:
    """One row a finalist, the winner first; what it gains is told where nobody chose."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    score = f"validation/{verdict.judged}"
    for column in ("", "trial", "search", "on selection", "optimism", "winner's gain"):
        table.add_column(column, no_wrap=True)
    for finalist in verdict.finalists:
        winner = finalist is verdict.winner
        crowned = f"{CHAMPION} ({finalist.baseline})" if finalist.baseline else CHAMPION
        table.add_row(
            crowned if winner else finalist.baseline,
            str(finalist.trial.number),
            show_metric(score, _search_score(finalist)),
            show_mean(finalist.judged, finalist.selection),
            "-" if finalist.optimism is None else points(score, finalist.optimism),
            "" if winner else show_gain(verdict.judged, verdict.gain(finalist)),
            style="bold green" if winner else "",
        )
    return Group(table, *_explanations(verdict, metric))


def _search_score(finalist: Finalist) -> float | None:
    return finalist.trial.value if finalist.search_score is None else finalist.search_score


def _explanations(verdict: Verdict, metric: str) -> list[Text]:
    """How the table is to be read, and where it says less than it seems to."""
    if verdict.winner.selection is None:
        return [Text(f"the search chose by {metric}, which flatters the champion", style="dim")]
    seeds, images = verdict.winner.scores.shape
    others = len(verdict.finalists) - 1
    together = others > 1 and verdict.retrained
    how = (
        f"each was trained again with {fresh_seeds(seeds)}; the best mean wins"
        f"{', which flatters it' if others else ''}"
        if verdict.retrained
        else f"the search chose by {metric}, which flatters the champion; nothing was trained again"
    )
    text = (
        f"search: validation/{verdict.judged} of the trial. On selection: {verdict.judged} on "
        f"{images:,} images that the search never saw; {how}. Optimism: by how much the search's "
        "score is better than that. Gains are in pairs, image by image; intervals are of 95 %, "
        f"over images {'and seeds' if seeds > 1 else 'alone'}"
        f"{f', those of the {others} gains together' if together else ''}."
        f"{ONE_SEED if verdict.retrained and seeds == 1 else ''}"
    )
    lines = [Text(text, style="dim italic")]
    tied = [f.name for f in verdict.finalists if verdict.is_tied(f)]
    if tied:
        text = f"{verdict.winner.name} can't be told apart from {', '.join(tied)} on these images"
        lines.append(Text(text, style="yellow"))
        if images < MANY_IMAGES:
            few = f"{images} selection images tell little: more images, or a larger share of them"
            text = f"{few} (`data.selection_fraction`, under another `study.name`), tell more"
            lines.append(Text(text, style="yellow"))
        elif verdict.retrained and seeds < MANY_SEEDS:
            more = f"more seeds tell more: `finalists.seeds` above {seeds} in the file, and the"
            text = f"{more} same command again trains what is missing"
            lines.append(Text(text, style="dim italic"))
    return lines


def _settings(champion: Finalist) -> RenderableType:
    """What was sampled for the champion."""
    if champion.baseline:
        plain = champion.baseline == "unregularized"
        what = "no regularization won" if plain else "the file's own settings won"
        return Text(f"The champion is the baseline {champion.baseline}: {what}.")
    table = Table("the champion's settings", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for path, value in champion.trial.params.items():
        table.add_row(path, spell(value))
    return table


def _next_steps(outcome: Outcome) -> RenderableType:
    """Each command on a line of its own, so that it can be copied whole."""
    steps = _steps_to_mlflow(outcome.experiment_id)
    if outcome.verdict is not None and outcome.verdict.retrained:
        study, program = shlex.quote(outcome.config.study.name), _program("regsearch")
        trials = [finalist.trial for finalist in outcome.verdict.finalists]
        if first_that_regularizes(outcome.config, trials):
            steps.append(("say what each regularizer is worth", f"{program} ablate {study}"))
        steps.append(("put it all on one page", f"{program} report {study}"))
    there = [r.registered for r in outcome.registered if r.registered]
    champion = next((r for r in there if r.alias == CHAMPION), None)
    if champion is not None:
        uri = shlex.quote(champion.uri)
        steps.append(("score it on the test split", f"{_program('regsearch')} evaluate {uri}"))
    offered = ", ".join(r.uri for r in there if OFFERED.fullmatch(r.alias))
    if offered:
        steps.append(("or one of those that hold out beside it", offered))
    whole = partial(Text.assemble, no_wrap=True, overflow="ignore")  # a path may be long
    return Group(*(whole(f"{text}:\n    ", (command, "bold cyan")) for text, command in steps))


def _steps_to_mlflow(experiment_id: str) -> list[tuple[str, str]]:
    """The page of the study; MLflow begins with one for language models, on which nothing is."""
    page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    what, uri = "see every trial and its curves", os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        return [(what, f"{redact(uri).rstrip('/')}{page}")]
    store = 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" ' if uri else ""
    return [
        (what, f"{store}{_program('mlflow')} ui"),
        ("on this page of it", f"http://127.0.0.1:5000{page}"),
    ]


def _program(name: str) -> str:
    """How to call one of this environment's programs from the current folder: by its name where
    the shell finds it, else by its path."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found is not None and Path(found).samefile(own)):
        return name
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
