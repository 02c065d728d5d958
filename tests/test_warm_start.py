"""Warm start: which trials of an earlier study are carried over, and that they count for nothing
but what is learned from them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from pipeline.coordinator import standing
from pipeline.errors import UserError
from pipeline.progress import LogView
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.claim import Claim
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember_settings
from pipeline.study.storage import open_storage
from pipeline.study.store import SCORED
from pipeline.study.warm_start import carry, find_warm_start
from tests.spaces import TINY, tiny_config
from tests.template import forked_at_once
from tests.test_ledger import claimed

DROPOUT, DECAY = "regularization.dropout", "training.optimizer.weight_decay"
GAP = "generalization_gap"
OLD = TINY.replace("trials: 4", "trials: 9")
NEW = TINY.replace("name: tiny\n", "name: new\n  warm_start: {study: tiny}\n")


def place(ledger: Ledger, **params: float) -> Claim:
    """A claim on a trial at this point of the space."""
    full = {DROPOUT: params.get("dropout", 0.25), DECAY: params.get("decay", 1e-3)}
    ledger.study.enqueue_trial(full)
    return claimed(ledger)


def old_study(folder: Path, *points: dict[str, float], text: str = OLD) -> Ledger:
    """Baselines 0 and 1, and complete trials from 2 on whose value is their dropout."""
    config = tiny_config(folder, text=text)
    ledger = Ledger(config, open_storage(f"sqlite:///{folder}/optuna.db"))
    remember_settings(ledger)
    ledger.require_same_data("abc")
    for _ in range(2):
        ledger.complete(claimed(ledger), 0.5, {SCORED: {"epoch": 1, GAP: 0.0}})
    for point in points:
        claim = place(ledger, **point)
        ledger.report(claim, 1, 0.125)
        value = point.get("dropout", 0.25)
        ledger.complete(claim, value, {SCORED: {"epoch": 2, GAP: value}})
    return ledger


def begin(folder: Path, *assignments: str, text: str = NEW, digest: str = "abc") -> Ledger:
    config = tiny_config(folder, *assignments, text=text)
    store = open_storage(f"sqlite:///{folder}/optuna.db")
    warm = find_warm_start(config, store, digest)
    ledger = Ledger(config, store)
    carry(ledger, warm)
    return ledger


def carried(ledger: Ledger) -> list[FrozenTrial]:
    return [trial for trial in ledger.trials() if CARRIED_FROM in trial.user_attrs]


def origins(ledger: Ledger) -> list[str]:
    return [str(trial.user_attrs[CARRIED_FROM]) for trial in carried(ledger)]


def test_a_trial_comes_with_all_that_it_found_and_baselines_stay(tmp_path: Path) -> None:
    old = old_study(tmp_path, {"dropout": 0.25, "decay": 1e-2})
    pruned, failed = place(old, dropout=0.125), place(old)
    old.report(pruned, 1, 0.1)
    old.prune(pruned, {SCORED: {"epoch": 1, GAP: 0.5}})
    old.fail(failed, "a reason")
    narrower = NEW.replace("high: 0.7", "high: 0.6").replace("high: 1e-1, log: true", "high: 0.05")
    first, second = carried(begin(tmp_path, text=narrower))
    assert first.user_attrs == {CARRIED_FROM: "tiny/2", SCORED: {"epoch": 2, GAP: 0.25}}
    assert (first.state, first.value, first.params, first.intermediate_values) == (
        TrialState.COMPLETE,
        0.25,
        {DROPOUT: 0.25, DECAY: 1e-2},
        {1: 0.125},
    )
    assert first.distributions[DROPOUT] == FloatDistribution(0.0, 0.6)
    assert first.distributions[DECAY] == FloatDistribution(1e-5, 0.05)
    assert (second.state, second.value, second.user_attrs[CARRIED_FROM]) == (
        TrialState.PRUNED,
        0.1,
        "tiny/3",
    )


def test_only_what_lies_in_the_new_space_or_equals_the_new_setting_fits(tmp_path: Path) -> None:
    old_study(
        tmp_path,
        {"dropout": 0.1},
        {"dropout": 0.6},
        {"dropout": 0.3, "decay": 0.01},
        {"dropout": 0.3, "decay": 0.02},
    )
    low = begin(tmp_path, text=NEW.replace("high: 0.7", "high: 0.3"))
    assert origins(low) == ["tiny/2", "tiny/4", "tiny/5"]
    # No longer searched: only the trial that had the value fits.
    fixed = NEW.replace(f"  {DECAY}: {{type: float, low: 1e-5, high: 1e-1, log: true}}\n", "")
    fixed = fixed.replace("learning_rate: 3e-3", "learning_rate: 3e-3, weight_decay: 0.02")
    (only,) = carried(begin(tmp_path, text=fixed.replace("name: new", "name: fixed")))
    assert (only.user_attrs[CARRIED_FROM], only.params) == ("tiny/5", {DROPOUT: 0.3})


def test_what_is_searched_anew_has_the_value_that_was_the_files(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.25})
    entry = "search:\n  training.optimizer.learning_rate: {type: float, low: 1e-3, high: 1e-2}"
    (trial,) = carried(begin(tmp_path, text=NEW.replace("search:", entry)))
    assert trial.params["training.optimizer.learning_rate"] == 3e-3


def test_conditions_and_kinds_are_those_that_the_trial_had(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.25})
    entries = (
        "search:\n  training.optimizer.kind: {type: categorical, choices: [adamw, sgd]}\n"
        "  training.optimizer.momentum: {type: float, low: 0.5, high: 0.99, "
        "when: {training.optimizer.kind: sgd}}"
    )
    (trial,) = carried(begin(tmp_path, text=NEW.replace("search:", entries)))
    assert trial.params == {DROPOUT: 0.25, DECAY: 1e-3, "training.optimizer.kind": "adamw"}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("training.epochs=3", "training.epochs: 2 then, 3 now"),
        ("regularization.l1=0.5", "regularization.l1: 0.0 then, 0.5 now"),
        ("study.metric=validation/loss", "study.metric: 'validation/accuracy' then"),
        ("study.seed=1", "study.seed: 0 then, 1 now"),
        ("data.train_images=200", "data.train_images: 100 then, 200 now"),
    ],
)
def test_another_task_is_refused_with_a_diff_before_the_study_is_made(
    tmp_path: Path, change: str, shown: str
) -> None:
    old = old_study(tmp_path, {"dropout": 0.25})
    with pytest.raises(UserError) as error:
        begin(tmp_path, change)
    assert shown in str(error.value)
    assert [study.study_name for study in old.store.get_all_studies()] == ["tiny"]
    assert origins(begin(tmp_path)) == ["tiny/2"]


def test_other_images_are_refused(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.25})
    with pytest.raises(UserError, match="data digest: 'abc' then, 'def' now"):
        begin(tmp_path, digest="def")


def test_what_is_ignored_is_taken_for_the_nearest_value_or_this_studys(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.6})
    text = NEW.replace("high: 0.7", "high: 0.5")
    with pytest.raises(UserError, match=rf"0 of 1 .*the others don't fit by {DROPOUT} \(1\)"):
        begin(tmp_path, text=text)
    ignoring = text.replace("study: tiny}", f"study: tiny, ignore: [{DROPOUT}, training.epochs]}}")
    (trial,) = carried(begin(tmp_path, "training.epochs=3", text=ignoring))
    assert trial.params[DROPOUT] == 0.5


@pytest.mark.parametrize("path", ["training.epoch", "study.metric"])
def test_what_cannot_be_ignored_is_said_to_be_so(tmp_path: Path, path: str) -> None:
    old_study(tmp_path, {"dropout": 0.25})
    with pytest.raises(UserError, match=f"`{path}` is none of the settings that are compared"):
        begin(tmp_path, text=NEW.replace("study: tiny}", f"study: tiny, ignore: [{path}]}}"))


def test_an_unknown_study_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.25})
    with pytest.raises(UserError, match=r"no study 'typo'(?s:.*)it has tiny"):
        begin(tmp_path, text=NEW.replace("study: tiny}", "study: typo}"))


def test_a_study_does_not_begin_with_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the study's own name"):
        tiny_config(tmp_path, text=NEW.replace("name: new", "name: tiny"))


def test_they_are_in_no_count_and_not_in_the_budget(tmp_path: Path) -> None:
    old_study(tmp_path, *[{"dropout": 0.2}] * 5)
    ledger = begin(tmp_path)  # 4 trials of its own
    assert not ledger.is_over()
    for _ in range(4):
        ledger.complete(claimed(ledger), 0.1)
    assert ledger.claim() is None
    assert ledger.is_over()
    now = standing(ledger)
    assert (now.complete, now.finished, now.carried) == (4, 4, 5)
    file = io.StringIO()
    LogView(Console(width=200, file=file)).study(now)
    assert "4 of 4 trials finished (4 complete, 0 pruned, 0 failed, 5 carried over)" in (
        file.getvalue()
    )
    assert now.best_value == 0.2


def test_the_best_with_weights_are_this_studys_own(tmp_path: Path) -> None:
    old_study(tmp_path, *[{"dropout": 0.6}] * 6)
    ledger = begin(tmp_path)
    for value in (0.1, 0.2):  # the baselines
        ledger.complete(claimed(ledger), value)
    third = claimed(ledger)
    assert ledger.keeps_weights(third, 0.05)  # the six that are better have none
    ledger.complete(third, 0.05)
    assert [trial.value for trial in ledger.ranked()[:2]] == [0.6, 0.6]
    assert [trial.value for trial in ledger.ranked_own()] == [0.2, 0.1, 0.05]
    needed = ledger.needs_weights()
    assert [t.number for t in ledger.trials() if needed(t.number)] == [0, 1, third.number]


def begin_in_a_process() -> None:
    print(len(origins(begin(Path(sys.argv[1])))))


def test_two_runs_that_start_at_once_carry_them_over_once(tmp_path: Path) -> None:
    old = old_study(tmp_path, *[{"dropout": 0.2}] * 3)
    processes = forked_at_once(begin_in_a_process, [(str(tmp_path),)] * 2)
    answers = [process.communicate()[0].strip() for process in processes]
    assert answers == ["3", "3"]
    late = place(old)  # what comes later stays there
    old.complete(late, 0.3, {SCORED: {"epoch": 2}})
    again = begin(tmp_path)
    assert origins(again) == ["tiny/2", "tiny/3", "tiny/4"]


def test_both_of_two_that_found_the_same_add_them_once(tmp_path: Path) -> None:
    old_study(tmp_path, *[{"dropout": 0.2}] * 3)
    config = tiny_config(tmp_path, text=NEW)
    store = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    found = [find_warm_start(config, store, "abc") for _ in range(2)]
    ledger = Ledger(config, store)
    text = "begun with 3 of 3 finished trials of the study 'tiny'"
    assert [carry(ledger, warm) for warm in found] == [text, ""]
    assert len(carried(ledger)) == 3


def test_the_sampler_knows_them(tmp_path: Path) -> None:
    """TPE draws at random until it has ten trials; with forty it looks where they were good."""
    points = [{"dropout": 0.7 * index / 40} for index in range(40)]
    old_study(tmp_path, *points, text=OLD.replace("trials: 9", "trials: 99"))
    ledger = begin(tmp_path, "study.trials=99")
    for _ in range(2):
        ledger.complete(claimed(ledger), 0.5)
    drawn = [float(claimed(ledger).trial.params[DROPOUT]) for _ in range(8)]
    assert sum(drawn) / 8 > 0.5  # at random, 0.35


def test_they_are_judged_by_this_studys_constraints(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.25}, {"dropout": 0.5})
    bounded = NEW.replace("trials: 4", f"trials: 4\n  constraints: {{{GAP}: 0.375}}")
    ledger = begin(tmp_path, text=bounded)
    assert [trial.constraints for trial in carried(ledger)] == [{GAP: -0.125}, {GAP: 0.125}]
    best = ledger.best()
    assert best is not None
    assert best.user_attrs[CARRIED_FROM] == "tiny/2"


def test_a_warm_start_belongs_to_the_study_from_its_beginning(tmp_path: Path) -> None:
    old_study(tmp_path, {"dropout": 0.25})
    begin(tmp_path, text=NEW.replace("  warm_start: {study: tiny}\n", ""))
    with pytest.raises(UserError, match=r"study\.warm_start\.study: nothing then, tiny now"):
        begin(tmp_path)
