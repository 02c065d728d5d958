"""The transfer check: does the choice hold at twice the epochs, and on half the data?."""

from __future__ import annotations

from collections.abc import Iterator

from optuna.trial import TrialState

from pipeline.finalists import KIND, Finalist, Verdict
from pipeline.report.evidence import Evidence
from pipeline.report.figures.transfer import transfer_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.report.sections.head import capital
from pipeline.report.transfer import CHOSEN_HERE, transfer_sentence
from pipeline.transfer import CONDITIONS, SEARCHED, Transfer
from pipeline.words import fresh_seeds, gain_unit, show_gain, show_mean

TITLE = "The transfer check"


def transfer_section(evidence: Evidence) -> Section:
    """Sentences, tables and picture; or the command that makes them."""
    found, missing = evidence.transfers, tuple(_missing(evidence))
    if not found:
        return Section("transfer", TITLE, missing=missing)
    before = found[0].before
    seeds, images = before.winner.scores.shape
    text = (
        f"Mean {before.judged} of each finalist on the selection images, as it was searched and "
        "under each condition, with its 95 % interval."
    )
    runs = (
        f"at {each.condition} {evidence.sources.of_followup(each.kind) or 'none'}" for each in found
    )
    return Section(
        name="transfer",
        title=TITLE,
        lead=(
            f"The finalists and baselines trained once more, with {fresh_seeds(seeds)} each, "
            f"{' and '.join(f'at {each.condition}' for each in found)}: is what was chosen best "
            f"there too? All are judged by their {before.judged} on the same {images:,} selection "
            "images; intervals are of 95 %, gains are in pairs.",
        ),
        points=tuple(_points(found)),
        tables=tuple(_tables(evidence, found)),
        pictures=(Picture("transfer", text, transfer_figure(found)),),
        missing=missing,
        source=f"MLflow runs of the check: {', '.join(runs)}; their children are the trainings, "
        "and the transfer.json of each has the same figures.",
    )


def _missing(evidence: Evidence) -> Iterator[str]:
    """What is not trained, and the command that does it."""
    command = f"`regsearch ablate {evidence.ledger.config.study.name} --transfer`"
    begun = [kind for kind in CONDITIONS if kind in evidence.followups]
    if not begun:
        yield (
            f"Not done: {command} trains the finalists at twice the epochs and on half of the "
            "training images, and says whether the choice holds there."
        )
        return
    for kind, condition in CONDITIONS.items():
        books = evidence.followups.get(kind)
        if books is None:
            yield f"Nothing is trained at {condition} yet: {command} goes on."
        elif not books.is_over():
            done, there = len(books.trials(TrialState.COMPLETE)), len(books.trials())
            yield f"At {condition}, {done} of {there} trainings are done: {command} goes on."
    for each in evidence.transfers:
        for note in each.after.notes:
            yield f"At {each.condition}: {note}. {command} trains what is missing."


def _points(found: tuple[Transfer, ...]) -> Iterator[str]:
    for each in found:
        yield f"{capital(transfer_sentence(each))}."
    before = found[0].before
    plain, winner = before.baseline("unregularized"), before.winner
    if plain is None or winner is plain:
        return
    gains = [f"{show_gain(before.judged, before.gain(plain))} {SEARCHED}"]
    for each in found:
        if (gain := each.gains().get(winner.name, (None, None))[1]) is not None:
            gains.append(f"{show_gain(before.judged, gain)} at {each.condition}")
    yield (
        f"What {winner.name} gains over no regularization, in {gain_unit(before.judged)}: "
        f"{', '.join(gains)}."
    )


def _tables(evidence: Evidence, found: tuple[Transfer, ...]) -> Iterator[Table]:
    before, judged = found[0].before, found[0].before.judged
    columns = (SEARCHED, *(f"at {each.condition}" for each in found))
    verdicts = (before, *(each.after for each in found))
    gains = [each.gains() for each in found]
    scores, worth, runs = [], [], []
    for finalist in before.finalists:
        name, winner = finalist.name, finalist is before.winner
        shown = f"{name} (winner)" if winner else name
        of_all = [_find(verdict, name) for verdict in verdicts]
        means = (show_mean(judged, f.selection if f else None) for f in of_all)
        scores.append(Row((shown, *means), winner))
        plain = before.baseline("unregularized")
        own = None if plain in (None, finalist) else before.gain(plain, of=finalist)
        after = (each.get(name, (None, None))[1] for each in gains)
        worth.append(Row((shown, *(show_gain(judged, gain) for gain in (own, *after))), winner))
        kinds = (KIND, *(each.kind for each in found))
        cells = (
            evidence.sources.of_trainings(kind, f.trainings if f else ())
            for kind, f in zip(kinds, of_all, strict=True)
        )
        runs.append(Row((shown, *cells), winner))
    yield Table(f"Mean {judged} on the selection images", ("finalist", *columns), scores)
    text = f"Gain over no regularization under the same condition ({CHOSEN_HERE})"
    yield Table(text, ("finalist", *columns), worth)
    named = tuple(f"MLflow runs, {column}" for column in columns)
    yield Table("", ("finalist", *named), runs, folded="the MLflow runs of each")


def _find(verdict: Verdict, name: str) -> Finalist | None:
    return next((f for f in verdict.finalists if f.name == name), None)
