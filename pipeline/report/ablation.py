"""What `regsearch ablate` found, as a table and sentences."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.ablation import Ablation, Effect, Interaction
from pipeline.answers import Gain
from pipeline.report.transfer import transfer_report
from pipeline.revisit import Ablated
from pipeline.words import fresh_seeds, gain_unit, points, short_name, show_gain, spell

ONE_SEED = " With one seed, the luck of a training is not in them."


def ablation_report(outcome: Ablated) -> RenderableType:
    """The table, a sentence for each regularizer and pair, and what is missing."""
    found = outcome.ablation
    parts: list[RenderableType] = [
        Text(f"ablation of {found.reference}", style="bold"),
        _table(found),
        Text(_how(found), style="dim italic"),
        Text(""),
        *(Text(sentence(found, effect)) for effect in found.effects),
        *(Text(interaction_sentence(found, each)) for each in found.interactions),
    ]
    for transfer in outcome.transfers:
        parts += [Text(""), *transfer_report(transfer)]
    notes = list(found.notes)
    if outcome.unfinished:
        notes.append("not all trainings are done; the same command goes on")
    if outcome.unlogged:
        notes.append(f"MLflow does not have the table: {outcome.unlogged}")
    return Group(*parts, *(Text(note, style="yellow") for note in notes))


def _table(found: Ablation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("regularizer", "value", f"worth in {found.reference}", "worth alone"):
        table.add_column(column, no_wrap=True)
    for effect in found.effects:
        within, alone = (show_gain(found.judged, g) for g in (effect.within, effect.alone))
        table.add_row(effect.path, spell(effect.value), within, alone)
    table.add_row("all of them", "", show_gain(found.judged, found.total), "", style="bold")
    return table


def _how(found: Ablation) -> str:
    return (
        f"In {gain_unit(found.judged)} on {found.num_images:,} selection images, better is "
        f"positive; each variant was trained with the same {fresh_seeds(found.num_seeds)}. In "
        f"{found.reference}: against itself without it. Alone: against no regularization. "
        "Intervals are of 95 %, each for itself: about one in twenty is wrong by chance."
        f"{ONE_SEED if found.num_seeds == 1 else ''}"
    )


def sentence(found: Ablation, effect: Effect) -> str:
    """`dropout 0.3: in trial 7 worth +0.60 ± 0.20; alone no effect that can be told (+0.1 ±
    0.2)`."""
    said = [
        f"{where} {_worth(found.judged, gain)}"
        for where, gain in ((f"in {found.reference}", effect.within), ("alone", effect.alone))
        if gain is not None
    ]
    return f"{short_name(effect.path)} {spell(effect.value)}: {'; '.join(said) or 'not known yet'}"


def _worth(judged: str, gain: Gain) -> str:
    shown = show_gain(judged, gain)
    if abs(gain[0]) <= gain[1]:
        return f"no effect that can be told ({shown})"
    return f"worth {shown}" if gain[0] > 0 else f"costs {shown.removeprefix('-')}"


def interaction_sentence(found: Ablation, each: Interaction) -> str:
    """Whether two regularizers substitute for each other, with the figures."""
    both, one, other = (
        points(found.judged, gain[0]) for gain in (each.both, each.first_alone, each.second_alone)
    )
    excess = show_gain(found.judged, each.interaction)
    names = f"{short_name(each.first)} and {short_name(each.second)}"
    return f"{names} {each.words}: alone {one} and {other}, both {both} ({excess} against the sum)"
