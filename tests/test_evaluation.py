"""A registered model's test score, from the only reader of the test split."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from conftest import enter
from mlflow import MlflowClient
from torch import Tensor, nn

import pipeline
from pipeline.datasets import DigitsSettings, load_splits, load_test
from pipeline.errors import UserError
from pipeline.evaluation import evaluate, predict
from pipeline.exported_model import ModelInfo
from pipeline.registry import register
from pipeline.statistics import wilson_interval

SEED = 3
DIGITS = DigitsSettings()


class AlwaysThree(nn.Module):
    """Gives the digit 3 a probability of one half, whatever the image."""

    def forward(self, images: Tensor) -> Tensor:
        three = torch.nn.functional.one_hot(torch.tensor(3), 10)
        return images.flatten(1)[:, :10] * 0 + three * np.log(9)


class Shop(NamedTuple):
    """Where a net that always says three is registered, and the run that it is from."""

    client: MlflowClient
    run_id: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Shop]:
    """A folder with two models: `digits`, trained on the digits, and `colour`, for 3x32x32."""
    folder = tmp_path_factory.mktemp("evaluation")
    shutil.copy(mlflow_template, folder)
    info = ModelInfo(
        class_names=tuple("0123456789"),
        image_shape=(1, 8, 8),
        mean=(0.5,),
        std=(0.25,),
        metrics={},
        data=DIGITS.model_dump(mode="json"),
        data_digest=load_splits(DIGITS, SEED).digest,
        seed=SEED,
    )
    colour = {"image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        client = MlflowClient()
        experiment_id = client.create_experiment("study")
        run_id = client.create_run(experiment_id).info.run_id
        register(client, run_id, AlwaysThree(), info, "digits")
        register(client, run_id, AlwaysThree(), info.model_copy(update=colour), "colour")
        yield Shop(client, run_id)


def test_the_scores_are_those_of_the_test_split_and_are_logged(shop: Shop) -> None:
    labels = load_test(DIGITS, SEED).labels
    threes, total = int((labels == 3).sum()), len(labels)

    evaluation = evaluate("models:/digits@champion")
    scores = evaluation.scores
    assert (scores.num_images, scores.accuracy) == (total, threes / total)
    assert (scores.accuracy_low, scores.accuracy_high) == wilson_interval(threes, total)
    loss = (threes * np.log(2) + (total - threes) * np.log(18)) / total
    assert scores.loss == pytest.approx(loss, rel=1e-6)
    # sure by a half on every image; nine other classes have 1/18 each
    assert scores.ece == pytest.approx(0.5 - threes / total)
    hit, miss = 1 / 4 + 9 / 18**2, 1 / 4 + 8 / 18**2 + (17 / 18) ** 2
    assert scores.brier == pytest.approx((threes * hit + (total - threes) * miss) / total)
    assert scores.class_accuracy == {digit: float(digit == "3") for digit in "0123456789"}
    assert [row[3] for row in scores.confusion] == np.bincount(labels, minlength=10).tolist()
    assert evaluation.same_data
    assert evaluation.test_readings == 1
    assert json.loads(evaluation.to_json())["scores"]["accuracy"] == scores.accuracy

    client = MlflowClient()
    tags = client.get_model_version("digits", "1").tags
    assert float(tags["test/accuracy"]) == scores.accuracy
    assert float(tags["test/accuracy_low"]) == scores.accuracy_low
    run = client.get_run(evaluation.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["regsearch.kind"] == "evaluation"
    assert run.data.tags["mlflow.parentRunId"] == shop.run_id
    assert run.data.metrics["test/loss"] == pytest.approx(scores.loss)
    assert run.data.metrics["test/ece"] == pytest.approx(scores.ece)
    assert run.data.metrics["test/brier"] == pytest.approx(scores.brier)
    [dataset_input] = run.inputs.dataset_inputs
    assert dataset_input.dataset.name == "digits/test"
    [model_input] = run.inputs.model_inputs
    metrics = client.get_logged_model(model_input.model_id).metrics
    assert {metric.key: metric.value for metric in metrics} == run.data.metrics
    confusion = client.download_artifacts(evaluation.run_id, "scores.json")
    assert json.loads(Path(confusion).read_text())["confusion"] == [
        list(r) for r in scores.confusion
    ]
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("shop")
def test_every_reading_of_the_test_split_is_counted() -> None:
    first = evaluate("models:/digits@champion").test_readings
    assert evaluate("models:/digits/1").test_readings == first + 1
    tags = MlflowClient().get_model_version("digits", "1").tags
    assert tags["regsearch.test_readings"] == str(first + 1)


@pytest.mark.usefixtures("shop")
def test_other_data_is_told_apart() -> None:
    """With a larger test split, some of its images were trained on."""
    assert not evaluate("models:/digits/1", DigitsSettings(test_fraction=0.3)).same_data


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("digits", "models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("runs:/0123/model", "names no registered model"),
        ("models:/digits@challenger", "it has models:/colour@champion, models:/digits@champion"),
        ("models:/digits/7", "MLflow has no model `models:/digits/7`"),
        ("models:/nets@champion", "MLflow has no model"),
        ("models:/colour@champion", r"takes images of shape \(3, 32, 32\)"),
    ],
)
def test_what_cannot_be_evaluated_is_told_with_the_rule(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(uri)


def test_without_a_store_nothing_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="go to the folder of the search"):
        evaluate("models:/digits@champion")


def test_images_are_scored_in_batches_in_their_order() -> None:
    images = (np.arange(2_500) % 256).astype(np.uint8).reshape(-1, 1, 1, 1)  # 1,000 a batch
    values = predict(nn.Flatten(), images)
    np.testing.assert_allclose(values, images.reshape(-1, 1).astype(np.float32) / 255)


def test_no_other_part_of_the_pipeline_names_the_test_split() -> None:
    root = Path(pipeline.__file__).parent
    readers = {
        path.relative_to(root).parts[0]
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if "load_test" in (getattr(node, key, None) for key in ("id", "attr", "name"))
    }
    assert readers == {"datasets", "evaluation.py"}
