"""What to do, in a few sentences: from verdict, ablation, audit, bounds doctor and diagnosis."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.finalists import Verdict, best_training
from pipeline.report.bounds import sentence
from pipeline.report.evidence import Evidence
from pipeline.report.page import Section
from pipeline.report.sections.head import capital
from pipeline.words import (
    describe,
    gain_unit,
    plus_minus,
    points,
    short_name,
    show_gain,
    show_metric,
)

MAX_BOUNDS = 4


def advice_section(evidence: Evidence) -> Section:
    """The advice; nothing is advised on no evidence."""
    found = tuple(advice(evidence))
    missing = () if found else ("There is nothing to advise yet: no trial is complete.",)
    source = "Each sentence is from a section below, where its figures and their source are."
    return Section("advice", "Advice in words", points=found, missing=missing, source=source)


def advice(evidence: Evidence) -> Iterator[str]:
    """The most important first."""
    yield from _of_verdict(evidence)
    yield from _of_trade_off(evidence)
    yield from _of_ablation(evidence)
    yield from _of_diagnosis(evidence)
    yield from _of_bounds(evidence)
    if evidence.audit.num_audited:
        yield f"Pruning: {evidence.audit.advice}."


def _of_verdict(evidence: Evidence) -> Iterator[str]:
    verdict = evidence.verdict
    if verdict is None:
        return
    winner = verdict.winner
    if not evidence.is_final:
        yield (
            f"Don't trust the score of {winner.name} yet: it is the best of many, which flatters "
            "it. Let the finalists be trained with fresh seeds."
        )
        return
    yield _lead(verdict)
    tied = [f.name for f in verdict.finalists if verdict.is_tied(f) and not f.baseline]
    if tied:
        yield (
            f"{capital(', '.join(tied))} may be as good as the winner: prefer the simplest of "
            "these, or let more seeds (`finalists.seeds`) and more selection images decide."
        )
    flattered = [f for f in verdict.finalists if f.optimism and f.selection]
    worst = max(flattered, key=lambda f: f.optimism or 0.0, default=None)
    unit = gain_unit(verdict.judged)
    if worst and worst.optimism and worst.selection and worst.optimism > worst.selection[1]:
        yield (
            f"Judge by the selection images and not by the search: it flattered {worst.name} by "
            f"{points(verdict.judged, worst.optimism)[1:]} {unit}."
        )


def _lead(verdict: Verdict) -> str:
    """What to train with; of what can't be told apart, the simplest."""
    winner = verdict.winner
    if winner.baseline:
        plain = winner.baseline == "unregularized"
        what = "Train without regularization" if plain else "Keep your usual recipe"
        if all(finalist.baseline for finalist in verdict.finalists):
            why = (
                "nothing that was searched scored higher, so nothing of it was tried on new images"
            )
        else:
            why = "nothing that was searched did better on new images"
        return f"{what}: {why}."
    settings = f"{winner.name}: {describe(winner.trial.params)}"
    for name, what in (("unregularized", "no regularization"), ("recipe", "your usual recipe")):
        baseline = verdict.baseline(name)
        if baseline is not None and verdict.is_tied(baseline):
            gain = show_gain(verdict.judged, verdict.gain(baseline))
            return (
                f"Nothing was found that is better than {what} beyond chance: the winner leads it "
                f"by {gain} {gain_unit(verdict.judged)}. Its settings, should you want them: "
                f"{settings}."
            )
    return f"Use the settings of {settings}."


def _of_trade_off(evidence: Evidence) -> Iterator[str]:
    """What one gets for what, in a search by several metrics."""
    found = evidence.trade_off
    if found is None:
        return
    champion, others = found.offers[0], found.alternatives
    for offer in found.offers:
        if offer.name in others:
            pairs = zip(found.metrics, champion.selection, offer.selection, strict=True)
            told = ", ".join(
                f"{metric.rpartition('/')[2]} {show_metric(metric, theirs.mean)} in place of "
                f"{show_metric(metric, own.mean)}"
                for metric, own, theirs in pairs
            )
            yield f"Or take {offer.name}, on selection: {told}."


def _of_ablation(evidence: Evidence) -> Iterator[str]:
    found = evidence.ablation
    if found is None:
        return
    if found.num_seeds == 1:
        study = evidence.ledger.config.study.name
        yield (
            "One seed is too few to keep or to leave out a regularizer by: "
            f"`regsearch ablate {study} --seeds 3` trains each variant three times."
        )
        return
    unclear = []
    for effect in found.effects:
        if effect.within is None:
            continue
        gain, half = effect.within
        name = describe({effect.path: effect.value})
        size = f"{points(found.judged, abs(gain))[1:]} {plus_minus(found.judged, half)}"
        if gain > half:
            yield f"Keep {name}: without it {found.reference} loses {size}."
        elif -gain > half:
            yield f"Leave {name} out: without it {found.reference} gains {size}."
        else:
            unclear.append(short_name(effect.path))
    if unclear:
        names = ", ".join(unclear)
        yield f"Whether {names} helps {found.reference} can't be told on these images."


def _of_diagnosis(evidence: Evidence) -> Iterator[str]:
    """Of the winner; the training that is registered, where it was trained again."""
    if evidence.verdict is None:
        return
    winner = evidence.verdict.winner
    trial = best_training(winner, evidence.metric) if winner.trainings else winner.trial
    found = evidence.diagnosis(trial)
    if found is not None:
        what = found.advice.partition(":")[0] if found.word == "healthy" else found.advice
        yield f"The winner is {found.word}: {what}."


def _of_bounds(evidence: Evidence) -> Iterator[str]:
    report = evidence.bounds
    if report is None:
        return
    # The search saw little of what it soon left: an effect that an ablation measured counts more.
    measured = {
        effect.path
        for effect in (evidence.ablation.effects if evidence.ablation else ())
        if any(gain and abs(gain[0]) > gain[1] for gain in (effect.within, effect.alone))
    }
    telling = [
        found
        for found in report.findings
        if found.kind != "too_few"
        and not (found.kind == "does_not_matter" and found.path in measured)
    ]
    for found in telling[:MAX_BOUNDS]:
        yield f"{short_name(found.path)}: {sentence(found)}."
    if report.is_changed and report.next.entries:
        name = evidence.ledger.config.study.name
        yield f"Search on with better bounds: `regsearch bounds {name}` writes the space file."
