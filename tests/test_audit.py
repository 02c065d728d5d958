"""The pruning audit: which trials are spared and marked, and what is made of how they ended."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from pipeline.analysis.audit import Audit, Half, audit
from pipeline.analysis.strength import strength
from pipeline.errors import UserError
from pipeline.study.audit import WOULD_PRUNE, is_drawn, is_due
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.constraints import CONSTRAINTS_PREFIX
from pipeline.study.ledger import Ledger
from tests.spaces import TINY, tiny_config
from tests.test_ledger import claimed, open_ledger

RULE = "pruner: {kind: threshold, lower: 0.9, warmup_epochs: 0}"
STRICT = TINY.replace("pruner: {kind: none}", RULE)
BY_SCHEDULE_ALONE = ("study.audit_fraction=1e-12", "study.trials=8")


def after_the_baselines(folder: Path, *assignments: str) -> Ledger:
    ledger = open_ledger(folder, *assignments, text=STRICT)
    for _ in range(2):
        ledger.complete(claimed(ledger), 0.5)
    return ledger


def test_two_are_audited_by_schedule_once_a_quarter_and_half_of_the_budget_are_finished(
    tmp_path: Path,
) -> None:
    ledger = after_the_baselines(tmp_path, *BY_SCHEDULE_ALONE)  # 2 of 8: a quarter
    first, second = claimed(ledger), claimed(ledger)
    assert ledger.report(first, 1, 0.95) is False  # the pruner has nothing against it yet
    assert ledger.report(first, 2, 0.1) is False
    assert ledger.report(second, 1, 0.1) is True
    ledger.prune(second)
    ledger.complete(first, 0.3)  # 4 of 8: half
    third, fourth = claimed(ledger), claimed(ledger)
    assert ledger.report(third, 1, 0.1) is False
    assert ledger.report(fourth, 1, 0.1) is True
    marks = [trial.user_attrs.get(WOULD_PRUNE) for trial in ledger.trials()]
    assert marks == [None, None, 2, None, 1, None]


def test_a_share_of_the_trials_is_audited_and_none_at_a_share_of_0(tmp_path: Path) -> None:
    every = after_the_baselines(tmp_path, "study.audit_fraction=1.0", "study.trials=100")
    spared = [claimed(every) for _ in range(3)]
    assert [every.report(claim, 1, 0.1) for claim in spared] == [False] * 3
    # It is no part of what the trials have in common: the same study goes on without an audit.
    none = open_ledger(tmp_path, "study.audit_fraction=0.0", "study.trials=4", text=STRICT)
    for claim in spared:
        none.fail(claim, "a reason")  # so that the schedule would ask for others
    assert none.report(claimed(none), 1, 0.1) is True


def test_an_audited_trial_is_spared_in_every_later_attempt(tmp_path: Path) -> None:
    ledger = after_the_baselines(tmp_path, *BY_SCHEDULE_ALONE)
    claim = claimed(ledger)
    assert ledger.report(claim, 1, 0.1) is False
    ledger.give_back(claim, "its process died")
    again = open_ledger(tmp_path, "study.audit_fraction=0.0", "study.trials=8", text=STRICT)
    resumed = claimed(again)
    assert (resumed.number, resumed.attempt) == (2, 2)
    assert again.report(resumed, 2, 0.1) is False
    assert again.trials()[2].user_attrs[WOULD_PRUNE] == 1


def test_a_failed_trial_is_no_audit(tmp_path: Path) -> None:
    ledger = after_the_baselines(tmp_path, *BY_SCHEDULE_ALONE)
    for _ in range(2):
        claim = claimed(ledger)
        assert ledger.report(claim, 1, 0.1) is False
        ledger.fail(claim, "a reason")


def test_baselines_are_never_audited(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "study.audit_fraction=1.0", text=STRICT)
    assert ledger.report(claimed(ledger), 1, 0.1) is False
    assert WOULD_PRUNE not in ledger.trials()[0].user_attrs


def test_the_draw_follows_from_seed_and_number_and_has_the_share_that_is_asked_for() -> None:
    drawn = [n for n in range(10_000) if is_drawn(0, n, 0.05)]
    assert 435 <= len(drawn) <= 565  # 500, within three standard deviations
    assert drawn == [n for n in range(10_000) if is_drawn(0, n, 0.05)]
    assert drawn != [n for n in range(10_000) if is_drawn(1, n, 0.05)]
    assert {*drawn} <= {n for n in range(10_000) if is_drawn(0, n, 0.5)}


@pytest.mark.parametrize(
    ("audited", "finished", "due"),
    [(0, 4, False), (0, 5, True), (1, 9, False), (1, 10, True), (2, 20, False), (0, 20, True)],
)
def test_the_schedule_of_a_budget_of_20(audited: int, finished: int, due: bool) -> None:
    assert is_due(audited, finished, budget=20) is due


@pytest.mark.parametrize("share", ["-0.1", "1.1"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(UserError, match="audit_fraction"):
        tiny_config(tmp_path, f"study.audit_fraction={share}")


# What is made of it. Curves of four epochs; the others' median is 0.5, 0.6, 0.7 and 0.75.

OTHERS = ((0.4, 0.5, 0.6, 0.65), (0.5, 0.6, 0.7, 0.75), (0.6, 0.7, 0.8, 0.85))


def ended(
    *curve: float,
    marked: int | None = None,
    state: TrialState = TrialState.COMPLETE,
    dropout: float = 0.35,
    decay: float = 1e-3,
    misses: float = 0.0,
) -> FrozenTrial:
    params = {"regularization.dropout": dropout, "training.optimizer.weight_decay": decay}
    value = max(curve) if state == TrialState.COMPLETE else curve[-1]
    return optuna.create_trial(
        state=state,
        value=None if state == TrialState.FAIL else value,
        params=params,
        distributions={
            "regularization.dropout": optuna.distributions.FloatDistribution(0.0, 0.7),
            "training.optimizer.weight_decay": optuna.distributions.FloatDistribution(
                1e-5, 1e-1, log=True
            ),
        },
        intermediate_values=dict(enumerate(curve, start=1)),
        user_attrs={} if marked is None else {WOULD_PRUNE: marked},
        system_attrs={f"{CONSTRAINTS_PREFIX}generalization_gap": misses},
    )


def audited(
    folder: Path, *trials: FrozenTrial, pruner: str = "{kind: median}", epochs: int = 4
) -> Audit:
    text = TINY.replace("{kind: none}", pruner).replace("epochs: 2", f"epochs: {epochs}")
    every = [ended(*curve) for curve in OTHERS] + list(trials)
    for number, trial in enumerate(every):
        trial.number = number
    return audit(every, tiny_config(folder, text=text))


def test_false_prunes_regret_and_the_warm_up_that_would_have_kept_them(tmp_path: Path) -> None:
    late = ended(0.1, 0.5, 0.69, 0.8, marked=1)  # above the median at the end alone
    best = ended(0.3, 0.65, 0.8, 0.9, marked=1)  # above it from epoch 2 on, and best of all
    right = ended(0.1, 0.2, 0.3, 0.4, marked=2)
    pruned = ended(0.1, 0.2, state=TrialState.PRUNED)
    failed = ended(0.1, marked=1, state=TrialState.FAIL)
    running = ended(0.1, marked=1, state=TrialState.RUNNING)
    found = audited(tmp_path, late, best, right, pruned, failed, running)
    assert (found.num_audited, found.num_pruned) == (3, 1)
    assert [
        (p.number, p.epoch, p.value, p.is_best, p.doubtful_until) for p in found.false_prunes
    ] == [
        (3, 1, 0.8, False, 3),
        (4, 1, 0.9, True, 1),
    ]
    assert found.regret == pytest.approx(0.05)
    assert found.share == pytest.approx(2 / 3)
    # Wilson, by hand: (2/3 + 3.8415/6 ± 1.96 √(2/27 + 3.8415/36)) / (1 + 3.8415/3)
    assert found.interval == pytest.approx((0.2077, 0.9385), abs=1e-4)
    remedy = "`study.pruner.warmup_epochs: 3` would have kept all of them"
    assert found.advice == f"2 false prunes among 3 audited: {remedy}"
    assert found.metrics() == {
        "pruning/audited": 3.0,
        "pruning/false_prunes": 2.0,
        "pruning/regret": pytest.approx(0.05),
    }
    assert found.tags() == {"regsearch.pruning_audit": found.advice}


def test_the_best_value_so_far_counts_as_it_does_for_the_pruner(tmp_path: Path) -> None:
    """0.7 in epoch 1 is the trial's standing in epochs 2 and 3 too."""
    found = audited(tmp_path, ended(0.7, 0.1, 0.1, 0.8, marked=2))
    assert [prune.doubtful_until for prune in found.false_prunes] == [0]


def test_trials_of_an_earlier_study_play_no_part(tmp_path: Path) -> None:
    """Another pruner stopped them, and the best of them would be the bar for a regret."""
    own = ended(0.1, 0.5, 0.69, 0.8, marked=1)
    pruned = ended(0.1, 0.2, state=TrialState.PRUNED)
    older = [
        ended(0.1, 0.2, state=TrialState.PRUNED),
        ended(0.9, 0.9, 0.9, 0.99),
        ended(0.1, 0.2, 0.3, 0.95, marked=1),
    ]
    for trial in older:
        trial.set_user_attr(CARRIED_FROM, "old/3")
    found = audited(tmp_path, own, pruned, *older)
    assert (found.num_audited, found.num_pruned, found.regret) == (1, 1, 0.0)
    assert [prune.number for prune in found.false_prunes] == [3]
    assert found.false_prunes[0].is_best is False
    assert found == audited(tmp_path, own, pruned)


def test_a_trial_that_breaks_the_constraints_would_not_have_won(tmp_path: Path) -> None:
    """Nor may one of the others: of those that may, 0.85 is the best."""
    barred = ended(0.1, 0.5, 0.8, 0.99, marked=1, misses=0.1)
    kept = ended(0.1, 0.5, 0.69, 0.82, marked=1, misses=-0.1)
    better = ended(0.6, 0.7, 0.8, 0.86, misses=0.1)
    found = audited(tmp_path, barred, kept, better)
    assert found.num_audited == 2
    assert [(prune.number, prune.is_best) for prune in found.false_prunes] == [(4, False)]
    assert found.regret == 0.0
    found = audited(tmp_path, ended(0.1, 0.2, 0.3, 0.855, marked=1), better)
    assert [(prune.number, prune.is_best) for prune in found.false_prunes] == [(3, True)]
    assert found.regret == pytest.approx(0.005)


def test_no_false_prune(tmp_path: Path) -> None:
    right, pruned = ended(0.1, 0.2, 0.3, 0.4, marked=2), ended(0.1, state=TrialState.PRUNED)
    found = audited(tmp_path, right, pruned, pruned)
    assert found.regret == 0.0
    assert found.advice == "no false prune among 1 audited of 3 that the pruner would stop"


@pytest.mark.parametrize(
    ("trials", "advice"),
    [
        ((), "the pruner wanted to stop no trial"),
        (
            (ended(0.1, state=TrialState.PRUNED),),
            "none of the 1 trials that the pruner wanted to stop was audited",
        ),
    ],
)
def test_nothing_to_judge(tmp_path: Path, trials: tuple[FrozenTrial, ...], advice: str) -> None:
    found = audited(tmp_path, *trials)
    assert (found.share, found.interval, found.weaker, found.stronger) == (None,) * 4
    assert found.advice == advice


def test_without_other_complete_trials_nothing_is_called_false(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    found = audit([ended(0.1, 0.9, marked=1)], config)
    assert (found.num_audited, found.false_prunes, found.regret) == (1, (), 0.0)


@pytest.mark.parametrize(
    ("pruner", "remedy"),
    [
        # The best quarter begins at 0.75 in epoch 3 and at 0.8 in epoch 4, by linear interpolation.
        ("{kind: percentile, percentile: 25.0}", "`study.pruner.warmup_epochs: 3` would"),
        ("{kind: threshold, lower: 0.68}", "`study.pruner.warmup_epochs: 2` would"),
        ("{kind: threshold, lower: 0.85}", "no warm-up would"),
        ("{kind: hyperband}", "they looked bad until epoch 2; give each trial 3 `min_epochs`"),
    ],
)
def test_the_remedy_is_the_pruners_own(tmp_path: Path, pruner: str, remedy: str) -> None:
    found = audited(tmp_path, ended(0.1, 0.5, 0.72, 0.81, marked=1), pruner=pruner)
    assert found.advice.startswith(f"1 false prune among 1 audited: {remedy}")


def test_of_a_loss_less_is_better(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "study.metric=validation/loss")
    curves = ((0.9, 0.5), (0.8, 0.4), (0.7, 0.3))
    others = [ended(*curve) for curve in curves]
    trials = [*others, ended(0.85, 0.2, marked=1)]
    for trial, value in zip(trials, (0.5, 0.4, 0.3, 0.2), strict=True):
        trial.value = value
    found = audit(trials, config)
    assert [(p.is_best, p.doubtful_until) for p in found.false_prunes] == [(True, 1)]
    assert found.regret == pytest.approx(0.1)


def test_the_halves_by_strength(tmp_path: Path) -> None:
    weak = ended(0.1, 0.2, 0.3, 0.4, marked=1, dropout=0.1)
    strong = [ended(0.1, 0.2, 0.3, end, marked=1, dropout=0.6) for end in (0.8, 0.4)]
    found = audited(tmp_path, strong[0], weak, strong[1])
    assert (found.weaker, found.stronger) == (Half(1, 0), Half(2, 1))


SPACE = (
    TINY.partition("search:")[0]
    + """search:
  regularization.dropout: {type: float, low: 0.0, high: 0.5}
  training.optimizer.weight_decay: {type: float, low: 1e-5, high: 1e-1, log: true}
  augmentation.strength: {type: categorical, choices: [0.0, 0.25, 1.0]}
  training.optimizer.learning_rate: {type: float, low: 1e-3, high: 1e-2}
"""
)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"regularization.dropout": 0.25}, 0.5),
        ({"training.optimizer.weight_decay": 1e-2}, 0.75),  # three of the four powers of ten
        ({"augmentation.strength": 0.25}, 0.25),
        ({"regularization.dropout": 0.5, "augmentation.strength": 0.0}, 0.5),
        ({"training.optimizer.learning_rate": 1e-2}, None),  # regularizes nothing
    ],
    ids=str,
)
def test_strength_is_the_mean_position_away_from_off(
    tmp_path: Path, params: dict[str, float], expected: float | None
) -> None:
    trial = ended(0.5)
    trial.params = params
    found = strength(trial, tiny_config(tmp_path, text=SPACE))
    assert found == (None if expected is None else pytest.approx(expected))
