"""The report's figures: what they show is what the trials have."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.ablation import Ablation, Effect, Interaction
from pipeline.answers import Answers
from pipeline.finalists import Finalist, Verdict
from pipeline.report.curves import Attempt, sessions
from pipeline.report.figures.ablation import ablation_figure
from pipeline.report.figures.dots import dots
from pipeline.report.figures.finalists import TRAIN, VALIDATION, curves_figure, intervals_figure
from pipeline.report.figures.parallel import parallel_figure
from pipeline.report.figures.search import history_figure, slice_figure
from pipeline.report.figures.style import new_figure, tick_format
from pipeline.report.figures.timeline import timeline_figure
from pipeline.report.figures.tradeoff import trade_off_figure
from pipeline.study.audit import WOULD_PRUNE
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.trials import BASELINE
from pipeline.tradeoff import Measured, Offer, TradeOff
from tests.spaces import tiny_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DROPOUT = "regularization.dropout"
DECAY = "training.optimizer.weight_decay"
METRIC = "validation/accuracy"


def trial(
    number: int, value: float, dropout: float = 0.1, pruned: bool = False, **attrs: object
) -> FrozenTrial:
    found = optuna.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=value,
        params={DROPOUT: dropout},
        distributions={DROPOUT: FloatDistribution(0, 0.7)},
        intermediate_values={1: value},
        user_attrs={f"regsearch.{name}": attr for name, attr in attrs.items()},
    )
    found.number = number
    return found


TRIALS = [
    trial(0, 0.80, 0.0, baseline="unregularized"),
    trial(1, 0.70, 0.2, carried_from="old/3"),
    trial(2, 0.85, 0.7),
    trial(3, 0.40, 0.3, pruned=True),
    trial(4, 0.83, 0.4, would_prune=1),
    trial(5, float("inf"), 0.5),
]


def test_every_kind_of_trial_is_told_apart() -> None:
    assert {BASELINE, CARRIED_FROM, WOULD_PRUNE} == {
        "regsearch.baseline",
        "regsearch.carried_from",
        "regsearch.would_prune",
    }
    kinds = [dot.kind for dot in dots(TRIALS)]  # a value that is no number has no place
    assert kinds == ["baseline", "carried over", "complete", "pruned", "audited"]
    figure = history_figure(dots(TRIALS), set(), METRIC)
    symbols = [trace.marker.symbol for trace in figure.data if trace.mode == "markers"]
    assert len(set(symbols)) == 5


def test_the_history_has_the_trials_values_and_the_best_so_far() -> None:
    figure = history_figure(dots(TRIALS), {0, 1, 2, 4}, METRIC)
    shown = {
        x: y for t in figure.data if t.mode == "markers" for x, y in zip(t.x, t.y, strict=True)
    }
    assert shown == {0: 0.80, 1: 0.70, 2: 0.85, 3: 0.40, 4: 0.83}
    [best] = [trace for trace in figure.data if trace.name == "best so far"]
    assert list(best.x) == [0, 1, 2, 4]
    assert list(best.y) == [0.80, 0.80, 0.85, 0.85]
    losses = history_figure(dots(TRIALS), {0, 1, 2, 4}, "validation/loss")
    assert list(losses.data[-1].y) == [0.80, 0.70, 0.70, 0.70]


def test_a_slice_draws_the_bounds(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    figure = slice_figure(DROPOUT, config.search[DROPOUT], dots(TRIALS), METRIC, (0.3, 0.9))
    assert [shape.x0 for shape in figure.layout.shapes] == [0.0, 0.7]
    assert sorted(x for trace in figure.data for x in trace.x) == [0.0, 0.2, 0.3, 0.4, 0.7]
    log = slice_figure(DECAY, config.search[DECAY], dots(TRIALS), METRIC, (0.3, 0.9))
    assert log.layout.xaxis.type == "log"
    assert [shape.x0 for shape in log.layout.shapes] == [1e-5, 0.1]
    assert not log.data  # nobody drew it


def test_parallel_coordinates_run_from_bound_to_bound_and_leave_gaps(tmp_path: Path) -> None:
    """Dropout 0.7 is the top of its axis, 0.2 two sevenths up; nobody drew a weight decay."""
    entries = tiny_config(tmp_path).space.entries
    figure = parallel_figure(entries, dots(TRIALS), METRIC)
    [best] = [trace for trace in figure.data if trace.name == "the best fifth"]
    assert list(best.y) == [1.0, None, 1.0, None]
    [others] = [trace for trace in figure.data if trace.name == "complete"]
    assert others.y[4:7] == (pytest.approx(0.2 / 0.7), None, pytest.approx((0.7 - 0.4) / 0.45))
    assert {"pruned", "baselines (nearest point)"} <= {trace.name for trace in figure.data}


def finalist(name: str, *rows: list[int]) -> Finalist:
    answers = tuple(Answers(np.array(r, np.bool_), np.array(r, np.float32)) for r in rows)
    trainings = tuple(trial(seed, 0.5) for seed in range(len(rows)))
    scored = {"scored": {METRIC: 0.9}}
    return Finalist(name, trial(7, 0.9, **scored), trainings, answers, "accuracy")


def test_intervals_are_the_verdicts() -> None:
    winner, loser = finalist("a<b", [1, 1, 1, 0], [1, 1, 0, 0]), finalist("b", [1, 0, 0, 0])
    figure = intervals_figure(Verdict((winner, loser), "accuracy", True))
    assert list(figure.data[0].x) == [0.625, 0.25]
    assert winner.selection
    assert figure.data[0].error_x.array[0] == winner.selection[1]
    assert list(figure.data[1].x) == [0.9, 0.9]
    assert figure.data[0].y[0] == "a&lt;b"  # plotly reads tags in names


def test_curves_are_the_mean_over_the_seeds_as_far_as_all_have_come() -> None:
    curves = {
        0: {TRAIN: {1: 0.5, 2: 0.9}, VALIDATION: {1: 0.4, 2: 0.6}},
        1: {TRAIN: {1: 0.7}, VALIDATION: {1: 0.2}},
    }
    figure = curves_figure(finalist("a", [1, 0], [1, 1]), curves, 0.0)
    means = {trace.name: (trace.x, trace.y) for trace in figure.data if trace.name}
    assert means["training"] == ((1,), (pytest.approx(0.6),))
    assert means["validation"] == ((1,), (pytest.approx(0.3),))
    assert figure.data[-1].name == "validation"  # shaded up to the trace before it
    assert figure.data[-2].name == "training"


def test_the_ablation_shows_gains_in_points_and_leaves_out_what_is_missing() -> None:
    effects = (
        Effect(DROPOUT, 0.2, (0.01, 0.005), (0.02, 0.01)),
        Effect(DECAY, 0.1, (-0.003, 0.002), None),
    )
    both = Interaction(DROPOUT, DECAY, (0.01, 0.02), (0.02, 0.01), (0.0, 0.01), (-0.01, 0.03))
    found = Ablation("trial 3", "accuracy", 3, 100, (0.03, 0.01), effects, (both,))
    figure = ablation_figure(found)
    traces = {trace.name: trace for trace in figure.data}
    assert traces["in trial 3"].x == pytest.approx((1.0, -0.3))
    assert traces["in trial 3"].error_x.array == pytest.approx((0.5, 0.2))
    assert traces["alone"].x == pytest.approx((2.0,))
    assert traces["interaction"].x == pytest.approx((-1.0,))
    assert list(figure.layout.yaxis.ticktext) == [
        "dropout 0.2",
        "weight_decay 0.1",
        "dropout × weight_decay",
        "all of them",
    ]
    in_nats = ablation_figure(Ablation("t", "loss", 3, 9, None, effects))
    assert in_nats.data[0].x == pytest.approx((0.01, -0.003))


def test_a_timeline_has_a_bar_an_attempt() -> None:
    spans = {
        "study": [
            Attempt("worker 1", "trial 0", "COMPLETE", 1000, 3000),
            Attempt("worker 2", "trial 1", "WAITING", 1000, 1500),
        ],
        "finalists": [Attempt("worker 1", "recipe, seed 1", "COMPLETE", 4000, 4500)],
    }
    figure = timeline_figure(spans)
    bars = {bar.name: (bar.base[0], bar.x[0], bar.y[0]) for bar in figure.data}
    assert bars == {
        "complete": (1000, 2000, "worker 1"),
        "given back": (1000, 500, "worker 2"),
        "follow-up": (4000, 500, "worker 1"),
    }
    assert len(sessions(spans)) == 1


def test_a_long_pause_begins_another_timeline() -> None:
    day = 86_400_000
    first, second = (Attempt("w", "trial 0", "COMPLETE", at, at + 1000) for at in (0, day))
    assert sessions({"study": [second, first]}) == [{"study": [first]}, {"study": [second]}]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_ticks_tell_half_per_cents_and_small_losses_apart(tmp_path: Path) -> None:
    """As plotly writes them."""
    shares, losses = (0.93, 0.935, 0.94, 0.945, 1.0), (0.0125, 0.013, 0.2505, 2.0)
    figure = new_figure(300)
    figure.add_scatter(x=[0, 2], y=[0.9, 1])
    figure.update_yaxes(tickformat=tick_format(METRIC), tickvals=shares)
    figure.update_xaxes(tickformat=tick_format("validation/ece"), tickvals=losses)
    figure.write_html(tmp_path / "figure.html")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000",
         "--dump-dom", str(tmp_path / "figure.html")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    ticks = {
        axis: re.findall(rf'<g class="{axis}tick"><text[^>]*>([^<]+)</text>', done.stdout)
        for axis in "yx"
    }
    assert ticks["y"] == ["93%", "93.5%", "94%", "94.5%", "100%"]
    assert ticks["x"] == ["0.0125", "0.013", "0.2505", "2"]


def test_the_trade_off_numbers_its_finalists_and_says_where_better_is() -> None:
    """Names would lie across dots and each other."""
    offers = tuple(
        Offer(name, TRIALS[i], (0.8, 0.1), (Measured(0.8, 0.7, 0.9), Measured(x, 0.0, 0.3)), True)
        for i, (name, x) in enumerate((("trial 2", 0.1), ("a<b", 0.11)))
    )
    found = TradeOff((METRIC, "validation/ece"), "accuracy", frozenset({0, 2}), offers)
    xs = {0: 0.05, 2: 0.2}
    figure = trade_off_figure(dots(TRIALS), xs, found, "validation/ece")
    numbered = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert [trace.text for trace in numbered] == [("1",), ("2",)]
    assert [trace.name for trace in numbered] == ["1 trial 2", "2 a&lt;b"]
    assert [trace.x for trace in numbered] == [(0.1,), (0.11,)]
    xaxis, yaxis = figure.layout.xaxis, figure.layout.yaxis
    assert xaxis.title.text == "validation/ece (less is better)"
    assert yaxis.title.text == "validation/accuracy (more is better)"
    assert xaxis.title.font.size == yaxis.title.font.size
