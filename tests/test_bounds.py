"""The bounds doctor, on studies about which the truth is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.analysis.additive import AdditiveModel, dimensions
from pipeline.analysis.bounds import BoundsReport, examine_bounds
from pipeline.analysis.entries import cut, widened
from pipeline.analysis.evidence import edge, poor_choices, ruinous_part
from pipeline.analysis.importance import importance
from pipeline.analysis.next_search import NextSearch, settled
from pipeline.analysis.ranking import badness, num_top, ranks, searched_trials
from pipeline.config import RunConfig
from pipeline.config.search_space import CategoricalEntry, FloatEntry, IntEntry
from pipeline.errors import UserError
from pipeline.study.constraints import CONSTRAINTS_PREFIX
from pipeline.study.trials import BASELINE
from tests.spaces import tiny_config
from tests.synthetic import KNOWN, drawn_study

DROPOUT, DECAY = "regularization.dropout", "training.optimizer.weight_decay"
SMOOTHING = "regularization.label_smoothing"


def trial(
    value: float,
    params: Mapping[str, float | str] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
    pruned: bool = False,
    misses: float = 0.0,
) -> FrozenTrial:
    given = {"x": 0.5} if params is None else dict(params)
    known = {name: FloatDistribution(0, 1) for name in given}
    return optuna.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=value,
        params=given,
        distributions=known | dict(distributions or {}),
        intermediate_values={1: value},
        system_attrs={f"{CONSTRAINTS_PREFIX}generalization_gap": misses},
    )


def judged(folder: Path, seed: int, sampler: str) -> tuple[RunConfig, BoundsReport]:
    config = tiny_config(folder, f"study.sampler.kind={sampler}", text=KNOWN)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return config, examine_bounds(config, drawn_study(config, seed))


def truths(report: BoundsReport) -> list[str]:
    """Which of the three truths about `KNOWN` a report tells."""
    told = {(finding.path, finding.kind) for finding in report.findings}
    expected = [(DROPOUT, "edge_high"), (DECAY, "ruinous_high"), (SMOOTHING, "does_not_matter")]
    return [path for path, kind in expected if (path, kind) in told]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_doctor_tells_an_edge_a_ruin_and_an_idle_setting(tmp_path: Path, sampler: str) -> None:
    for seed in (100, 101, 102):
        config, report = judged(tmp_path, seed, sampler)
        assert truths(report) == [DROPOUT, DECAY, SMOOTHING]
        entries = report.next.entries
        assert entries[DROPOUT].edges()[1] == 0.45  # half of the width of 0.3 more
        assert 1e-3 < float(entries[DECAY].edges()[1]) < 0.1
        assert report.next.fixed.keys() == {SMOOTHING}
        assert report.config == config


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_it_tells_each_truth_in_19_of_20_seeds(tmp_path: Path, sampler: str) -> None:
    told: Counter[str] = Counter()
    for seed in range(100, 120):
        told.update(truths(judged(tmp_path, seed, sampler)[1]))
    assert min(told[path] for path in (DROPOUT, DECAY, SMOOTHING)) >= 19, told


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_chance_alone_matters_in_few_studies(sampler: str) -> None:
    """Four settings without effect: of 80 about 2 % should seem to matter, and never many."""
    config = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[sampler]
    seeming = 0
    for seed in range(20):
        chance, study = random.Random(seed), optuna.create_study(sampler=config(seed=seed))

        def objective(t: optuna.Trial, chance: random.Random = chance) -> float:
            for name in "abcd":
                t.suggest_float(name, 0, 1)
            return chance.gauss(0, 1)

        study.optimize(objective, n_trials=40)
        seeming += sum(bool(one.matters) for one in importance(study.trials, "minimize"))
    assert seeming <= 6


def test_pruned_trials_rank_behind_the_median_and_the_top_of_the_complete_ones() -> None:
    """A loss of 0.1 at the first epoch is no better than 0.5 at the last."""
    complete = [trial(value) for value in (0.2, 0.3, 0.4, 0.9)]
    trials = [*complete, trial(0.1, pruned=True), trial(0.95, pruned=True)]
    # Six trials, of which three are top; the pruned ones count as 0.4 and 0.95, behind equals.
    assert ranks(trials, "minimize") == pytest.approx([-0.5, -0.3, -0.1, 0.3, 0.1, 0.5])
    upward = [trial(0.9), trial(0.8), trial(0.1), trial(0.99, pruned=True)]
    assert ranks(upward, "maximize") == pytest.approx([-0.5, -1 / 6, 0.5, 1 / 6])


def test_pruned_trials_are_compared_by_what_others_gained_from_there_on() -> None:
    """0.5 after an epoch is more than 0.6 after two, where others gain 0.2 an epoch."""
    complete = [learning(0.3 + i / 10, 0.5 + i / 10, 0.7 + i / 10) for i in range(3)]
    early, late = learning(0.25, pruned=True), learning(0.1, 0.4, pruned=True)
    worst_first = np.argsort(-ranks([*complete, early, late], "maximize"))
    assert worst_first.tolist() == [4, 3, 0, 1, 2]


def test_chance_weighs_little_beside_ruin_and_ruin_is_tamed() -> None:
    """Deviations of 0, 1, 2, 3 from the middle, and 1,000: asinh(1000 / 2) is 6.9."""
    found = badness([trial(value) for value in (7, 8, 9, 10, 11, 12, 1010)], "minimize")
    assert found == pytest.approx(np.arcsinh([-1.5, -1, -0.5, 0, 0.5, 1, 500]))
    upward = badness([trial(value) for value in (-7, -8, -9, -10, -11, -12, -1010)], "maximize")
    assert upward == pytest.approx(found)
    diverged = badness([trial(1), trial(2), trial(4), trial(float("inf"))], "minimize")
    assert diverged == pytest.approx([np.arcsinh(-1), 0, np.arcsinh(2), np.arcsinh(2) + 1])
    assert badness([trial(1.0), trial(1.0)], "minimize").tolist() == [0, 0]


def learning(*curve: float, pruned: bool = False) -> FrozenTrial:
    """A trial with a curve."""
    found = trial(curve[-1] if pruned else max(curve), pruned=pruned)
    found.intermediate_values = dict(enumerate(curve, start=1))
    return found


def test_equals_share_a_rank_and_a_trial_that_diverged_is_last() -> None:
    found = ranks([trial(0.5), trial(0.5), trial(float("inf")), trial(0.1)], "minimize")
    assert found == pytest.approx([0, 0, 0.5, -0.5])


@pytest.mark.parametrize(("num", "top"), [(10, 5), (20, 8), (40, 8), (60, 12), (100, 20)])
def test_how_many_trials_are_top(num: int, top: int) -> None:
    assert num_top(num) == top


def test_trials_that_break_the_constraints_rank_behind_all_that_keep_them() -> None:
    """The range of the losses and, for what is missed at the median, as much again: with 0.8 and
    0.2, the first comes to 0.1 + 0.8 * 1.5, and the last to 0.9 + 0.8 * 2.5."""
    trials = [
        trial(0.1, misses=0.1),
        trial(0.3, misses=-0.2),
        trial(0.2, misses=0.2, pruned=True),
        trial(0.5),
        trial(0.9, misses=0.3),
    ]
    assert ranks(trials, "minimize") == pytest.approx([0, -0.5, 0.25, -0.25, 0.5])
    # In units of the median deviation, 0.8: 0.3, 0.5, 1.3 (the middle), 0.2 + 0.8 * 2 and 2.9.
    assert badness(trials, "minimize") == pytest.approx(np.arcsinh([0, -1.25, 0.625, -1, 2]))


def test_where_only_bad_scores_keep_the_constraints_the_range_is_not_cut_off_there(
    tmp_path: Path,
) -> None:
    """Little dropout scores best, and has a gap that is not allowed."""
    rng, trials = np.random.default_rng(0), []
    for dropout in rng.uniform(0.0, 0.7, 60):
        value = 0.95 - 0.2 * dropout + rng.normal(0, 0.004)
        gap = 0.2 - 0.25 * dropout + rng.normal(0, 0.003)
        found = {DROPOUT: FloatDistribution(0.0, 0.7)}
        trials.append(trial(value, {DROPOUT: dropout}, found, misses=gap - 0.1))
    bounded = KNOWN.replace("trials: 4", "trials: 4\n  constraints: {generalization_gap: 0.1}")
    config = tiny_config(tmp_path, text=bounded.replace("high: 0.3", "high: 0.7"))
    [finding] = [f for f in examine_bounds(config, trials).findings if f.path == DROPOUT]
    assert finding.kind == "ruinous_low"
    assert finding.text.endswith("down were poor or broke a constraint")


def test_baselines_and_trials_that_failed_or_run_are_left_out() -> None:
    good, baseline, failed = trial(0.5), trial(0.5), trial(0.5)
    baseline.set_user_attr(BASELINE, "recipe")
    failed.state = TrialState.FAIL
    assert searched_trials([good, baseline, failed, trial(0.1, pruned=True)])[0] is good
    assert len(searched_trials([good, baseline, failed, trial(0.1, pruned=True)])) == 2


def test_a_setting_that_goes_along_with_another_is_not_important_for_that() -> None:
    """As if a sampler had moved both at once: `idle` follows `x`, which alone decides."""
    chance = random.Random(0)
    trials = []
    for _ in range(80):
        x = chance.random()
        idle = min(max(x + chance.gauss(0, 0.25), 0), 1)
        trials.append(trial(x + chance.gauss(0, 0.02), {"x": x, "idle": idle}))
    found = {one.path: one for one in importance(trials, "minimize")}
    assert found["x"].matters is True
    assert found["idle"].matters is False
    assert found["x"].share > 0.8
    assert sum(one.share for one in found.values()) == pytest.approx(1)


def test_a_few_trials_can_prove_an_effect_but_none_away() -> None:
    chance = random.Random(1)
    points = [(i / 20, chance.random()) for i in range(20)]
    trials = [trial(x, {"x": x, "idle": idle}) for x, idle in points]
    found = {one.path: one.matters for one in importance(trials, "minimize")}
    assert found == {"x": True, "idle": None}


def evenly(values: Sequence[float]) -> tuple[AdditiveModel, Sequence[FrozenTrial]]:
    """Trials of one setting, drawn evenly over 0 to 1, with these losses."""
    trials = [trial(loss, {"x": (i + 0.5) / len(values)}) for i, loss in enumerate(values)]
    return AdditiveModel(dimensions(trials), ranks(trials, "minimize")), trials


@pytest.mark.parametrize(
    ("losses", "side"),
    [
        ([-i for i in range(40)], "high"),
        (list(range(40)), "low"),
        ([abs(i - 20) for i in range(40)], None),
        ([abs(i - 30) for i in range(40)], None),  # best at three quarters, and worse beyond
    ],
)
def test_the_best_lie_at_an_edge(losses: Sequence[float], side: str | None) -> None:
    model, _ = evenly(losses)
    assert edge(model.dims[0], model.adjusted(model.dims[0])) == side


def test_a_ruinous_part_begins_where_the_last_good_trial_ends() -> None:
    chance = random.Random(0)
    model, _ = evenly([(1.0 if i >= 28 else 0.0) + chance.random() / 10 for i in range(40)])
    dim = model.dims[0]
    adjusted = model.adjusted(dim)
    # Trial 28, the first bad one, lies at 28.5 / 40; 12 of 40 are in the part.
    assert ruinous_part(dim, adjusted, model.badness, "high", 0.5) == (pytest.approx(0.7125), 12)
    assert ruinous_part(dim, adjusted, model.badness, "low", 0.5) is None
    assert ruinous_part(dim, adjusted, model.badness, "high", 0.15) is None


def test_choices_that_are_never_in_the_better_half() -> None:
    kinds = CategoricalDistribution(("a", "b", "c"))
    losses = {"a": [1, 2, 3, 4, 5, 6], "b": [7, 8, 9, 10], "c": [0, 11, 12, 13]}
    trials = [
        trial(loss, {"kind": kind}, {"kind": kinds}) for kind, own in losses.items() for loss in own
    ]
    model = AdditiveModel(dimensions(trials), ranks(trials, "minimize"))
    assert poor_choices(model.dims[0], model.adjusted(model.dims[0])) == [1]


FLOAT = FloatEntry(type="float", low=0.1, high=0.5)
LOG = FloatEntry(type="float", low=1e-4, high=1e-2, log=True)
STEPPED = FloatEntry(type="float", low=0.1, high=0.5, step=0.1)
INT = IntEntry(type="int", low=2, high=6)
STEPPED_INT = IntEntry(type="int", low=2, high=8, step=2)


@pytest.mark.parametrize(
    ("entry", "side", "low", "high"),
    [
        (FLOAT, "high", 0.1, 0.7),
        (FLOAT, "low", -0.1, 0.5),
        (LOG, "high", 1e-4, 0.1),  # a factor of sqrt(100)
        (LOG, "low", 1e-5, 1e-2),
        (STEPPED, "high", 0.1, 0.7),
        (INT, "high", 2, 8),
        (INT, "low", 0, 6),
        (STEPPED_INT, "high", 2, 12),  # 3 steps: half of them are 1.5, so 2
    ],
)
def test_a_range_is_widened_by_half_of_its_width(
    entry: FloatEntry | IntEntry, side: str, low: float, high: float
) -> None:
    wider = widened(entry, side, lambda new: new != entry)  # type: ignore[arg-type]
    assert wider is not None
    assert (wider.low, wider.high) == (pytest.approx(low), pytest.approx(high))
    assert type(wider.high) is type(entry.high)


def test_a_range_is_widened_as_far_as_the_setting_goes() -> None:
    wider = widened(FLOAT, "high", lambda new: new.high < 0.6)
    assert wider is not None
    assert wider.high == 0.55  # 0.7 and 0.6 are refused
    assert widened(FLOAT, "high", lambda new: new.high < 0.4) is None
    down = widened(FLOAT, "low", lambda new: new.low >= 0, off=0.0)
    assert down is not None
    assert down.low == 0.0


@pytest.mark.parametrize(
    ("entry", "side", "position", "low", "high"),
    [
        (FLOAT, "high", 0.5, 0.1, 0.3),
        (FLOAT, "low", 0.333, 0.233, 0.5),  # 0.2332, outward
        (LOG, "high", 0.5, 1e-4, 1e-3),
        (STEPPED, "high", 0.4, 0.1, 0.3),  # 0.26, outward
        (INT, "high", 0.6, 2, 5),
        (STEPPED_INT, "low", 0.5, 4, 8),
    ],
)
def test_a_part_is_cut_off_no_deeper_than_it_is_poor(
    entry: FloatEntry | IntEntry, side: str, position: float, low: float, high: float
) -> None:
    shorter = cut(entry, side, position)  # type: ignore[arg-type]
    assert shorter is not None
    assert (shorter.low, shorter.high) == (pytest.approx(low), pytest.approx(high))


def test_nothing_is_cut_where_rounding_leaves_the_bound() -> None:
    assert (
        cut(
            INT,
            "high",
            0.9,
        )
        is None
    )


KIND, GAMMA = "lr_schedule.kind", "lr_schedule.gamma"
KINDS = CategoricalEntry(type="categorical", choices=["cosine", "step", "plateau"])
CHILD = FloatEntry(type="float", low=0.1, high=0.5, when={KIND: ["step", "plateau"]})


def test_a_condition_on_a_fixed_setting_goes_or_takes_its_entry_along() -> None:
    assert settled({GAMMA: CHILD}, {KIND: "step"})[GAMMA].when == {}
    assert settled({GAMMA: CHILD}, {KIND: "cosine"}) == {}
    fewer = KINDS.model_copy(update={"choices": ["cosine", "step"]})
    assert settled({KIND: fewer, GAMMA: CHILD}, {})[GAMMA].when == {KIND: ["step"]}
    grandchild = FloatEntry(type="float", low=0.1, high=0.5, when={GAMMA: 0.1})
    assert settled({GAMMA: CHILD, "x": grandchild}, {KIND: "cosine"}) == {}


CONDITIONAL = KNOWN.replace(
    "registry:",
    "  lr_schedule.kind: {type: categorical, choices: [cosine, step, plateau]}\n"
    "  lr_schedule.gamma: {type: float, low: 0.1, high: 0.5, "
    "when: {lr_schedule.kind: [step, plateau]}}\n"
    "registry:",
).replace("regularization: {", "lr_schedule: {kind: cosine}\nregularization: {")


def test_what_the_settings_do_not_accept_is_not_done(tmp_path: Path) -> None:
    search = NextSearch(tiny_config(tmp_path, text=CONDITIONAL))
    assert not search.fix(GAMMA, 0.2)  # the file's own schedule is cosine, which has none
    assert not search.replace(DROPOUT, FloatEntry(type="float", low=0.0, high=1.5))
    assert search.dropped == []
    assert search.fix(KIND, "step")
    assert search.entries[GAMMA].when == {}
    assert search.config.lr_schedule.kind == "step"
    assert search.fix(GAMMA, 0.2)
    assert search.dropped == [KIND, GAMMA]


def test_a_setting_that_goes_no_further_is_said_to(tmp_path: Path) -> None:
    strength = "augmentation.strength"
    text = KNOWN.replace(
        f"{SMOOTHING}:  {{type: float, low: 0.0, high: 0.2",
        f"{strength}: {{type: float, low: 0.0, high: 1.0",
    )
    config = tiny_config(tmp_path, text=text)
    dist = {path: entry.distribution() for path, entry in config.search.items()}

    def finding(best: str, sign: int) -> dict[str, str]:
        chance, trials = random.Random(0), []
        for _ in range(60):
            params = {DROPOUT: chance.uniform(0, 0.3), DECAY: 10 ** chance.uniform(-5, 1)}
            params[strength] = chance.random()
            trials.append(trial(sign * params[best], params, dist))
        return {f.kind: f.text for f in examine_bounds(config, trials).findings if f.path == best}

    full = finding(strength, 1)["limit_high"]
    assert full == "the best trials lie at its upper edge, and the setting goes no further"
    assert finding(DROPOUT, -1)["limit_low"] == "the best value is 0: off"


def test_a_ruin_is_seen_in_pruned_trials_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "study.sampler.kind=random", text=KNOWN)
    trials = drawn_study(config, 100)
    for one in trials:
        assert one.value is not None
        if one.value < 0.65:  # the ruined ones: the others have 0.9 - 0.25 or more
            one.state = TrialState.PRUNED
            one.intermediate_values = {1: one.value}
    assert any(one.state == TrialState.PRUNED for one in trials)
    assert DECAY in truths(examine_bounds(config, trials))


def test_too_few_trials_are_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text=KNOWN)
    with pytest.raises(UserError, match="9 trials of the study 'tiny' are finished"):
        examine_bounds(config, drawn_study(config, 0, num_trials=9))
    report = examine_bounds(config, drawn_study(config, 0, num_trials=20))
    assert (SMOOTHING, "too_few") in {(f.path, f.kind) for f in report.findings}
