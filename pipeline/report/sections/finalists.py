"""The finalists: what each is worth on images that the search never saw."""

from __future__ import annotations

from collections.abc import Iterator

from optuna.trial import TrialState

from pipeline.finalists import KIND, Finalist, Verdict
from pipeline.report.evidence import Evidence
from pipeline.report.figures.finalists import TRAIN, VALIDATION, curves_figure, intervals_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.study.followup import WEIGHTS
from pipeline.words import fresh_seeds, points, show_gain, show_mean, show_metric

TITLE = "Finalists"


def finalists_section(evidence: Evidence) -> Section:
    """Table, intervals and curves; or what is missing."""
    verdict = evidence.verdict
    if verdict is None or not evidence.is_final:
        return Section("finalists", TITLE, missing=(_missing(evidence),))
    score, seeds = verdict.judged, len(verdict.winner.answers)
    images = verdict.winner.scores.shape[1]
    run = evidence.sources.of_followup(KIND) or "none"
    return Section(
        name="finalists",
        title=TITLE,
        lead=(
            f"Each was trained again with {fresh_seeds(seeds)} and judged by its {score} on "
            f"{images:,} images that the search never saw. Intervals are of 95 %, over images "
            f"{'and seeds' if seeds > 1 else 'alone'}; gains are in pairs, image by image, and "
            "their intervals hold together, since the winner was chosen on these images. "
            "Optimism: by how much the search's own score is better than that.",
            *verdict.notes,
        ),
        tables=(_table(evidence, verdict),),
        pictures=(
            Picture(
                "intervals",
                f"Mean {score} on the selection images with its 95 % interval; the diamond is what "
                "the search had said.",
                intervals_figure(verdict),
            ),
            *_curves(evidence, verdict),
        ),
        source=f"MLflow run of the finalists: {run}; its children, one a training, are in the "
        "table. Curves are from the journal, and the same as in MLflow.",
    )


def _missing(evidence: Evidence) -> str:
    ledger, final = evidence.ledger, evidence.finalists
    if evidence.recorded("dataset").get("profile", {}).get("selection") == 0:
        return (
            "There are no selection images, so nobody can be judged on any: a new study with "
            "`data.selection_fraction` above 0 has some."
        )
    if not ledger.config.finalists.count:
        return (
            "No finalist was trained, since `finalists.count` is 0: `regsearch run SPACE.yaml "
            "--set finalists.count=5` trains the best five trials again with fresh seeds."
        )
    if final is not None and final.trials():
        done, there = len(final.trials(TrialState.COMPLETE)), len(final.trials())
        if not final.is_over():
            return (
                f"{done} of {there} trainings of the finalists are done: the same `regsearch run` "
                "goes on with them."
            )
        return (
            f"{done} of {there} trainings of the finalists are complete, and no finalist has all "
            "of its seeds: `regsearch run SPACE.yaml` tries the failed ones once more."
        )
    return (
        "The finalists are not trained yet: `regsearch run SPACE.yaml` does so once the search is "
        "over."
    )


def _table(evidence: Evidence, verdict: Verdict) -> Table:
    columns = ("finalist", "search", "on selection", "optimism", "winner's gain", "MLflow runs")
    rows = [_row(evidence, verdict, finalist) for finalist in verdict.finalists]
    caption = f"Finalists by {verdict.judged}, the best mean first"
    return Table(caption, columns, rows)


def _row(evidence: Evidence, verdict: Verdict, finalist: Finalist) -> Row:
    score, winner = verdict.judged, finalist is verdict.winner
    gain = None if winner else verdict.gain(finalist)
    return Row(
        (
            f"{finalist.name} (winner)" if winner else finalist.name,
            show_metric(score, finalist.search_score),
            show_mean(score, finalist.selection),
            "-" if finalist.optimism is None else points(score, finalist.optimism),
            show_gain(score, gain),
            evidence.sources.of_trainings(KIND, finalist.trainings),
        ),
        marked=winner,
    )


def _curves(evidence: Evidence, verdict: Verdict) -> Iterator[Picture]:
    """One a finalist, on one axis; none where the journal is not in this folder."""
    trainings = {t.number for f in verdict.finalists for t in f.trainings}
    lows = [
        value
        for number in trainings
        for metric in (TRAIN, VALIDATION)
        for value in evidence.final_curves.get(number, {}).get(metric, {}).values()
    ]
    if not any(TRAIN in evidence.final_curves.get(number, {}) for number in trainings):
        return
    low = max(0.0, min(lows) - 0.02)
    for index, finalist in enumerate(verdict.finalists):
        yield Picture(
            f"curves-{index}",
            f"{finalist.name}: accuracy on clean training images and on validation images; the "
            "shade between them is the generalization gap.",
            curves_figure(finalist, evidence.final_curves, low),
            narrow=True,
        )


def weights_section(evidence: Evidence) -> Section:
    """How large the winner's weights are, beside the unregularized net's."""
    title, verdict = "The winner's weights", evidence.verdict
    winner = None if verdict is None else _statistics(verdict.winner)
    if verdict is None or not winner:
        text = (
            "Weights are measured on the finalists' trainings, and there are none yet: see above."
        )
        return Section("weights", title, missing=(text,))
    plain = verdict.baseline("unregularized")
    beside = {} if plain is None or plain is verdict.winner else _statistics(plain) or {}
    columns = ("layer", "weights", "mean |w|", "deviation", "near zero")
    more = ("unregularized: mean |w|", "near zero") if beside else ()
    rows = []
    for layer, of_layer in winner.items():
        cells: tuple[str, ...] = (
            layer,
            f"{of_layer['num_weights']:,.0f}",
            f"{of_layer['mean_abs']:.4f}",
            f"{of_layer['std']:.4f}",
            f"{of_layer['near_zero_share']:.1%}",
        )
        theirs = beside.get(layer)
        if beside:
            there = theirs and (f"{theirs['mean_abs']:.4f}", f"{theirs['near_zero_share']:.1%}")
            cells += there or ("-", "-")
        rows.append(Row(cells))
    seed = verdict.winner.trainings[0]
    table = Table("By layer, in the net's order; near zero: |w| < 0.001", columns + more, rows)
    run = evidence.sources.of_training(KIND, seed.number)
    folded = "all layers" if len(rows) > 25 else ""
    return Section(
        "weights",
        title,
        tables=(Table(table.caption, table.columns, rows, folded),),
        source=f"The first seed of {verdict.winner.name}, MLflow run {run}.",
    )


def _statistics(finalist: Finalist) -> dict[str, dict[str, float]] | None:
    """By layer, of the first seed; None where none was kept."""
    if not finalist.trainings:
        return None
    table = finalist.trainings[0].user_attrs.get(WEIGHTS) or []
    return {str(row["layer"]): row for row in table}
