"""What came of the study, in words, and what it was."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.answers import Gain
from pipeline.calibration import tags_as_measured
from pipeline.finalists import Finalist
from pipeline.report.evidence import Evidence
from pipeline.report.page import Row, Section, Table
from pipeline.study.baselines import BASELINES
from pipeline.words import (
    describe,
    duration,
    fresh_seeds,
    is_share,
    show_gain,
    show_mean,
    show_metric,
)


def head_section(evidence: Evidence) -> Section:
    """The verdict, then the facts."""
    run = evidence.sources.study or "none"
    return Section(
        name="verdict",
        title="The verdict",
        lead=tuple(verdict_words(evidence)),
        tables=(Table("", ("", ""), [Row(cells) for cells in _facts(evidence)]),),
        missing=tuple(_unfinished(evidence)),
        source=f"Optuna study {evidence.ledger.study_name}; MLflow run of the study: {run}.",
    )


def verdict_words(evidence: Evidence) -> Iterator[str]:
    """Who won, by how much, and who can't be told apart, a sentence each."""
    verdict = evidence.verdict
    if verdict is None:
        yield "There is no verdict yet: no trial of this study is complete, or may win."
        return
    winner = verdict.winner
    if winner.selection is None:
        score = show_metric(evidence.metric, winner.trial.value)
        yield f"The search likes {winner.name} best: {score} {evidence.metric}."
        yield "It chose by that score, which flatters it, and nothing was trained again."
        return
    seeds, images = winner.scores.shape
    yield (
        f"{capital(_name(winner))} wins: {show_mean(verdict.judged, winner.selection)} "
        f"{verdict.judged} on {images:,} selection images, "
        f"over {fresh_seeds(seeds)}."
    )
    others = len(verdict.finalists) - 1
    if verdict.retrained and others > 1:
        yield (
            f"It has the best of {others + 1} means, which flatters its own; the intervals of its "
            "gains allow for that."
        )
    for name in BASELINES:
        baseline = verdict.baseline(name)
        if baseline is not None and baseline is not winner:
            gain = gain_words(verdict.judged, verdict.gain(baseline))
            yield f"Its gain over {_name(baseline)}: {gain}."
    tied = [_name(f) for f in verdict.finalists if verdict.is_tied(f)]
    barred = [_name(f) for f in verdict.barred()]
    if tied:
        yield f"It can't be told apart from {', '.join(tied)} on these images and seeds."
    elif others:
        yield f"It can be told apart from all {others} other finalists."
    if barred:
        are = "are" if len(barred) > 1 else "is"
        yield (
            f"{capital(', '.join(barred))} {are} better by more than chance allows, but can't win: "
            "the constraints are not kept."
        )


def gain_words(judged: str, gain: Gain | None) -> str:
    """`+1.38 ± 1.36 points`, and whether that is more than chance."""
    if gain is None:
        return "not known"
    unit = " points" if is_share(judged) else ""
    sure = "more than" if abs(gain[0]) > gain[1] else "no more than"
    worse = "worse by " if -gain[0] > gain[1] else ""
    return f"{show_gain(judged, gain)}{unit}, {worse}{sure} chance allows"


def capital(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


def _name(finalist: Finalist) -> str:
    return f"the {finalist.baseline} baseline" if finalist.baseline else finalist.name


def _facts(evidence: Evidence) -> Iterator[tuple[str, str]]:
    standing, study = evidence.standing, evidence.ledger.config.study
    counts = f"{standing.finished} of {standing.target} finished ({standing.counts()})"
    yield "trials", counts
    if standing.saved_epochs:
        yield "pruning", f"saved {standing.saved_share:.0%} of their epochs"
    if evidence.verdict is not None and not evidence.verdict.winner.baseline:
        yield "the winner's settings", describe(evidence.verdict.winner.trial.params)
    yield "metric of the search", ", ".join(study.objectives)
    data, profile = evidence.recorded("dataset"), evidence.recorded("dataset").get("profile", {})
    if data:
        yield "data set", f"{data.get('name')}, digest {data.get('digest')}"
        sizes = ", ".join(
            f"{profile[n]:,} {n}" for n in ("train", "validation", "selection") if n in profile
        )
        shape = " × ".join(map(str, profile.get("image_shape", ())))
        yield "images", f"{sizes}; {shape}; {profile.get('num_classes')} classes"
    spans = [one for of_kind in evidence.spans.values() for one in of_kind]
    if spans:
        seconds = sum(one.ended_ms - one.started_ms for one in spans) / 1000
        yield (
            "training",
            f"{duration(seconds)} in all, over {len({s.worker for s in spans})} workers",
        )
    tags = tags_as_measured(evidence.ledger.study.user_attrs)
    if tags:
        named = ("device", "precision", "engine", "threads")
        yield "trained on", ", ".join(f"{n} {tags.get(f'regsearch.{n}', '-')}" for n in named)
    versions = evidence.recorded("versions")
    if versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _unfinished(evidence: Evidence) -> Iterator[str]:
    standing = evidence.standing
    if standing.finished < standing.target:
        yield (
            f"The search is not over: {standing.finished} of {standing.target} trials are "
            "finished. `regsearch run SPACE.yaml`, with the study's space file, goes on with it."
        )
    if evidence.verdict is None and standing.failed and not standing.finished:
        yield "All trials so far have failed; the reasons are in the table of the trials."
    if standing.missed:
        yield f"{standing.missed}."
    if evidence.sources.away:
        yield (
            f"MLflow could not be asked ({evidence.sources.away}), so its run ids are not shown; "
            "`regsearch report` again once it answers."
        )
