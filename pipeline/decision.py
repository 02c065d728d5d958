"""Who is a finalist, and what the finalists' trainings decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial, TrialState

from pipeline.answers import judged_by
from pipeline.finalists import KIND, Finalist, Verdict, finalist_name, ranked
from pipeline.study.baselines import BASELINES
from pipeline.study.followup import GROUP, SEED, FollowUp, Point, answers_of_trial
from pipeline.study.ledger import Ledger
from pipeline.study.trials import overrides_of

_FINAL = "final"
EARLIER = "more trials have come since these finalists were trained; the next final decides anew"


def choose(ledger: Ledger) -> list[FrozenTrial]:
    """The best complete trials, and the baselines."""
    return with_baselines(ledger, ledger.contenders(ledger.config.finalists.count))


def with_baselines(ledger: Ledger, best: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """These trials, and the baselines that are not among them."""
    baselines = [trial for name in BASELINES if (trial := ledger.baseline(name))]
    return [*best, *(b for b in baselines if b.number not in {t.number for t in best})]


def points(
    ledger: Ledger, kind: str = KIND, trials: Sequence[FrozenTrial] | None = None
) -> list[Point]:
    """The trainings of a follow-up that decide: each finalist with each seed.

    Args:
        trials: the finalists; those that are chosen now without it.
    """
    seeds = range(1, ledger.config.finalists.seeds + 1)
    return [
        Point(finalist_name(trial), f"{kind}/{seed}", overrides_of(trial))
        for trial in (choose(ledger) if trials is None else trials)
        for seed in seeds
    ]


def remember_final(ledger: Ledger, followup: FollowUp, chosen: Sequence[FrozenTrial]) -> None:
    """Note who the finalists were, once each of their trainings has ended: their verdict stands
    until that of the next final."""
    seeds = ledger.config.finalists.seeds
    if _has_ended(followup, chosen, seeds):
        ledger.keep(_FINAL, {"trials": [t.number for t in chosen], "seeds": seeds})


def verdict(ledger: Ledger, followup: FollowUp) -> Verdict | None:
    """What the finalists' trainings say; while those who are finalists by now are not all trained,
    what those of the last final say. None while there is no final that may have a winner."""
    chosen, seeds = choose(ledger), ledger.config.finalists.seeds
    if _has_ended(followup, chosen, seeds):
        found = verdict_on(ledger, followup, chosen, seeds)
        if found is not None:
            return replace(found, notes=(*found.notes, *_too_few(ledger)))
    last = ledger.study.user_attrs.get(f"regsearch.{_FINAL}")
    if last is None:
        return None
    trials = ledger.trials()
    found = verdict_on(ledger, followup, [trials[n] for n in last["trials"]], last["seeds"])
    return None if found is None else replace(found, notes=(*found.notes, EARLIER))


def verdict_on(
    ledger: Ledger, followup: FollowUp, trials: Sequence[FrozenTrial], seeds: int
) -> Verdict | None:
    """What a follow-up says of those of these trials that have all of their trainings; None where
    none of them has, or may win."""
    judged, metrics = judged_by(ledger.config.study.metric), ledger.objectives
    chosen = {finalist_name(trial): trial for trial in trials}
    wanted = _seeds(followup, seeds)
    there = followup.complete_in(list(chosen))
    trainings = {
        name: tuple(t for t in found if t.user_attrs[SEED] in wanted)
        for name, found in there.items()
    }
    complete = [
        Finalist(
            name, trial, trainings[name], tuple(map(answers_of_trial, trainings[name])), judged
        )
        for name, trial in chosen.items()
        if len(trainings[name]) == seeds
    ]
    if not any(finalist.is_feasible for finalist in complete):
        return None
    notes = [
        f"{name} is no finalist: {seeds - len(found)} of its {seeds} trainings are missing"
        for name, found in trainings.items()
        if len(found) < seeds
    ]
    notes += [
        f"{finalist.name} breaks the constraints, and can't win"
        for finalist in complete
        if not finalist.is_feasible
    ]
    if (every := min(map(len, there.values()))) > seeds:
        more = f"{every} seeds of each finalist were trained, of which {seeds} count"
        notes.append(f"{more}: `finalists.seeds` is {seeds} now")
    return Verdict(ranked(complete, judged, metrics[1:]), judged, True, tuple(notes))


def _has_ended(followup: FollowUp, chosen: Sequence[FrozenTrial], seeds: int) -> bool:
    """Whether each training of each of them is complete, or has failed and is not tried again."""
    states: dict[tuple[str, str], set[TrialState]] = {}
    for trial in followup.trials():
        label = str(trial.user_attrs[GROUP]), str(trial.user_attrs[SEED])
        states.setdefault(label, set()).add(trial.state)
    labels = [(finalist_name(t), seed) for t in chosen for seed in _seeds(followup, seeds)]
    return all(
        TrialState.COMPLETE in (found := states.get(label, set())) or found == {TrialState.FAIL}
        for label in labels
    )


def _seeds(followup: FollowUp, seeds: int) -> list[str]:
    return [f"{followup.kind}/{seed}" for seed in range(1, seeds + 1)]


def _too_few(ledger: Ledger) -> list[str]:
    asked = ledger.config.finalists.count
    there = len(ledger.contenders(asked))
    if there >= asked:
        return []
    trials = "1 complete trial" if there == 1 else f"{there} complete trials"
    return [f"{asked} finalists were asked for; the study has {trials} that may win"]
