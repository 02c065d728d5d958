"""A whole study, from its file to the registered champion, on real parts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from rich.console import Console

from pipeline.answers import Answers
from pipeline.checkpoints import CheckpointStore
from pipeline.config.space_file import load_space
from pipeline.datasets import ImageSet, load_splits
from pipeline.errors import UserError
from pipeline.final import Crowned
from pipeline.finalists import Finalist, Verdict
from pipeline.outcome import Outcome
from pipeline.places import DEFAULT_STORAGE
from pipeline.progress import LogView
from pipeline.report.summary import summary
from pipeline.search import Options, run_search
from pipeline.standing import Standing
from pipeline.study.store import SCORED
from pipeline.training.data import to_device
from pipeline.workers.plan import resolve_devices
from pipeline.workforce import run_workers
from tests.conftest import enter
from tests.spaces import TINY, tiny_space

SPACES = Path(__file__).parents[1] / "search_spaces"
CURVES = {
    "train/loss",
    "train/penalty",
    "train/accuracy",
    "validation/loss",
    "validation/accuracy",
    "validation/ece",
    "validation/brier",
    "generalization_gap",
    "learning_rate",
    "gradient_norm",
    "epoch_sec",
    "images_per_sec",
}


@dataclass
class Finished:
    """A study that ran to its end, the folder it ran in, and what it printed."""

    outcome: Outcome
    folder: Path
    printed: str
    client: MlflowClient

    def runs(self, kind: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name("tiny")
        assert experiment is not None
        return list(
            self.client.search_runs(
                [experiment.experiment_id],
                f"tags.`regsearch.kind` = '{kind}'",
                order_by=["attributes.start_time ASC"],
            )
        )


def search(
    folder: Path, *assignments: str, text: str = TINY, workers: int = 1
) -> tuple[Outcome, str]:
    console = Console(record=True, width=100, file=io.StringIO())
    space = tiny_space(folder, *assignments, text=text)
    outcome = run_search(space, Options(num_workers=workers), LogView(console))
    console.print(summary(outcome))
    return outcome, console.export_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        outcome, printed = search(folder)
        yield Finished(outcome, folder, printed, MlflowClient())


def test_a_study_runs_to_its_number_of_trials(finished: Finished) -> None:
    standing = finished.outcome.standing
    assert (standing.finished, standing.complete, standing.failed) == (4, 4, 0)
    assert finished.outcome.succeeded
    assert finished.outcome.delivery.complete


def test_mlflow_has_a_parent_and_a_nested_run_a_trial(finished: Finished) -> None:
    (parent,) = finished.runs("study")
    children = finished.runs("trial")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["regsearch.metric"] == "validation/accuracy"
    assert [run.data.tags["regsearch.trial"] for run in children] == ["0", "1", "2", "3"]
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["regsearch.state"] == "COMPLETE"
        assert run.info.status == "FINISHED"
        assert {"regularization.dropout", "training.optimizer.weight_decay"} == set(run.data.params)


def test_every_curve_has_a_point_an_epoch(finished: Finished) -> None:
    run = finished.runs("trial")[-1]
    for name in CURVES:
        history = finished.client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2], name


def test_the_parent_has_the_best_so_far_and_the_counts(finished: Finished) -> None:
    (parent,) = finished.runs("study")
    history = finished.client.get_metric_history(parent.info.run_id, "best/validation/accuracy")
    values = [point.value for point in history]
    steps = [point.step for point in history]
    assert steps[-1] == 4  # trials may end faster than the counts are looked at
    assert steps == sorted(set(steps))
    assert values == sorted(values)
    assert values[-1] == finished.outcome.standing.best_value
    assert parent.data.metrics["trials/complete"] == 4


def test_the_parent_keeps_the_file_and_the_resolved_settings(finished: Finished) -> None:
    (parent,) = finished.runs("study")
    assert mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/space.yaml") == TINY
    text = mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/settings.yaml")
    assert yaml.safe_load(text)["training"]["early_stopping"]["patience"] == 10


def test_the_data_set_is_an_input_of_the_runs(finished: Finished) -> None:
    for run in (*finished.runs("study"), *finished.runs("trial")):
        (given,) = run.inputs.dataset_inputs
        assert given.dataset.name == "digits"
        assert given.dataset.digest


def test_the_champion_and_both_baselines_are_registered(finished: Finished) -> None:
    model = finished.client.get_registered_model("tiny-cnn")
    assert set(model.aliases) == {"champion", "unregularized", "recipe"}
    best = winner(finished.outcome)
    version = finished.client.get_model_version_by_alias("tiny-cnn", "champion")
    run = finished.client.get_run(version.run_id)
    assert run.data.tags["regsearch.trial"] == str(best.trial.number)
    assert float(version.tags["validation/accuracy"]) == best.trial.value
    assert best.selection is not None
    assert float(version.tags["selection/accuracy"]) == best.selection[0]


def test_the_champion_scores_as_it_did_in_training(finished: Finished) -> None:
    """The exported model, given images in [0, 1], says what the trained one said."""
    best = winner(finished.outcome)
    config = finished.outcome.config
    selection = load_splits(config.data, config.study.seed).selection
    model = mlflow.pyfunc.load_model("models:/tiny-cnn@champion")
    probabilities = model.predict(selection.images.astype(np.float32) / 255)
    correct = (probabilities.argmax(axis=1) == selection.labels).sum()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    # bfloat16 in training may tip an image that is on the edge.
    assert abs(correct - best.answers[0].correct.sum()) <= 2


def test_the_summary_tells_the_gain_and_where_to_look_next(finished: Finished) -> None:
    printed = finished.printed
    assert "4 of 4 trials finished (4 complete, 0 pruned, 0 failed)" in printed
    for alias in ("champion", "unregularized", "recipe"):
        assert alias in printed
    assert "winner's gain" in printed
    assert "flatters" in " ".join(printed.split())
    assert "mlflow ui" in printed
    experiment = finished.client.get_experiment_by_name("tiny")
    assert experiment is not None
    page = f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    assert f"    http://127.0.0.1:5000{page}\n" in printed
    assert "regsearch evaluate models:/tiny-cnn@champion" in printed


def test_a_server_is_named_with_the_page_of_the_study_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracking:5000/")
    printed = printed_summary(finalist("trial 7", 0.9, 60))
    assert "http://***@tracking:5000/#/experiments/" in printed
    assert "mlflow ui" not in printed


def test_a_gain_is_told_on_images_that_nobody_chose_by() -> None:
    """A champion that is better by validation, and worse where it was not chosen."""
    printed = printed_summary(finalist("trial 7", 0.9, 60), finalist("recipe", 0.8, 64))
    # 4 of 100 images, on which the two differ: 0.04, and t(99) * sqrt(0.04 * 0.96 / 99).
    assert "-4.00 ± 3.91" in printed
    assert "can't be told apart" not in printed
    assert "+10.00" not in printed
    assert "+30.00" in printed  # the search's 90 % against 60 %


def test_finalists_that_cannot_be_told_apart_are_said_to_be_so() -> None:
    printed = printed_summary(finalist("trial 7", 0.9, 61), finalist("recipe", 0.8, 60))
    assert "trial 7 can't be told apart from recipe on these images" in printed
    assert "more seeds" not in printed, "nothing was trained again"


def test_what_cannot_be_told_apart_is_worth_more_seeds_up_to_ten() -> None:
    def printed(seeds: int) -> str:
        nets = [finalist(name, 0.9, 61, seeds) for name in ("trial 7", "recipe")]
        return " ".join(printed_summary(*nets, retrained=True).split())

    cure = (
        "`finalists.seeds` above 9 in the file, and the same command again trains what is missing"
    )
    assert cure in printed(9)
    assert "more seeds" not in printed(10)


def test_few_selection_images_are_said_to_tell_little() -> None:
    nets = [finalist(name, 0.9, 5, 3, num_images=9) for name in ("trial 7", "recipe")]
    printed = " ".join(printed_summary(*nets, retrained=True).split())
    assert "9 selection images tell little: more images, or a larger share of them" in printed
    assert "more seeds" not in printed


def test_a_command_is_not_broken_however_long_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "/home/somebody/with/a/folder/of/a/long/name/and/others/in/it/.venv/bin/python"
    monkeypatch.setattr("sys.executable", long)
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)
    monkeypatch.setattr("shutil.which", lambda _: None)
    printed = printed_summary(finalist("trial 7", 0.9, 60), width=60)
    assert f"\n    {Path(long).parent}/mlflow ui\n" in printed


def printed_summary(*finalists: Finalist, retrained: bool = False, width: int = 100) -> str:
    standing = Standing(2, 2, 0, 0, "validation/accuracy", 0.9, 0)
    console = Console(record=True, width=width, file=io.StringIO())
    config = load_space(SPACES / "digits.yaml").config
    console.print(
        summary(Outcome(config, standing, Crowned(Verdict(finalists, "accuracy", retrained)))),
        crop=False,
    )
    return console.export_text()


def finalist(
    name: str, value: float, num_correct: int, num_seeds: int = 1, num_images: int = 100
) -> Finalist:
    attrs = {SCORED: {"validation/accuracy": value}}
    correct = np.arange(num_images) < num_correct
    answers = Answers(correct, correct.astype(np.float32))
    trial = optuna.create_trial(value=value, user_attrs=attrs)
    return Finalist(name, trial, (), (answers,) * num_seeds, "accuracy")


def winner(outcome: Outcome) -> Finalist:
    assert outcome.verdict is not None
    return outcome.verdict.winner


def test_running_again_adds_nothing_and_registers_nothing_twice(finished: Finished) -> None:
    versions = len(finished.client.search_model_versions("name = 'tiny-cnn'"))
    again, _ = search(finished.folder)
    assert again.standing.finished == 4
    assert len(finished.runs("study")) == 1
    assert len(finished.runs("trial")) == 4
    assert len(finished.client.search_model_versions("name = 'tiny-cnn'")) == versions


def test_a_checkpoint_that_a_killed_worker_left_is_removed(finished: Finished) -> None:
    """As one does that is killed between a trial's end and the removal."""
    (study,) = (finished.folder / "mlruns/journal").iterdir()  # named as its checkpoints are
    checkpoints = CheckpointStore(study.name)
    checkpoints.save(2, {"epoch": 2})
    search(finished.folder)
    assert checkpoints.trials() == []


def test_more_trials_continue_the_study(finished: Finished) -> None:
    again, _ = search(finished.folder, "study.trials=5")
    assert again.standing.finished == 5
    assert len(finished.runs("study")) == 1
    assert len(finished.runs("trial")) == 5


def test_a_time_limit_starts_no_further_trial(workspace: Path) -> None:
    space = tiny_space(workspace)
    outcome = run_search(space, Options(timeout_sec=0), LogView(Console(quiet=True)))
    assert outcome.timed_out
    assert outcome.standing.finished == 0
    assert not outcome.succeeded


def test_what_the_end_needs_is_loaded_while_the_last_trial_trains(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one worker, while the other waits for it to fail."""
    seen: list[list[str]] = []

    def look() -> None:
        study = optuna.load_study(study_name="tiny", storage=DEFAULT_STORAGE)
        seen.append(sorted(trial.state.name for trial in study.get_trials()))

    monkeypatch.setattr("pipeline.search._load_exporter", look)
    long = ["training.epochs=100", "training.early_stopping.patience=100"]
    search(workspace, "study.trials=3", *long, workers=2)
    assert seen == [["COMPLETE", "COMPLETE", "RUNNING"]]


def test_a_batch_of_more_images_than_there_are_is_told(workspace: Path) -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    space = tiny_space(workspace, "training.batch_size=512")
    run_search(space, Options(timeout_sec=0), LogView(console))
    told = " ".join(console.export_text().split())
    assert "training.batch_size is 512: with 100 training images, an update takes all" in told


def test_failures_in_a_row_stop_the_search(workspace: Path) -> None:
    """With a learning rate at which every training ends in numbers that are none."""
    outcome, printed = search(
        workspace, "study.max_consecutive_failures=3", "training.optimizer.learning_rate=1e38"
    )
    assert outcome.standing.failed == 3
    assert not outcome.succeeded
    assert "3 trials in a row failed" in printed
    assert "is nan in epoch 1" in printed


@pytest.mark.slow
def test_two_workers_finish_the_study_and_find_what_one_finds(
    workspace: Path, finished: Finished
) -> None:
    """Of trials with the same parameters: the baselines, whoever ran them."""
    outcome, _ = search(workspace, workers=2)
    assert (outcome.standing.finished, outcome.standing.failed) == (4, 0)
    assert outcome.verdict
    assert finished.outcome.verdict
    for name in ("unregularized", "recipe"):
        ours, alone = outcome.verdict.baseline(name), finished.outcome.verdict.baseline(name)
        assert ours
        assert alone
        assert ours.trial.value == alone.trial.value


def test_workers_take_the_images_from_the_file_of_the_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They don't look for them again: the folder is gone by then."""
    for name, brightness in (("dark", 0), ("light", 200)):
        folder = workspace / "images" / "train" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = np.full((8, 8), brightness + number, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")

    def start(*how: Any, **more: Any) -> str:
        shutil.rmtree(workspace / "images" / "train")
        return run_workers(*how, **more)

    monkeypatch.setattr("pipeline.search.run_workers", start)
    data = "{kind: image_folder, root: images, cache: cache, image_size: 8}"
    text = TINY.replace("{kind: digits, train_images: 100}", data)
    outcome, _ = search(workspace, "study.trials=2", "training.batch_size=8", text=text)
    assert outcome.standing.complete == 2


def test_an_unknown_device_is_told_before_any_trial() -> None:
    assert resolve_devices("cpu") == ("cpu",)
    with pytest.raises(UserError, match="no device 'cuda:99'"):
        resolve_devices("cuda:99")


def test_a_finalist_whose_weights_are_gone_is_told_and_the_others_are_kept(
    workspace: Path, mlflow_template: Path
) -> None:
    """To an MLflow that doesn't have it yet."""
    first, _ = search(workspace)
    assert first.verdict
    baseline = next(f for f in first.verdict.finalists[1:] if f.baseline)
    for path in (workspace / "mlruns" / "weights").rglob(f"trial-{baseline.trial.number:05d}.pt"):
        path.unlink()
    shutil.copy(mlflow_template, workspace)
    again, printed = search(workspace)
    assert not again.succeeded
    problems = {entry.alias: entry.problem for entry in again.registered}
    assert "were not kept" in problems[baseline.name]
    assert problems["champion"] == ""
    assert f"the {baseline.name} is not registered: the weights of" in printed


def test_a_net_that_cannot_take_the_images_is_told_before_any_trial(workspace: Path) -> None:
    text = TINY.replace("{kind: vgg, width: 4, head_width: 8}", "{kind: torchvision/alexnet}")
    with pytest.raises(UserError, match="torchvision/alexnet does not take"):
        search(workspace, text=text)
    assert not (workspace / "mlruns").exists()


def test_on_the_cpu_the_images_are_held_once() -> None:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    split = to_device(ImageSet(images, np.zeros(4, np.int64)), torch.device("cpu"))
    images[0] = 7
    assert split.images[0].unique().tolist() == [7]
