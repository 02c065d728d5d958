"""A registered model's test score, from the only reader of the test split."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from conftest import enter
from mlflow import MlflowClient
from rich.console import Console
from torch import Tensor, nn

from pipeline import readings
from pipeline.datasets import DigitsSettings, load_splits, load_test
from pipeline.errors import UserError
from pipeline.evaluation import evaluate, predict
from pipeline.exported_model import ModelInfo
from pipeline.readings import Reading, open_box, recorded_readings
from pipeline.registry import register
from pipeline.report.evaluation import evaluation_report
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
        register(client, run_id, lambda: (AlwaysThree(), info), "digits")
        in_colour = info.model_copy(update=colour)
        register(client, run_id, lambda: (AlwaysThree(), in_colour), "colour")
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


def on_record(shop: Shop, name: str = "digits") -> list[Reading]:
    return recorded_readings(shop.client, shop.client.get_model_version(name, "1"))


def count(shop: Shop) -> int:
    """What the version's own tag says."""
    return int(shop.client.get_model_version("digits", "1").tags.get("regsearch.test_readings", 0))


def test_every_reading_is_on_record_with_who_when_what_and_the_score(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(on_record(shop))
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    started = datetime.now(UTC)
    first = evaluate("models:/digits@champion")
    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    second = evaluate("models:/digits/1", DigitsSettings(test_fraction=0.3))
    assert (first.test_readings, second.test_readings) == (before + 1, before + 2)
    *_, one, two = on_record(shop)
    assert (one, two) == (first.reading, second.reading)
    assert (one.who, two.who) == ("ada", "grace")
    assert started <= datetime.fromisoformat(one.when) + timedelta(milliseconds=1)
    assert datetime.fromisoformat(one.when) < datetime.fromisoformat(two.when) <= datetime.now(UTC)
    assert (one.accuracy, two.accuracy) == (first.scores.accuracy, second.scores.accuracy)
    assert one.data_digest != two.data_digest, "the second read other test images"
    assert second.first_reading == on_record(shop)[0]
    assert count(shop) == before + 2


def test_a_later_reader_is_told_who_was_the_first_and_when(shop: Shop) -> None:
    evaluate("models:/digits/1")
    number = len(on_record(shop)) + 1
    first = on_record(shop)[0]
    result = evaluate("models:/digits/1")
    console = Console(record=True, width=1000, file=io.StringIO())
    console.print(evaluation_report(result))
    printed = console.export_text()
    when = datetime.fromisoformat(first.when).strftime("%Y-%m-%d %H:%M UTC")
    assert f"reading number {number} of the test split for this version" in printed
    assert f"the first: {when} by {first.who}, {first.accuracy:.2%}" in printed
    told = json.loads(result.to_json())
    assert told["test_readings"] == number
    assert told["first_reading"] == dataclasses.asdict(first)


def test_a_reading_that_is_broken_off_before_its_scores_is_on_record(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops it in time, or makes it fail, has seen the images."""
    before = len(on_record(shop))

    def stopped(*_: object) -> None:
        assert len(on_record(shop)) == count(shop) == before + 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.evaluation.predict", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate("models:/digits/1")
    assert on_record(shop)[-1].accuracy is None
    assert evaluate("models:/digits/1").test_readings == before + 2


def test_what_does_not_fit_opens_nothing(shop: Shop) -> None:
    with pytest.raises(UserError, match="takes images of shape"):
        evaluate("models:/colour@champion")
    assert on_record(shop, "colour") == []


def test_of_two_readings_at_once_none_is_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked at what there is before either writes: as bad as it can come."""
    before = len(on_record(shop))
    both_have_looked = threading.Barrier(2, timeout=60)
    write, writing = readings._write, threading.local()

    def late(*arguments: Any) -> None:
        if not getattr(writing, "begun", False):
            writing.begun = True
            both_have_looked.wait()
        write(*arguments)

    monkeypatch.setattr(readings, "_write", late)
    version = shop.client.get_model_version("digits", "1")
    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(open_box, [shop.client] * 2, [version] * 2, ["one", "other"]))
    assert len(on_record(shop)) == count(shop) == before + 2
    assert {reading.data_digest for reading in on_record(shop)[before:]} == {"one", "other"}
    numbers = sorted(reading.number for reading in opened)
    assert numbers in ([before + 1, before + 2], [before + 2, before + 2])


def test_a_count_that_is_written_late_does_not_take_one_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reader is held up before it writes the number, and another one comes and goes."""
    before = len(on_record(shop))
    write = readings._write

    def held_up(client: MlflowClient, version: Any, key: str, value: str) -> None:
        if key == readings.COUNT:
            monkeypatch.setattr(readings, "_write", write)
            assert evaluate("models:/digits/1").test_readings == before + 2
        write(client, version, key, value)

    monkeypatch.setattr(readings, "_write", held_up)
    assert evaluate("models:/digits/1").test_readings == before + 1
    assert count(shop) == before + 2


def test_readings_that_an_older_version_only_counted_go_on_counting(shop: Shop) -> None:
    shop.client.set_model_version_tag("digits", "1", "regsearch.test_readings", "1000")
    assert evaluate("models:/digits/1").test_readings == 1001
    assert count(shop) == 1001
    shop.client.delete_model_version_tag("digits", "1", "regsearch.test_readings")


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
