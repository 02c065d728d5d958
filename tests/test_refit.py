"""The refit: the winner's settings on training and validation images, for the chosen epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState
from rich.console import Console

from pipeline.answers import Answers
from pipeline.champion import Champion, Refit
from pipeline.config.run_config import RunConfig
from pipeline.datasets import Splits, load_splits
from pipeline.errors import UserError
from pipeline.finalists import Finalist
from pipeline.nets import Nets
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.recorded_trial import find_record
from pipeline.refit import chosen_epoch, refit_points
from pipeline.report.champion import champion_lines
from pipeline.reproduction import reproduce
from pipeline.seeding import TrialSeeds
from pipeline.study.followup import SEED
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import SCORED
from pipeline.study.trials import LAST_EPOCH
from pipeline.sync import sync_studies
from pipeline.trainers import build_seeded
from pipeline.training.data import DeviceData
from pipeline.training.loop import Trainer
from tests.killing import kill_and_run_again
from tests.spaces import tiny_config
from tests.test_champion import ENSEMBLE, TWO, search

REFIT = (*TWO, "finalists.refit=true")


def trained(seed: int, value: float, best_epoch: int) -> optuna.trial.FrozenTrial:
    attrs = {SEED: f"finalists/{seed}", SCORED: {"epoch": best_epoch}}
    return optuna.create_trial(value=value, user_attrs=attrs)


def finalist(*best_epochs: int) -> Finalist:
    """With a better validation score from seed to seed."""
    trainings = tuple(trained(n, 0.5 + n / 100, e) for n, e in enumerate(best_epochs, 1))
    return Finalist("trial 4", trainings[0], trainings, (), "accuracy")


def test_it_has_the_median_of_the_best_epochs() -> None:
    assert chosen_epoch(finalist(3, 20, 4)) == 4
    assert chosen_epoch(finalist(3, 9)) == 9


def test_it_has_the_seeds_of_the_nets_that_it_replaces(tmp_path: Path) -> None:
    store = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    one = refit_points(Ledger(tiny_config(tmp_path, *REFIT), store), finalist(2, 2, 1))
    assert [(point.seed, point.last_epoch) for point in one] == [("finalists/3", 2)]
    assert one[0].label == "refit of trial 4 for 2 epochs, seed 3"
    both = (*ENSEMBLE, "finalists.refit=true", "study.name=other")
    every = refit_points(Ledger(tiny_config(tmp_path, *both), store), finalist(2, 2, 1))
    assert [point.seed for point in every] == ["finalists/1", "finalists/2", "finalists/3"]
    store.close()


def nets(*correct: int) -> Nets:
    answers = Answers(np.array(correct, np.bool_), np.array(correct, np.float32))
    return Nets("trial 4", (optuna.create_trial(value=0.5),), None, answers, "accuracy")


def test_a_refit_is_registered_unless_it_is_worse_than_chance_allows() -> None:
    winner = nets(*[1] * 90, *[0] * 10)
    assert winner.answers
    slightly, much = nets(*[1] * 89, *[0] * 11), nets(*[1] * 70, *[0] * 30)
    gains = [refit.gain_over(winner.answers.scores) for refit in (slightly, much)]
    assert gains[0]
    assert gains[1]
    assert gains[0] == pytest.approx((-0.01, 0.01984), abs=1e-4)  # t(99) 1.984 x 0.1 / sqrt(100)
    assert gains[1] == pytest.approx((-0.2, 0.0798), abs=1e-4)  # 1.984 x 0.402 / sqrt(100)
    kept = Champion(winner, refit=Refit(slightly, 3, gains[0]))
    assert kept.nets is slightly
    refused = Champion(winner, refit=Refit(much, 3, gains[1]))
    assert refused.nets is winner
    [line] = champion_lines(refused)
    assert "has 70.00% ± 9.14 on selection, without that 90.00% ± 5.98" in line.plain
    assert "(-20.00 ± 7.98 in pairs)" in line.plain
    assert "is worse than chance allows" in line.plain
    assert "is registered" in champion_lines(kept)[0].plain


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ("finalists.count=0", "`finalists.refit` is true, but `finalists.count` is 0"),
        ("data.selection_fraction=0", "`finalists.refit` is true, but `data.selection_frac"),
    ],
)
def test_a_refit_that_cant_be_judged_is_refused(tmp_path: Path, changed: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        tiny_config(tmp_path, *REFIT, changed)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(tmp_path)
    return tiny_config(
        tmp_path, "training.epochs=4", "training.precision=float32", "regularization.ema_decay=0.9"
    )


def test_folding_adds_the_validation_images_and_nothing_else(config: RunConfig) -> None:
    splits = load_splits(config.data, 0)
    folded = splits.folded()
    n = len(splits.train)
    assert len(folded.train) == n + len(splits.validation)
    assert np.array_equal(folded.train.images[:n], splits.train.images)
    assert np.array_equal(folded.train.images[n:], splits.validation.images)
    assert np.array_equal(folded.train.labels[n:], splits.validation.labels)
    assert len(folded.validation) == 0
    assert folded.selection is splits.selection
    assert np.array_equal(folded.channel_mean, splits.channel_mean)


def fit(
    config: RunConfig, splits: Splits, last_epoch: int | None
) -> tuple[Trainer, list[dict[str, float]], list[dict[str, torch.Tensor]]]:
    """A training, what it reported, and its averaged weights after each epoch."""
    data = DeviceData.from_splits(splits, torch.device("cpu"), 0)
    seeds = TrialSeeds.of(0, "finalists/1")
    net = build_seeded(config, data, seeds.init)
    metric = config.study.metric
    trainer = Trainer(net, data, config, metric, seeds, last_epoch=last_epoch)
    told, weights = [], []

    def report(_: int, metrics: object) -> None:
        told.append(dict(metrics))  # type: ignore[call-overload]
        with trainer.step.averaged():
            weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    trainer.fit(report)
    return trainer, told, weights


def test_it_ends_where_a_longer_training_was_then_and_keeps_those_weights(
    config: RunConfig,
) -> None:
    """The schedule is that of all four epochs, and the weights are the averaged ones."""
    splits = load_splits(config.data, 0)
    _, long, weights = fit(config, splits, None)
    without = Splits(**{**vars(splits), "validation": splits.validation.take(np.arange(0))})
    impatient = config.with_overrides({"training.early_stopping.patience": 1})
    short, told, _ = fit(impatient, without, 3)
    assert len(long) == 4
    assert [e["learning_rate"] for e in told] == [e["learning_rate"] for e in long[:3]]
    assert all(torch.equal(v, weights[2][k]) for k, v in short.model.state_dict().items())
    assert not [name for e in told for name in e if name.startswith("validation/")]
    assert "generalization_gap" not in told[0]
    assert "train/clean_accuracy" in told[0]


def test_a_plateau_goes_by_the_training_loss_then(config: RunConfig) -> None:
    plateau = config.with_overrides({"lr_schedule.kind": "plateau"})
    _, told, _ = fit(plateau, load_splits(config.data, 0).folded(), 2)
    assert len(told) == 2


@pytest.fixture(scope="module")
def finished(lasting_workspace: Path) -> tuple[Outcome, str]:
    return search(lasting_workspace, *REFIT, "study.constraints.validation/ece=1.0")


def test_the_winner_is_refit_on_both_and_registered(finished: tuple[Outcome, str]) -> None:
    outcome, printed = finished
    champion, verdict = outcome.crowned.champion, outcome.verdict
    assert champion
    assert verdict
    assert champion.refit
    [trial] = champion.refit.nets.trials
    assert trial.user_attrs[LAST_EPOCH] == champion.refit.num_epochs == chosen_epoch(verdict.winner)
    assert sorted(trial.intermediate_values) == list(range(1, champion.refit.num_epochs + 1))
    scored = trial.user_attrs[SCORED]
    assert "selection/accuracy" in scored
    assert not [name for name in scored if name.startswith("validation/")]
    assert trial.value == scored["train/clean_accuracy"]
    assert f"refit for {champion.refit.num_epochs} epochs on training and validation" in printed
    followup = champion.refit.nets.followup
    assert followup
    assert followup.kind == "refit"
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    run = client.get_run(version.run_id)
    is_refit = run.data.tags["regsearch.group"].startswith("refit of")
    assert is_refit is not champion.refit.is_worse
    if is_refit:
        assert "validation/accuracy" not in version.tags
        assert champion.refit.nets.selection
        assert float(version.tags["selection/accuracy"]) == champion.refit.nets.selection[0]


def test_mlflow_shows_no_validation_metric_of_it(finished: tuple[Outcome, str]) -> None:
    assert finished[0].verdict
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`regsearch.kind` = 'trial'")
    refits = [r for r in runs if r.data.tags.get("regsearch.group", "").startswith("refit of")]
    [run] = refits
    assert run.info.status == "FINISHED"
    assert "train/clean_accuracy" in run.data.metrics
    assert not [name for name in run.data.metrics if name.startswith("validation/")]
    assert "regsearch.diagnosis" not in run.data.tags


def test_running_again_refits_nothing(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    before = finished[0].crowned.champion
    versions = len(MlflowClient().search_model_versions("name = 'tiny-cnn'"))
    outcome, printed = search(lasting_workspace, *REFIT, "study.constraints.validation/ece=1.0")
    after = outcome.crowned.champion
    assert before
    assert after
    assert after.to_json() == before.to_json()
    assert "refit: 1 trainings" not in printed
    assert len(MlflowClient().search_model_versions("name = 'tiny-cnn'")) == versions


def test_sync_finds_mlflow_as_it_is_and_registers_the_same(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    assert finished[0].verdict
    before = MlflowClient().get_model_version_by_alias("tiny-cnn", "champion").version
    storage = f"sqlite:///{lasting_workspace}/mlruns/optuna.db"
    [synced] = sync_studies(storage, "tiny", LogView(Console(quiet=True)))
    assert synced.complete
    assert synced.findings == []
    assert MlflowClient().get_model_version_by_alias("tiny-cnn", "champion").version == before


def test_a_refit_comes_again_bit_for_bit(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    """`regsearch reproduce` trains on the validation images too."""
    champion = finished[0].crowned.champion
    assert champion
    assert champion.refit
    [trial] = champion.refit.nets.trials
    storage = f"sqlite:///{lasting_workspace}/mlruns/optuna.db"
    record = find_record(storage, "tiny", trial.number, "refit")
    found = reproduce(record, LogView(Console(quiet=True)), lambda *_: None)
    assert found.identical
    assert "train/clean_accuracy" in {difference.metric for difference in found.differences}


def test_an_ensemble_is_refit_with_all_seeds(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    assert finished[0].verdict
    both = (*ENSEMBLE, "finalists.refit=true", "study.constraints.validation/ece=1.0")
    outcome, printed = search(lasting_workspace, *both)
    champion = outcome.crowned.champion
    assert champion
    assert champion.refit
    assert len(champion.refit.nets.trials) == len(champion.winner.trials) == 2
    assert "the ensemble of" in printed
    version = MlflowClient().get_model_version_by_alias("tiny-cnn", "champion")
    assert version.tags["regsearch.num_nets"] == "2"


@pytest.mark.slow
def test_a_refit_goes_on_after_the_run_was_killed(tmp_path: Path) -> None:
    printed = kill_and_run_again(
        tmp_path, (*REFIT, "training.epochs=8", "study.checkpoint_sec=0"), " refit of "
    )
    assert "epochs on training and validation images" in " ".join(printed.split())
    store = open_storage(f"sqlite:///{tmp_path}/mlruns/optuna.db")
    study = optuna.load_study(study_name="tiny/refit", storage=store)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    store.close()
