"""What is registered: how many nets, what they are worth, and whether a refit took their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.answers import Gain
from pipeline.champion import Champion
from pipeline.nets import Nets, nets_of
from pipeline.registration import CHAMPION
from pipeline.report.champion import champion_words
from pipeline.report.evidence import Evidence
from pipeline.report.figures.champion import gains_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.report.sections.champion_missing import champion_missing, is_current
from pipeline.report.sections.head import capital, gain_words
from pipeline.words import show_gain, show_mean

TITLE = "What is registered"


def champion_section(evidence: Evidence) -> Section:
    """The nets that may be registered, side by side; or what is missing."""
    champion = evidence.champion
    if champion is None or not is_current(evidence, champion):
        return Section("champion", TITLE, missing=tuple(champion_missing(evidence, "")))
    rivals, version = _rivals(evidence, champion), _version(evidence, champion)
    gains = _gains(rivals)
    name = evidence.ledger.config.registry.model_name
    return Section(
        name="champion",
        title=TITLE,
        lead=tuple(_lead(evidence, champion, rivals, version)),
        tables=(_table(evidence, champion, rivals, gains),),
        pictures=tuple(_pictures(gains, champion.winner.judged)),
        missing=tuple(champion_missing(evidence, version)),
        source=f"What each says of each selection image: Optuna study {evidence.ledger.study_name} "
        f"and its follow-ups; the trainings: MLflow runs in the table; the version: {name} in "
        "MLflow's registry.",
    )


def _rivals(evidence: Evidence, champion: Champion) -> dict[str, Nets]:
    """What may be registered, by name; the single net comes first."""
    winner, count = champion.winner, len(champion.winner.trials)
    if winner.followup is None:
        return {"the search's own net": winner}
    if count == 1 or evidence.verdict is None:
        found = {"best single training": winner}
    else:
        single = nets_of(evidence.verdict.winner, winner.followup, evidence.metric)
        found = {"best single training": single, f"ensemble of {count} nets": winner}
    if champion.refit is not None:
        name = "refit" if count == 1 else f"ensemble of {count} refits"
        found[name] = champion.refit.nets
    return found


def _gains(rivals: Mapping[str, Nets]) -> dict[str, Gain]:
    """Of all but the first over the first."""
    single, *_ = rivals.values()
    if single.answers is None:
        return {}
    found = {
        name: nets.gain_over(single.answers.scores)
        for name, nets in rivals.items()
        if nets is not single
    }
    return {name: gain for name, gain in found.items() if gain is not None}


def _lead(
    evidence: Evidence, champion: Champion, rivals: Mapping[str, Nets], version: str
) -> Iterator[str]:
    nets = champion.nets
    [what] = [name for name, one in rivals.items() if one is nets]
    known = (
        f"{show_mean(nets.judged, nets.selection)} {nets.judged} on "
        f"{len(nets.answers.scores):,} selection images"
        if nets.answers is not None
        else "nothing is known of it on selection images"
    )
    yield f"The {what.removeprefix('the ')} of {nets.name}'s settings is registered: {known}."
    gain, (single, *_) = _gains(rivals).get(what), rivals.values()
    if gain is not None:
        best = show_mean(single.judged, single.selection)
        yield (
            f"The best single training, by validation, has {best}; the gain over it: "
            f"{gain_words(nets.judged, gain)}."
        )
    for line in champion_words(champion):
        yield f"{capital(line)}."
    if version:
        name = evidence.ledger.config.registry.model_name
        yield f"In MLflow it is version {version} of {name}, `models:/{name}@{CHAMPION}`."


def _version(evidence: Evidence, champion: Champion) -> str:
    """The version in MLflow's registry that has the alias, if it is this champion; else empty."""
    found, nets = evidence.sources.with_alias(CHAMPION), champion.nets
    if found is None or found.num_nets != len(nets.trials):
        return ""
    return found.number if found.run == _runs(evidence, nets).partition(" ")[0] else ""


def _runs(evidence: Evidence, nets: Nets) -> str:
    if nets.followup is not None:
        return evidence.sources.of_trainings(nets.followup.kind, nets.trials)
    return evidence.sources.of_trial(nets.trials[0].number)


def _table(
    evidence: Evidence,
    champion: Champion,
    rivals: Mapping[str, Nets],
    gains: Mapping[str, Gain],
) -> Table:
    rows = [
        Row(
            (
                name,
                str(len(nets.trials)),
                show_mean(nets.judged, nets.selection),
                show_gain(nets.judged, gains.get(name)),
                "yes" if nets is champion.nets else "no",
                _runs(evidence, nets),
            ),
            marked=nets is champion.nets,
        )
        for name, nets in rivals.items()
    ]
    columns = ("what", "nets", "on selection", "gain over the first", "registered", "MLflow runs")
    text = "Intervals are of 95 %, over images alone: there is one of each. Gains are in pairs"
    return Table(text, columns, rows)


def _pictures(gains: Mapping[str, Gain], judged: str) -> Iterator[Picture]:
    if gains:
        text = (
            "What each gains over the best single training, image by image, with its 95 % "
            "interval; right of 0 is better."
        )
        yield Picture("champion", text, gains_figure(gains, judged))
