"""The study's books, on a real SQLite store."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.errors import UserError
from pipeline.study.baselines import baselines
from pipeline.study.claim import Claim
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import (
    HISTORY,
    MAX_FRUITLESS_ATTEMPTS,
    OWNER,
    REASON,
    ClaimLostError,
)
from tests.spaces import TINY, tiny_config
from tests.template import forked


def open_ledger(folder: Path, *assignments: str, text: str = TINY, extend: bool = False) -> Ledger:
    store = open_storage(f"sqlite:///{folder}/optuna.db")
    return Ledger(tiny_config(folder, *assignments, text=text), store, extend=extend)


def claimed(ledger: Ledger) -> Claim:
    claim = ledger.claim()
    assert claim is not None
    return claim


def test_the_baselines_come_first_with_their_true_settings(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first, second, third = ledger.claim(), ledger.claim(), ledger.claim()
    assert first
    assert second
    assert third
    assert (first.baseline, second.baseline, third.baseline) == ("unregularized", "recipe", None)
    assert first.name == "trial 0 (unregularized)"
    assert first.overrides == {"regularization.dropout": 0.0}
    assert first.params == {"regularization.dropout": 0.0, "training.optimizer.weight_decay": 0.0}
    assert second.overrides == {}
    assert second.params["regularization.dropout"] == 0.5
    assert third.overrides == third.trial.params


def test_optuna_is_told_the_nearest_point_of_a_baseline_outside_the_space(tmp_path: Path) -> None:
    claim = open_ledger(tmp_path).claim()
    assert claim is not None
    # No weight decay is not on a log scale, so the sampler learns from the low end of it.
    assert claim.trial.params["training.optimizer.weight_decay"] == 1e-5
    assert claim.params["training.optimizer.weight_decay"] == 0.0


def test_a_file_without_regularization_has_one_baseline(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text=TINY.replace("regularization: {dropout: 0.5}", ""))
    assert baselines(config) == {"unregularized": {}}


def test_the_unregularized_baseline_switches_off_every_regularizer_that_is_on(
    tmp_path: Path,
) -> None:
    config = tiny_config(
        tmp_path,
        "regularization.l1=0.1",
        "regularization.mixup_alpha=1.0",
        "training.optimizer.weight_decay=0.01",
        "augmentation.strength=0.5",
    )
    assert baselines(config)["unregularized"] == {
        "training.optimizer.weight_decay": 0.0,
        "regularization.mixup_alpha": 0.0,
        "regularization.l1": 0.0,
        "regularization.dropout": 0.0,
        "augmentation.strength": 0.0,
    }


def test_where_nothing_is_searched_the_baselines_are_all_there_is(tmp_path: Path) -> None:
    text = TINY[: TINY.index("search:")] + TINY[TINY.index("registry:") :]
    ledger = open_ledger(tmp_path, "study.trials=9", "regularization.dropout=0.5", text=text)
    assert ledger.target == 2
    for _ in range(2):
        ledger.complete(claimed(ledger), 0.5)
    assert ledger.claim() is None
    assert ledger.is_over()


def test_a_trial_whose_settings_were_being_drawn_when_the_stop_came_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)

    def stopped(_: int) -> optuna.samplers.BaseSampler:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_sampler", stopped)
        with pytest.raises(KeyboardInterrupt):
            ledger.claim()
    assert ledger.held is None
    assert {trial.state for trial in ledger.trials()} == {TrialState.WAITING}
    again = claimed(ledger)
    assert (again.number, again.attempt) == (0, 2)


def test_a_stop_that_comes_before_the_stores_reply_gives_the_trial_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)
    claim = ledger.store.claim

    def unheard(*asked: Any) -> None:
        claim(*asked)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger.store, "claim", unheard)
        with pytest.raises(KeyboardInterrupt):
            ledger.claim()
    assert {trial.state for trial in ledger.trials()} == {TrialState.WAITING}
    again = claimed(ledger)
    assert (again.number, again.attempt) == (0, 2)


def test_the_budget_counts_complete_and_pruned_trials_over_all_runs(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)  # 4 trials
    for end in ("complete", "prune", "fail", "complete"):
        claim = ledger.claim()
        assert claim is not None
        if end == "complete":
            ledger.complete(claim, 0.5)
        elif end == "prune":
            ledger.report(claim, 1, 0.1)
            ledger.prune(claim)
        else:
            ledger.fail(claim, "a reason")
    again = open_ledger(tmp_path)
    assert again.num_finished() == 3
    last = again.claim()
    assert last is not None
    assert last.number == 4
    again.complete(last, 0.6)
    assert again.claim() is None
    assert again.trials(TrialState.FAIL)[0].user_attrs["regsearch.reason"] == "a reason"


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    assert open_ledger(tmp_path).claim()
    assert open_ledger(tmp_path, "study.trials=9").claim()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("training.epochs=3", "training.epochs: 2 then, 3 now"),
        ("study.metric=validation/loss", "study.metric"),
        ("regularization.l1=0.5", "regularization.l1: 0.0 then, 0.5 now"),
    ],
)
def test_other_settings_are_refused_with_a_diff(tmp_path: Path, change: str, shown: str) -> None:
    open_ledger(tmp_path)
    with pytest.raises(UserError) as error:
        open_ledger(tmp_path, change)
    assert shown in str(error.value)


def test_other_bounds_are_refused_with_a_diff(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    with pytest.raises(UserError, match=r"search\.regularization\.dropout") as narrower:
        open_ledger(tmp_path, text=TINY.replace("high: 0.7", "high: 0.6"))
    old, new = (f"{{type: float, low: 0.0, high: {high}}}" for high in (0.7, 0.6))
    assert f"    search.regularization.dropout: {old} then, {new} now" in narrower.value.what
    assert narrower.value.rule.endswith("wider, and no other change of `search:`")
    more = "  lr_schedule.kind: {type: categorical, choices: [cosine, step]}\n"
    more += "  lr_schedule.gamma: {type: float, low: 0.1, high: 0.5, "
    more += "when: {lr_schedule.kind: step}}\n"
    with pytest.raises(UserError) as added:
        open_ledger(tmp_path, text=TINY.replace("registry:", f"{more}registry:"))
    for line in more.splitlines():
        key, _, entry = line.strip().partition(": ")
        assert f"    search.{key}: nothing then, {entry} now" in added.value.what


def test_the_cure_names_what_extend_does_not_take(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    both = TINY.replace("pruner: {kind: none}", "pruner: {kind: median}")
    with pytest.raises(UserError) as taken:
        open_ledger(tmp_path, text=both)
    assert taken.value.cure.startswith("add --extend")
    assert "study.pruner.kind: none then, median now" in taken.value.what
    assert "trained alike; --extend takes these changes" in taken.value.rule
    with pytest.raises(UserError) as partly:
        open_ledger(tmp_path, "training.epochs=3", text=both)
    assert partly.value.cure.startswith("undo those of training.epochs (--extend takes")
    with pytest.raises(UserError) as none:
        open_ledger(tmp_path, "training.epochs=3")
    assert none.value.cure.startswith("undo the changes (`--set` makes some, too), or")
    assert none.value.rule.endswith("trained alike")


def test_other_images_are_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path).require_same_data("abc")
    open_ledger(tmp_path).require_same_data("abc")
    with pytest.raises(UserError, match="abc then, def now"):
        open_ledger(tmp_path).require_same_data("def")


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 0.9), ("loss", 0.2)])
def test_the_best_trial_follows_the_metrics_direction(
    tmp_path: Path, metric: str, best: float
) -> None:
    ledger = open_ledger(tmp_path, f"study.metric=validation/{metric}")
    for value in (0.5, 0.9, 0.2):
        ledger.complete(claimed(ledger), value)
    found = ledger.best()
    assert found is not None
    assert found.value == best


def test_baselines_are_never_pruned(tmp_path: Path) -> None:
    rule = "pruner: {kind: threshold, lower: 0.9, warmup_epochs: 0}"
    ledger = open_ledger(tmp_path, text=TINY.replace("pruner: {kind: none}", rule))
    first, _, third = claimed(ledger), claimed(ledger), claimed(ledger)
    assert ledger.report(first, 1, 0.1) is False
    assert ledger.report(third, 1, 0.1) is True


@pytest.mark.parametrize("kind", ["successive_halving", "hyperband"])
def test_halving_asks_at_its_rungs_alone(tmp_path: Path, kind: str) -> None:
    rule = f"pruner: {{kind: {kind}, min_epochs: 1, reduction_factor: 2}}"
    text = TINY.replace("pruner: {kind: none}", rule).replace("epochs: 2", "epochs: 4")
    ledger = open_ledger(tmp_path, "study.audit_fraction=0", "study.trials=40", text=text)
    for _ in baselines(ledger.config):
        ledger.complete(claimed(ledger), 0.5)
    pruned_at = []
    for best in range(60, 80, 2):  # Hyperband's brackets have rungs at 1, 2 and 4, or 2 and 4, or 4
        good, bad = claimed(ledger), claimed(ledger)
        assert not any(ledger.report(good, epoch, best / 100) for epoch in (1, 2, 3, 4))
        ledger.complete(good, best / 100)
        # The best of all at the first rungs, the worst of all at epoch 3, where there is none.
        curve = {1: (best + 1) / 100, 2: (best + 1) / 100, 3: 0.1, 4: 0.1}
        pruned_at.append(next((e for e, value in curve.items() if ledger.report(bad, e, value)), 0))
        ledger.prune(bad)
    assert 4 in pruned_at
    assert 3 not in pruned_at


def test_a_pruned_trials_value_is_its_last_report(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    claim = claimed(ledger)
    ledger.report(claim, 1, 0.4)
    ledger.report(claim, 2, 0.3)
    ledger.prune(claim)
    (trial,) = ledger.trials(TrialState.PRUNED)
    assert (trial.value, trial.intermediate_values) == (0.3, {1: 0.4, 2: 0.3})


def test_a_restarted_study_does_not_draw_its_first_points_again(tmp_path: Path) -> None:
    drawn = []
    for _ in range(4):  # each claim in a study opened anew
        claim = open_ledger(tmp_path, "study.trials=9").claim()
        assert claim is not None
        drawn.append(claim.trial.params["regularization.dropout"])
    assert len(set(drawn[2:])) == 2


def claim_three() -> None:
    ledger = open_ledger(Path(sys.argv[1]))
    claims = [claimed(ledger) for _ in range(3)]
    for claim in claims[1:]:
        ledger.report(claim, 1, 0.25)
    print("claimed", flush=True)
    signal.pause()


def test_a_killed_processes_trials_wait_again_under_their_numbers(tmp_path: Path) -> None:
    """With the same parameters, the epochs that were reported, and one attempt more."""
    with forked(claim_three, str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        ledger = open_ledger(tmp_path)
        before = [trial.params for trial in ledger.trials()]
        assert ledger.sweep() == []  # it is alive
        os.kill(process.pid, signal.SIGKILL)
    assert [(s.number, s.attempt, s.state.name) for s in ledger.sweep()] == [
        (0, 1, "WAITING"),
        (1, 1, "WAITING"),
        (2, 1, "WAITING"),
    ]
    assert ledger.sweep() == []
    again = [claimed(ledger) for _ in range(3)]
    assert [claim.number for claim in again] == [0, 1, 2]
    assert [claim.baseline for claim in again] == ["unregularized", "recipe", None]
    assert [claim.attempt for claim in again] == [2, 2, 2]
    assert [claim.reported_epochs for claim in again] == [0, 1, 1]
    assert [claim.trial.params for claim in again] == before
    assert len(ledger.trials()) == 3
    (ended,) = ledger.trials()[2].user_attrs[HISTORY]
    assert (ended["attempt"], ended["end"], ended["epoch"]) == (1, "its process died", 1)


def test_who_lost_a_claim_cannot_report_or_settle_it(tmp_path: Path) -> None:
    """Such as a worker that was frozen, and found stale; the new owner goes on undisturbed."""
    ledger = open_ledger(tmp_path)
    late = claimed(ledger)
    ledger.give_back(late, "its worker was not heard of for 60 s")
    new = claimed(ledger)
    assert (new.number, new.attempt) == (late.number, 2)
    for act in (
        lambda: ledger.report(late, 1, 0.99),
        lambda: ledger.complete(late, 0.99),
        lambda: ledger.fail(late, "?"),
        lambda: ledger.give_back(late, "?"),
    ):
        with pytest.raises(ClaimLostError):
            act()
    ledger.report(new, 1, 0.5)
    ledger.complete(new, 0.5)
    with pytest.raises(ClaimLostError):
        ledger.complete(late, 0.99)
    (trial,) = ledger.trials(TrialState.COMPLETE)
    assert (trial.value, trial.intermediate_values) == (0.5, {1: 0.5})


def test_what_was_settled_is_settled_once(tmp_path: Path) -> None:
    """The reply to a verdict may be lost with a connection, and the verdict told again."""
    ledger = open_ledger(tmp_path)
    claim = claimed(ledger)
    ledger.complete(claim, 0.5)
    ledger.complete(claim, 0.5)
    assert [t.value for t in ledger.trials(TrialState.COMPLETE)] == [0.5]


def test_a_lost_reply_to_a_claim_takes_no_second_trial(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first = ledger.store.claim(ledger.id, 4, "token")
    assert ledger.store.claim(ledger.id, 4, "token") == first
    assert ledger.store.claim(ledger.id, 4, "another") != first


def test_running_trials_count_towards_the_budget_until_they_fail(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)  # 4 trials
    claims = [claimed(ledger) for _ in range(4)]
    assert ledger.claim() is None
    assert not ledger.is_over()
    ledger.fail(claims[0], "a reason")
    assert claimed(ledger).number == 4
    assert ledger.claim() is None


def test_a_silent_owner_is_swept_and_a_beating_one_is_not(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "study.grace_sec=2.0")
    silent, beating = claimed(ledger), claimed(ledger)
    ledger.held = (silent.trial._trial_id, silent.owner)
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        ledger.store.beat(beating.trial._trial_id, beating.owner)
        time.sleep(0.2)
    (swept,) = ledger.sweep()
    assert swept.number == silent.number
    assert "not heard of" in swept.reason


def test_a_trial_that_kills_its_workers_fails_in_the_end(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for attempt in range(1, MAX_FRUITLESS_ATTEMPTS + 1):
        claim = claimed(ledger)
        assert (claim.number, claim.attempt) == (0, attempt)
        ledger.give_back(claim, "its process died")
    (failed,) = ledger.trials(TrialState.FAIL)
    assert "10 attempts ended without a new epoch" in failed.user_attrs[REASON]


def test_a_resumed_trial_is_judged_by_all_of_its_epochs(tmp_path: Path) -> None:
    rule = "pruner: {kind: patient, patience_epochs: 1, startup_trials: 1, warmup_epochs: 0}"
    text = TINY.replace("pruner: {kind: none}", rule).replace("epochs: 2", "epochs: 8")
    ledger = open_ledger(tmp_path, "study.audit_fraction=0", text=text)
    for _ in baselines(ledger.config):
        steady = claimed(ledger)
        for epoch in range(1, 9):
            ledger.report(steady, epoch, 0.9)
        ledger.complete(steady, 0.9)
    first = claimed(ledger)
    assert not ledger.report(first, 1, 0.5)
    assert not ledger.report(first, 2, 0.4)
    ledger.give_back(first, "its process died")
    again = claimed(ledger)
    assert again.number == first.number
    assert ledger.report(again, 3, 0.4)  # for two epochs it has fallen short of its best, the first


def test_a_trial_that_gets_further_each_time_is_never_given_up(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for epoch in range(1, 2 * MAX_FRUITLESS_ATTEMPTS):
        claim = claimed(ledger)
        assert claim.number == 0
        ledger.report(claim, epoch, 0.5)
        ledger.give_back(claim, "its process died")
    assert ledger.trials(TrialState.FAIL) == []


def test_a_resumed_trial_is_not_pruned_at_an_epoch_that_it_has_passed(tmp_path: Path) -> None:
    rule = "pruner: {kind: threshold, lower: 0.9, warmup_epochs: 0}"
    ledger = open_ledger(tmp_path, text=TINY.replace("pruner: {kind: none}", rule))
    claims = [claimed(ledger) for _ in range(3)]
    ledger.report(claims[2], 1, 0.95)
    ledger.report(claims[2], 2, 0.95)
    ledger.give_back(claims[2], "interrupted")
    again = claimed(ledger)
    assert again.reported_epochs == 2
    assert ledger.report(again, 2, 0.1) is False
    assert ledger.report(again, 3, 0.1) is True


def test_a_baseline_that_failed_is_tried_once_more_in_the_next_run(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for _ in range(2):
        ledger.fail(claimed(ledger), "the GPU was busy")
    assert ledger.baseline("unregularized") is None
    again = open_ledger(tmp_path)
    retries = [claimed(again), claimed(again)]
    assert [claim.baseline for claim in retries] == ["unregularized", "recipe"]
    assert [claim.number for claim in retries] == [2, 3]
    again.complete(retries[0], 0.5)
    again.complete(retries[1], 0.6)
    assert claimed(open_ledger(tmp_path)).baseline is None


def test_a_pid_that_came_again_is_not_the_same_process(tmp_path: Path) -> None:
    """In a container every run is process 1."""
    ledger = open_ledger(tmp_path)
    claim = claimed(ledger)
    assert ledger.sweep() == []
    machine, pid, start, token = claim.owner.rsplit("|", 3)
    other = "|".join([machine, pid, str(int(start) - 1), token])
    ledger.store.set_trial_user_attr(claim.trial._trial_id, OWNER, other)
    assert [swept.reason for swept in ledger.sweep()] == ["its process died"]


def test_a_process_of_another_machine_is_not_called_dead(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    claim = claimed(ledger)
    _, namespace, _, start, token = claim.owner.split("|")
    elsewhere = "|".join(["elsewhere", namespace, "999999999", start, token])
    ledger.store.set_trial_user_attr(claim.trial._trial_id, OWNER, elsewhere)
    assert ledger.sweep() == []


def test_failures_in_a_row_are_those_since_a_trial_was_finished(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "study.trials=9")
    for end in ("fail", "fail", "complete", "fail", "fail"):
        claim = claimed(ledger)
        if end == "fail":
            ledger.fail(claim, end)
        else:
            ledger.complete(claim, 0.5)
    assert [trial.number for trial in ledger.failures_in_a_row()] == [3, 4]
    assert [trial.number for trial in ledger.failures_in_a_row(forgiven=(3,))] == [4]


def test_the_best_five_and_the_baselines_keep_their_weights(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "study.trials=12")
    values = (0.1, 0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.6, 0.5)  # trials 0 and 1 are the baselines
    for value in values:
        ledger.complete(claimed(ledger), value)
    failed, running = claimed(ledger), claimed(ledger)
    ledger.fail(failed, "a reason")
    needed = ledger.needs_weights()
    assert [n for n in range(len(values)) if needed(n)] == [0, 1, 2, 4, 6, 7, 8]
    assert needed(running.number)  # it may have saved its weights already
    assert not needed(failed.number)
    assert ledger.keeps_weights(running, 0.51)
    assert not ledger.keeps_weights(running, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        "data.root=elsewhere",
        "registry.model_name=other",
        "study.max_consecutive_failures=9",
        "study.grace_sec=9.0",
        "study.checkpoint_sec=0.0",
    ],
)
def test_what_changes_no_trial_may_change(tmp_path: Path, change: str) -> None:
    open_ledger(tmp_path)
    assert open_ledger(tmp_path, change).claim()


def test_a_default_may_be_written_out(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    spelt = TINY.replace("high: 0.7}", "high: 0.7, log: false}")
    assert open_ledger(tmp_path, text=spelt).claim()


WIDER = TINY.replace("low: 0.0, high: 0.7", "low: 0.0, high: 0.9")


def test_wider_bounds_are_offered_and_taken_with_extend(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    for _ in range(3):
        first.complete(claimed(first), 0.5)
    with pytest.raises(UserError, match="--extend"):
        open_ledger(tmp_path, text=WIDER)
    ledger = open_ledger(tmp_path, text=WIDER, extend=True)
    assert ledger.extended == ["regularization.dropout: 0 to 0.7 -> 0 to 0.9"]
    old = [trial.distributions["regularization.dropout"] for trial in ledger.trials()]
    assert {distribution.high for distribution in old} == {0.9}  # type: ignore[attr-defined]
    assert open_ledger(tmp_path, text=WIDER).extended == []
    with pytest.raises(UserError, match=r"search\.regularization\.dropout"):
        open_ledger(tmp_path)  # the narrower file is another one now


def test_nothing_is_extended_under_a_running_trial(tmp_path: Path) -> None:
    claimed(open_ledger(tmp_path))
    with pytest.raises(UserError, match="1 trials of the study 'tiny' are running"):
        open_ledger(tmp_path, text=WIDER, extend=True)


@pytest.mark.parametrize(
    ("old", "new", "extends"),
    [
        ("low: 0.0, high: 0.7", "low: 0.0, high: 0.6", False),  # narrower
        ("low: 0.0, high: 0.7", "low: 0.1, high: 0.9", False),  # wider at one end only
        ("low: 1e-5, high: 1e-1", "low: 1e-6, high: 1.0", True),
        ("low: 1e-5, high: 1e-1, log: true", "low: 1e-5, high: 1e-1", False),
        ("low: 0.0, high: 0.7", "low: 0.0, high: 0.7, step: 0.1", False),
        ("pruner: {kind: none}", "pruner: {kind: median}", True),
        ("trials: 4", "trials: 4\n  sampler: {kind: random}", True),
        ("trials: 4", "trials: 4\n  seed: 1", False),
        ("trials: 4", "trials: 4\n  metric: validation/loss", False),
        ("epochs: 2", "epochs: 3", False),
        ("width: 4", "width: 5", False),
        ("train_images: 100", "train_images: 90", False),
        (
            "registry:",
            "  regularization.l1: {type: float, low: 0.0, high: 0.1}\nregistry:",
            False,
        ),
    ],
)
def test_row_26_extend_takes_what_leaves_every_trial_valid_and_nothing_else(
    tmp_path: Path, old: str, new: str, extends: bool
) -> None:
    assert old in TINY
    changed = TINY.replace(old, new)
    open_ledger(tmp_path)
    with pytest.raises(UserError, match="was begun with other settings"):
        open_ledger(tmp_path, text=changed)
    if extends:
        assert open_ledger(tmp_path, text=changed, extend=True).extended
    else:
        with pytest.raises(UserError, match="was begun with other settings"):
            open_ledger(tmp_path, text=changed, extend=True)


def test_a_study_that_is_older_than_a_setting_goes_on_with_its_default(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    spec = dict(ledger.recorded("spec"))
    assert spec.pop("training.engine") == "auto"
    ledger.keep("spec", spec)
    assert open_ledger(tmp_path).uuid == ledger.uuid
    with pytest.raises(UserError, match=r"training\.engine"):
        open_ledger(tmp_path, "training.engine=eager")


def test_a_trials_parameters_are_written_at_once_and_only_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for _ in range(2):  # the baselines
        ledger.complete(claimed(ledger), 0.5)
    store = ledger.store
    id_of = store.claim(ledger.id, 100, "owner")
    assert id_of is not None
    ledger.trials()
    trial = optuna.Trial(ledger.study, id_of)
    with store.gathered_params():
        drawn = ledger.space.sample(trial)
        assert store.get_trial(id_of).params == {}
    assert len(drawn) > 1
    assert store.get_trial(id_of).params == drawn
    written = [
        (
            id_of,
            path,
            entry.distribution().to_internal_repr(drawn[path]),
            entry.distribution(),
            None,
        )
        for path, entry in ledger.config.search.items()
        if path in drawn
    ]
    store._write_params(written)  # again, as after an answer that was lost
    assert store.get_trial(id_of).params == drawn


def test_a_report_of_another_owner_writes_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    trial_id = claimed(ledger).trial._trial_id
    with pytest.raises(ClaimLostError):
        ledger.store.report(trial_id, "somebody else", 1, 0.5)
    assert ledger.store.get_trial(trial_id).intermediate_values == {}
