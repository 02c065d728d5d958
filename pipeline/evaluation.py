"""What a registered model is worth: the only reader of the test split, and it tells on its readers.

A model that was chosen by its test score has no test score any more. So each version carries who
has scored it when (`readings.py`), and no other part of the pipeline can see these images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.artifacts
import numpy as np
import numpy.typing as npt
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline import exported_model
from pipeline.datasets import (
    DataSettings,
    DataSettingsUnion,
    ImageSet,
    Progress,
    load_splits,
    load_test,
)
from pipeline.errors import UserError
from pipeline.exported_model import LoadedModel, ModelInfo
from pipeline.readings import Reading, complete, open_box
from pipeline.registry import has_files
from pipeline.statistics import Scores, score
from pipeline.tracking import DatasetInfo, connect, dataset_input
from pipeline.training.prediction import eval_batch_size

_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[1-9]\d*))")


@dataclass(frozen=True)
class Evaluation:
    """The test scores of one version of a registered model.

    Args:
        same_data: whether the data is what the search saw; if not, test images may have been
            trained on.
        test_readings: how often this version was scored on a test split, this time included.
        reading: this time, as it is on record.
        first_reading: the first time, if that was another one and is on record.
        run_id: the MLflow run that holds these scores.
    """

    model_name: str
    model_version: int
    scores: Scores
    same_data: bool
    test_readings: int
    reading: Reading
    first_reading: Reading | None
    run_id: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def evaluate(
    model_uri: str, data: DataSettings | None = None, progress: Progress | None = None
) -> Evaluation:
    """Scores a registered model on the test split, and logs it to the model version in MLflow.

    That the split was read is on record before there are scores: a reading that is broken off, or
    whose scores can't be logged, counts too.

    Args:
        model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        data: where the images come from; the data the model was trained on when `None`.

    Raises:
        UserError: no such store, model, alias or version; a model that cannot be loaded safely;
            data that is missing or does not fit the model.
    """
    client = connect(create=False)
    version = _find_version(client, model_uri)
    model = _fetch(client, version)
    info = model.info
    data = data or _recorded_data(info)
    splits = load_splits(data, info.seed, progress)
    test = load_test(data, info.seed, progress)
    _check_fit(info, splits.class_names, test)
    dataset = _describe(data, test)
    opened = open_box(client, version, dataset.digest)
    scores = score(predict(model.module, test.images), test.labels, info.class_names)
    reading = complete(client, version, opened, scores.accuracy)
    run_id = _log(client, version, model, scores, dataset)
    return Evaluation(
        model_name=version.name,
        model_version=int(version.version),
        scores=scores,
        same_data=splits.digest == info.data_digest,
        test_readings=opened.number,
        reading=reading,
        first_reading=opened.first,
        run_id=run_id,
    )


def predict(module: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Probabilities (N, K) for uint8 images (N, C, H, W), a batch at a time."""
    batch_size = eval_batch_size(images.shape[-2:])
    with torch.inference_mode():
        batches = [
            module(torch.from_numpy(images[start : start + batch_size]).float().div(255))
            for start in range(0, len(images), batch_size)
        ]
    return torch.cat(batches).numpy()


def _find_version(client: MlflowClient, model_uri: str) -> ModelVersion:
    match = _MODEL_URI.fullmatch(model_uri)
    if match is None:
        raise UserError(
            f"`{model_uri}` names no registered model",
            rule="models:/NAME@ALIAS or models:/NAME/VERSION",
            cure="try models:/NAME@champion with your `registry.model_name`",
        )
    name, alias, version = match.group("name", "alias", "version")
    try:
        if alias is None:
            return client.get_model_version(name, version)
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    there = _list_models(client)
    go = "go to the folder of the search (or set MLFLOW_TRACKING_URI)"
    raise UserError(
        f"MLflow has no model `{model_uri}`",
        rule=f"it has {', '.join(there) or 'no registered model with an alias'}",
        cure=f"name one of these, or {go}"
        if there
        else f"`regsearch sync` registers the champions of the studies in this folder; or {go}",
    )


def _list_models(client: MlflowClient) -> list[str]:
    return sorted(
        f"models:/{model.name}@{alias}"
        for model in client.search_registered_models()
        for alias in model.aliases
    )


def _fetch(client: MlflowClient, version: ModelVersion) -> LoadedModel:
    uri = f"models:/{version.name}/{version.version}"
    if not has_files(client, version):
        raise UserError(
            f"the files of {uri} are gone",
            rule="a version's files lie in `mlruns/`, or on MLflow's server",
            cure="`regsearch sync` registers it once more, from the weights that the study keeps",
        )
    with TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        return exported_model.load(Path(path))


def _recorded_data(info: ModelInfo) -> DataSettings:
    try:
        settings: DataSettings = TypeAdapter(DataSettingsUnion).validate_json(json.dumps(info.data))
    except ValidationError as error:
        raise UserError(
            f"the data settings that the model carries are not valid here: {error}",
            cure="give the data with --data SPACE.yaml",
        ) from None
    return settings


def _check_fit(info: ModelInfo, class_names: tuple[str, ...], test: ImageSet) -> None:
    shape = test.images.shape[1:]
    if class_names != info.class_names or shape != info.image_shape:
        raise UserError(
            f"the data has {len(class_names)} classes ({', '.join(class_names[:5])}, ...) "
            f"and images of shape {shape}",
            where="data",
            rule=f"the model knows {len(info.class_names)} classes "
            f"({', '.join(info.class_names[:5])}, ...) and takes images of shape "
            f"{info.image_shape} (channels, height, width)",
            cure="evaluate on data with the same classes and image size, or leave out --data",
        )


def _describe(data: DataSettings, test: ImageSet) -> DatasetInfo:
    settings = data.model_dump(mode="json")
    sha256 = hashlib.sha256(test.images.data)
    sha256.update(test.labels.data)
    digest = sha256.hexdigest()[:16]
    return DatasetInfo(f"{settings['kind']}/test", digest, settings, {"num_images": len(test)})


def _log(
    client: MlflowClient,
    version: ModelVersion,
    model: LoadedModel,
    scores: Scores,
    dataset: DatasetInfo,
) -> str:
    """Logs the scores as tags of the version, as the logged model's metrics, and as a run."""
    source = client.get_run(model.run_id)
    run = client.create_run(
        source.info.experiment_id,
        tags={"regsearch.kind": "evaluation", MLFLOW_PARENT_RUN_ID: model.run_id},
        run_name=f"evaluation of {version.name} v{version.version}",
    )
    run_id = str(run.info.run_id)
    inputs = [dataset_input(dataset, "testing")]
    client.log_inputs(run_id, inputs, [LoggedModelInput(model.model_id)])
    metrics = _metrics(scores)
    now = run.info.start_time
    client.log_batch(
        run_id,
        [Metric(name, value, now, 0, model.model_id) for name, value in metrics.items()],
        synchronous=True,
    )
    client.log_dict(run_id, dataclasses.asdict(scores), "scores.json")
    for name, value in metrics.items():
        client.set_model_version_tag(version.name, version.version, name, str(value))
    client.set_terminated(run_id)
    return run_id


def _metrics(scores: Scores) -> Mapping[str, float]:
    names = ("accuracy", "accuracy_low", "accuracy_high", "loss", "ece", "brier")
    return {f"test/{name}": getattr(scores, name) for name in names}
