"""The winner in MLflow's registry: one version a run, and an alias that points at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from torch import nn

from pipeline import exported_model
from pipeline.exported_model import InferenceModel, ModelInfo

NUM_NETS = "regsearch.num_nets"
"""Tag of a version, and of its logged model: so many nets' probabilities are averaged."""
_SOURCE = "models:/"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and its alias.

    Attributes:
        other: the version that had the alias before, if that was another study's: "version 6 of
            the study x".
        has_alias: whether the alias points at this version now.
    """

    name: str
    version: int
    alias: str
    other: str = ""
    has_alias: bool = True

    @property
    def uri(self) -> str:
        return f"models:/{self.name}" + (f"@{self.alias}" if self.has_alias else f"/{self.version}")

    @property
    def moved(self) -> str:
        """What became of an alias that was another study's; empty where it was none's."""
        if not self.other:
            return ""
        alias = f"models:/{self.name}@{self.alias}"
        if self.has_alias:
            return f"{alias} was {self.other}; it is version {self.version} now"
        return (
            f"{alias} stays {self.other}: this run finished no trial, and leaves it alone; a "
            "`registry.model_name` of its own would keep this study's apart"
        )


def register(
    client: MlflowClient,
    run_id: str,
    make: Callable[[], tuple[nn.Module, ModelInfo]],
    model_name: str,
    alias: str = "champion",
    *,
    num_nets: int = 1,
    take_over: bool = True,
) -> Registered:
    """Registers a run's model and points the alias at it; a run has one version for each number of
    nets, however often it is registered, as long as its files are there.

    Args:
        make: the model, which maps normalized images (N, C, H, W) to logits (N, K), on any device;
            it is not changed. Called where the run has no version of it.
        num_nets: that the model is made of.
        take_over: move the alias even if it points at another study's model.

    Raises:
        MlflowException: the store is away, or refuses.
        RuntimeError: what was saved does not answer as the model does.
        Exception: whatever `make` raises.
    """
    versions = client.search_model_versions(f"name = '{model_name}' and run_id = '{run_id}'")
    alike = (v for v in versions if v.tags.get(NUM_NETS, "1") == str(num_nets))
    version = next((v for v in alike if has_files(client, v)), None)
    if version is None:
        model, info = make()
        _create_registered_model(client, model_name)
        model_id = _log_model(client, run_id, InferenceModel(model, info), info, model_name)
        source = f"{_SOURCE}{model_id}"
        version = client.create_model_version(
            model_name, source, run_id, _tags(info), model_id=model_id
        )
    experiment_id = str(client.get_run(run_id).info.experiment_id)
    other = version_of_another_study(client, model_name, alias, experiment_id)
    has_alias = take_over or not other
    if has_alias:
        client.set_registered_model_alias(model_name, alias, version.version)
    return Registered(model_name, int(version.version), alias, other, has_alias)


def has_files(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether the files of a registered version are where MLflow looks for them; what was not
    registered by `register` is taken to have its own."""
    source = str(version.source)
    if not source.startswith(_SOURCE):
        return True
    # MLflow 3.17 leaves `version.model_id` empty.
    files = client.list_logged_model_artifacts(source.removeprefix(_SOURCE))
    return any(file.path == "MLmodel" for file in files)


def without_files(client: MlflowClient, name: str, experiment_id: str) -> list[str]:
    """The aliases of a registered model that point at models of this experiment whose files are
    gone."""
    found = []
    for alias in aliases(client, name):
        version = client.get_model_version_by_alias(name, alias)
        if _is_of(client, version, experiment_id) and not has_files(client, version):
            found.append(alias)
    return found


def _is_of(client: MlflowClient, version: ModelVersion, experiment_id: str) -> bool:
    try:
        return bool(client.get_run(str(version.run_id)).info.experiment_id == experiment_id)
    except MlflowException as error:
        if error.error_code in _ABSENT:  # its run is gone
            return False
        raise


def aliases(client: MlflowClient, name: str) -> list[str]:
    """Those of a registered model; none where there is no such model."""
    try:
        return list(client.get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise


def retire(client: MlflowClient, name: str, alias: str, experiment_id: str) -> None:
    """Delete an alias that points at a model of this experiment; another's is left alone."""
    try:
        version = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return
        raise
    if _is_of(client, version, experiment_id):
        client.delete_registered_model_alias(name, alias)


def version_of_another_study(
    client: MlflowClient, name: str, alias: str, experiment_id: str
) -> str:
    """What the alias points at now, if that is a model of another experiment; else empty."""
    try:
        version = client.get_model_version_by_alias(name, alias)
        before = client.get_run(str(version.run_id)).info.experiment_id
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return ""  # there is none, or its run is gone
        raise
    if before == experiment_id:
        return ""
    return f"version {version.version} of the study {client.get_experiment(before).name}"


def _create_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(
    client: MlflowClient, run_id: str, model: InferenceModel, info: ModelInfo, name: str
) -> str:
    """Logs the model as an output of its run and returns its id.

    `mlflow.pytorch.log_model` does the same, but on the active run and the global tracking URI.
    """
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name, run_id, _tags(info), run.data.params, "classifier"
    )
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    meta = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
    )
    with TemporaryDirectory() as folder:
        exported_model.save(model, info, Path(folder, "model"), meta)
        client.log_model_artifacts(logged.model_id, str(Path(folder, "model")))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _tags(info: ModelInfo) -> dict[str, str]:
    return {
        "class_names": json.dumps(info.class_names),
        "regsearch.data": json.dumps(info.data),
        "regsearch.data_digest": info.data_digest,
        "regsearch.seed": str(info.seed),
        NUM_NETS: str(info.num_nets),
        **{name: str(value) for name, value in info.metrics.items()},
    }
