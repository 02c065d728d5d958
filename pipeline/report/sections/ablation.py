"""What each of the winner's settings is worth."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.report.evidence import Evidence
from pipeline.report.figures.ablation import Ablation, Gain, ablation_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.report.summary import plus_minus, points
from pipeline.words import describe, short_name

KIND = "ablation"


def ablation_section(evidence: Evidence) -> Section:
    """Table and picture; or the command that makes them."""
    found, name = evidence.ablation, evidence.ledger.config.study.name
    if found is None:
        text = (
            f"Not done: `regsearch ablate {name}` trains the winner without each of its settings."
        )
        return Section("ablation", "Ablation", missing=(text,))
    run = evidence.sources.of_followup(KIND) or "none"
    return Section(
        name="ablation",
        title="Ablation",
        lead=(
            f"Within the winner: what {found.reference} loses without a setting. Alone: what the "
            "setting brings to a net with no other. Interaction: by how much two together are "
            f"worth more than the sum of both. {found.judged} on {found.num_images:,} selection "
            f"images, {found.num_seeds} seeds, in pairs; intervals are of 95 %.",
            *found.notes,
            *(pair.words for pair in found.interactions),
        ),
        tables=tuple(_tables(found)),
        pictures=(
            Picture(
                "ablation",
                "What each setting is worth, with its 95 % interval; right of 0 it helps.",
                ablation_figure(found),
            ),
        ),
        source=f"MLflow run of the ablation: {run}; its children are the trainings.",
    )


def _tables(found: Ablation) -> Iterator[Table]:
    rows = [
        Row(
            (
                describe({effect.path: effect.value}),
                _gain(found, effect.within),
                _gain(found, effect.alone),
            )
        )
        for effect in found.effects
    ]
    if found.total is not None:
        rows.append(Row(("all together", _gain(found, found.total), "-")))
    yield Table("What each setting is worth", ("setting", "within the winner", "alone"), rows)
    if found.interactions:
        columns = ("pair", "both", "first alone", "second alone", "interaction")
        pairs = [
            Row(
                (
                    f"{short_name(pair.first)} × {short_name(pair.second)}",
                    *(
                        _gain(found, gain)
                        for gain in (
                            pair.both,
                            pair.first_alone,
                            pair.second_alone,
                            pair.interaction,
                        )
                    ),
                )
            )
            for pair in found.interactions
        ]
        yield Table("In pairs", columns, pairs)


def _gain(found: Ablation, gain: Gain | None) -> str:
    if gain is None:
        return "-"
    return f"{points(found.judged, gain[0])} {plus_minus(found.judged, gain[1])}"
