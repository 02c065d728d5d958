"""The registered model does as the trained one, without regsearch and without running code."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from conftest import enter
from mlflow import MlflowClient
from torch import Tensor, nn

from pipeline import exported_model
from pipeline.errors import UserError
from pipeline.exported_model import InferenceModel, ModelInfo
from pipeline.models import ModelSettings, VggSettings, build_model
from pipeline.registry import Registered, aliases, register, retire
from pipeline.regularizers import RegularizationSettings

INFO = ModelInfo(
    class_names=("cat", "dog", "bird"),
    image_shape=(3, 8, 8),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    metrics={"validation/accuracy": 0.875},
    data={"kind": "digits"},
    data_digest="0123456789abcdef",
    seed=3,
)


class Shop(NamedTuple):
    """A folder in which a net was registered."""

    folder: Path
    net: nn.Module
    run_id: str
    registered: Registered


def images(num: int) -> Tensor:
    return torch.rand(num, *INFO.image_shape, generator=torch.Generator().manual_seed(num))


def expected(net: nn.Module, batch: Tensor) -> Tensor:
    """The pipeline by hand: normalize, the net in eval mode, softmax."""
    mean, std = torch.tensor(INFO.mean).view(3, 1, 1), torch.tensor(INFO.std).view(3, 1, 1)
    net.eval()
    with torch.no_grad():
        return torch.softmax(net((batch - mean) / std), dim=1)


def trained_vgg() -> nn.Module:
    """With dropout, statistics of batch norm that are not the initial ones, and in train mode."""
    torch.manual_seed(0)
    rates = RegularizationSettings(dropout=0.5, spatial_dropout=0.3)
    settings: ModelSettings = VggSettings(width=4, head_width=8)
    net = build_model(settings, rates, INFO.image_shape, len(INFO.class_names))
    for _ in range(3):
        net(images(16) * 4 - 1)
    return net.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    shutil.copy(mlflow_template, folder)
    net = trained_vgg()
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        client = MlflowClient()
        run_id = new_run(client, "study")
        client.log_param(run_id, "model.width", 4)
        yield Shop(folder, net, run_id, register(client, run_id, lambda: (net, INFO), "pets"))


def new_run(client: MlflowClient, experiment: str) -> str:
    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else client.create_experiment(experiment)
    return str(client.create_run(experiment_id).info.run_id)


def model_folder(shop: Shop) -> Path:
    [path] = shop.folder.glob("mlruns/*/models/*/artifacts")
    return path


def test_the_version_has_its_alias_tags_and_run(shop: Shop) -> None:
    client = MlflowClient()
    version = client.get_model_version_by_alias("pets", "champion")
    assert shop.registered.uri == "models:/pets@champion"
    assert shop.registered.version == int(version.version) == 1
    assert version.run_id == shop.run_id
    assert json.loads(version.tags["class_names"]) == ["cat", "dog", "bird"]
    assert version.tags["validation/accuracy"] == "0.875"
    [output] = client.get_run(shop.run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert version.source == f"models:/{logged.model_id}"
    assert (logged.source_run_id, str(logged.status)) == (shop.run_id, "READY")
    assert logged.params == {"model.width": "4"}
    assert mlflow.active_run() is None


def test_exporting_leaves_the_net_as_it_was() -> None:
    net = trained_vgg()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    InferenceModel(net, INFO)(images(2))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_run_registered_again_has_one_version_and_both_aliases(shop: Shop) -> None:
    client = MlflowClient()
    again = register(client, shop.run_id, lambda: (shop.net, INFO), "pets", alias="default-recipe")
    assert again.version == 1
    [version] = client.search_model_versions("name = 'pets'")
    aliases = client.get_model_version("pets", version.version).aliases
    assert sorted(aliases) == ["champion", "default-recipe"]


@pytest.mark.usefixtures("workspace")
def test_another_studys_alias_is_taken_with_a_word_or_left_alone() -> None:
    client, net = MlflowClient(), trained_vgg()
    first = register(client, new_run(client, "first"), lambda: (net, INFO), "cats")
    again = register(client, new_run(client, "first"), lambda: (net, INFO), "cats")
    assert (first.other, again.other) == ("", "")  # a study may change its mind
    left = register(client, new_run(client, "second"), lambda: (net, INFO), "cats", take_over=False)
    assert left.other == "version 2 of the study first"
    assert left.uri == "models:/cats/3"
    assert "a `registry.model_name` of its own" in left.moved
    assert client.get_model_version_by_alias("cats", "champion").version == 2
    taken = register(client, new_run(client, "second"), lambda: (net, INFO), "cats", take_over=True)
    assert (taken.other, taken.uri) == ("version 2 of the study first", "models:/cats@champion")
    assert client.get_model_version_by_alias("cats", "champion").version == 4


@pytest.mark.usefixtures("workspace")
def test_only_a_studys_own_alias_is_retired() -> None:
    client, net = MlflowClient(), trained_vgg()
    own, other = new_run(client, "first"), new_run(client, "second")
    register(client, own, lambda: (net, INFO), "cats", "trial-7")
    register(client, other, lambda: (net, INFO), "cats", "trial-8")
    experiment = client.get_run(own).info.experiment_id
    for alias in ("trial-7", "trial-8", "trial-9"):
        retire(client, "cats", alias, experiment)
    assert aliases(client, "cats") == ["trial-8"]
    assert aliases(client, "dogs") == []


def test_it_answers_as_the_net_does(shop: Shop) -> None:
    model = exported_model.load(model_folder(shop))
    assert model.info == INFO
    assert model.run_id == shop.run_id
    for num in (1, 2, 7, 64):
        torch.testing.assert_close(model.module(images(num)), expected(shop.net, images(num)))


_STRANGER = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pipeline":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hide())
import mlflow, numpy, torch

torch.cuda.is_available = lambda: True  # a machine with a GPU must not refuse a model of the CPU
model = mlflow.pyfunc.load_model("models:/pets@champion")
assert model.metadata.metadata["class_names"] == ["cat", "dog", "bird"]
batches = numpy.load(sys.argv[1])
numpy.savez(sys.argv[2], **{name: model.predict(batches[name]) for name in batches})
"""


def test_plain_mlflow_loads_it_without_regsearch_and_without_pickle(
    shop: Shop, tmp_path: Path
) -> None:
    batches = {str(num): images(num) for num in (1, 2, 7)}
    np.savez(tmp_path / "images.npz", **{name: batch.numpy() for name, batch in batches.items()})
    subprocess.run(
        [sys.executable, "-I", "-c", _STRANGER, tmp_path / "images.npz", tmp_path / "answers.npz"],
        cwd=tmp_path,
        env={
            "MLFLOW_TRACKING_URI": f"sqlite:///{shop.folder}/mlflow.db",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
        check=True,
    )
    answers = np.load(tmp_path / "answers.npz")
    for name, batch in batches.items():
        assert answers[name].shape == (len(batch), 3)
        np.testing.assert_allclose(answers[name], expected(shop.net, batch), atol=1e-6)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def poison_a_weight(folder: Path, proof: Path) -> None:
    """Says of a weight that it is pickled, and puts a pickle in its place."""
    archive = folder / "data" / "model.pt2"
    with zipfile.ZipFile(archive) as file:
        records = {info.filename: file.read(info) for info in file.infolist()}
    config = next(name for name in records if name.endswith("weights_config.json"))
    content = json.loads(records[config])
    entry = next(iter(content["config"].values()))
    entry["use_pickle"] = True
    payload = io.BytesIO()
    torch.save(Evil(proof), payload)
    records[f"{config.rpartition('/')[0]}/{entry['path_name']}"] = payload.getvalue()
    records[config] = json.dumps(content).encode()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, record in records.items():
            file.writestr(name, record)


def add_a_pickled_model(folder: Path, proof: Path) -> None:
    (folder / "data" / "model.pth").write_bytes(pickle.dumps(Evil(proof)))


def add_code(folder: Path, proof: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text(f"open({str(proof)!r}, 'w')")
    mlmodel = folder / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace("code: null", "code: code"))


@pytest.mark.parametrize("harm", [poison_a_weight, add_a_pickled_model, add_code])
def test_a_hostile_model_is_refused_and_never_executed(
    harm: Any, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    folder, proof = tmp_path / "model", tmp_path / "proof"
    shutil.copytree(model_folder(shop), folder)
    harm(folder, proof)
    with pytest.raises(UserError, match="cannot be loaded safely"):
        exported_model.load(folder)
    assert not proof.exists()
    assert str(folder / "code") not in sys.path


def test_the_poison_works_where_nothing_guards(shop: Shop, tmp_path: Path) -> None:
    folder, proof = tmp_path / "model", tmp_path / "proof"
    shutil.copytree(model_folder(shop), folder)
    poison_a_weight(folder, proof)
    with pytest.raises(Exception):  # noqa: B017, PT011 - the harm is done before it fails
        torch.export.load(folder / "data" / "model.pt2")
    assert proof.exists()


def test_a_net_bound_to_the_batch_it_was_exported_with_is_not_registered(
    workspace: Path,
) -> None:
    class Bound(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch.flatten(1)[:, :3] * (2 if len(batch) == 2 else 3)

    meta = mlflow.models.Model()
    with pytest.raises((RuntimeError, AssertionError)):
        exported_model.save(InferenceModel(Bound(), INFO), INFO, workspace / "model", meta)
