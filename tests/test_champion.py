"""What is registered of the winner: one net, or the mean of several nets' probabilities."""

from __future__ import annotations

import io
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console
from torch import Tensor, nn

from pipeline.datasets import load_splits
from pipeline.errors import UserError
from pipeline.models.ensemble import Ensemble
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.report.summary import summary
from pipeline.search import Options, run_search
from pipeline.study.store import SCORED
from pipeline.trainers import build_seeded
from pipeline.training.data import DeviceData
from pipeline.weights import WeightStore
from tests.conftest import enter
from tests.spaces import tiny_config, tiny_space

TWO = (
    "finalists.count=1",
    "finalists.seeds=2",
    "study.trials=3",
    "training.precision=float32",  # so that what is computed by hand agrees to the last image
)
ENSEMBLE = (*TWO, "finalists.champion=ensemble")


class Says(nn.Module):
    """Gives every image these probabilities, as logits that are off by 5."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log() + 5

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_an_ensemble_averages_probabilities_and_not_logits() -> None:
    nets = Ensemble([Says(0.9, 0.1), Says(0.4, 0.6), Says(0.5, 0.5)])
    mean = nets(torch.zeros(2, 1, 8, 8)).softmax(dim=1)
    assert mean.tolist() == [pytest.approx([0.6, 0.4])] * 2  # the logits' mean would say 0.66


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ("finalists.count=0", "`finalists.champion` is ensemble, but `finalists.count` is 0"),
        (
            "data.selection_fraction=0",
            "`finalists.champion` is ensemble, but `data.selection_fraction` is 0",
        ),
        ("finalists.seeds=1", "`finalists.seeds` is 1, but `finalists.champion` is ensemble"),
    ],
)
def test_an_ensemble_that_cant_be_had_is_refused(tmp_path: Path, changed: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as error:
        tiny_config(tmp_path, *ENSEMBLE, changed)
    assert error.value.cure


def search(folder: Path, *assignments: str) -> tuple[Outcome, str]:
    console = Console(record=True, width=120, file=io.StringIO())
    outcome = run_search(tiny_space(folder, *assignments), Options(num_workers=1), LogView(console))
    console.print(summary(outcome))
    return outcome, " ".join(console.export_text().split())


@pytest.fixture(scope="module")
def finished(lasting_workspace: Path) -> tuple[Outcome, str]:
    return search(lasting_workspace, *ENSEMBLE)


def mean_by_hand(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the nets' probabilities (N, K) of the selection images, and the labels (N,)."""
    champion, config = outcome.crowned.champion, outcome.config
    assert champion
    splits = load_splits(config.data, config.study.seed)
    data = DeviceData.from_splits(splits, torch.device("cpu"), config.study.seed)
    images = torch.from_numpy(splits.selection.images).float() / 255
    found = []
    followup = champion.nets.followup
    assert followup
    for trial in champion.nets.trials:
        net = build_seeded(config, data).eval()
        net.load_state_dict(WeightStore(followup.uuid).load(trial.number))
        with torch.inference_mode():
            found.append(net((images - data.mean) / data.std).softmax(dim=1).numpy())
    return np.mean(found, axis=0), splits.selection.labels


def test_the_registered_ensemble_is_the_mean_of_its_nets_in_one_model(
    finished: tuple[Outcome, str],
) -> None:
    outcome = finished[0]
    mean, labels = mean_by_hand(outcome)
    config = outcome.config
    images = load_splits(config.data, config.study.seed).selection.images
    model = mlflow.pyfunc.load_model("models:/tiny-cnn@champion")
    told = model.predict(images.astype(np.float32) / 255)
    assert told == pytest.approx(mean, abs=1e-5)
    champion = outcome.crowned.champion
    assert champion
    assert champion.nets.selection
    assert champion.nets.selection[0] == pytest.approx((mean.argmax(axis=1) == labels).mean())
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    assert version.tags["regsearch.num_nets"] == "2"
    assert float(version.tags["selection/accuracy"]) == champion.nets.selection[0]
    assert client.get_model_version_by_alias("tiny-cnn", "recipe").tags["regsearch.num_nets"] == "1"


def test_its_gain_is_over_the_mean_of_its_nets(finished: tuple[Outcome, str]) -> None:
    outcome, printed = finished
    champion, verdict = outcome.crowned.champion, outcome.verdict
    assert champion
    assert verdict
    assert champion.over_single
    assert champion.nets.selection
    assert verdict.winner.selection
    together, alone = champion.nets.selection[0], verdict.winner.selection[0]
    assert champion.over_single[0] == pytest.approx(together - alone)
    text = f"the ensemble of {verdict.winner.name}'s 2 nets has {together:.2%}"
    assert text in printed
    assert "takes 2 times as long as one" in printed


def test_the_table_in_mlflow_has_the_ensemble(finished: tuple[Outcome, str]) -> None:
    champion = finished[0].crowned.champion
    assert champion
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    parent = client.get_run(version.run_id).data.tags["mlflow.parentRunId"]
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{parent}/finalists.json"))
    assert table["champion"]["num_nets"] == 2
    assert champion.nets.selection
    assert table["champion"]["selection_mean"] == champion.nets.selection[0]


def test_one_net_again_is_another_version_of_the_same_run(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    """Neither takes the other's version, and what is there already is not made again."""
    assert finished[0].verdict
    client = MlflowClient()
    ensemble = client.get_model_version_by_alias("tiny-cnn", "champion")
    outcome, printed = search(lasting_workspace, *TWO)
    assert "ensemble" not in printed
    single = client.get_model_version_by_alias("tiny-cnn", "champion")
    assert (single.run_id, single.tags["regsearch.num_nets"]) == (ensemble.run_id, "1")
    assert single.version != ensemble.version
    assert outcome.crowned.champion
    assert len(outcome.crowned.champion.nets.trials) == 1
    search(lasting_workspace, *ENSEMBLE)
    again = client.get_model_version_by_alias("tiny-cnn", "champion")
    assert again.version == ensemble.version


def test_without_finalists_yet_one_net_is_registered_and_said_so(
    tmp_path: Path, mlflow_template: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, tmp_path)
        run_search(
            tiny_space(tmp_path, "study.trials=2", "training.precision=float32"),
            Options(num_workers=1),
            LogView(Console(quiet=True)),
        )
        options = Options(num_workers=1, timeout_sec=0)
        space = tiny_space(tmp_path, *ENSEMBLE, "study.trials=2")
        outcome = run_search(space, options, LogView(Console(quiet=True)))
        version = MlflowClient().get_model_version_by_alias("tiny-cnn", "champion")
    assert version.tags["regsearch.num_nets"] == "1"
    assert outcome.crowned.champion
    assert "an ensemble is made of the finalists' nets" in outcome.crowned.champion.notes[0]


def test_finalists_know_what_the_unregularized_net_can_fit(finished: tuple[Outcome, str]) -> None:
    """So that one that underfits is told to: the follow-up has no baselines of its own."""
    champion, verdict = finished[0].crowned.champion, finished[0].verdict
    assert champion
    assert verdict
    plain = verdict.baseline("unregularized")
    assert plain
    followup = champion.nets.followup
    assert followup
    assert followup.fits() == plain.trial.user_attrs[SCORED]["train/clean_accuracy"]
