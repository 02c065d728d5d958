"""A study's runs in MLflow, found by their tags or made, so that nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from pipeline.errors import UserError
from pipeline.tracking.dataset import DatasetInfo, dataset_input
from pipeline.tracking.updates import RunUpdate

_FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
_MAX_METRICS, _MAX_PARAMS, _MAX_TAGS = 800, 100, 100  # log_batch takes 1000 entities in all

T = TypeVar("T")


class StudyRuns:
    """The study's run and the trials' runs nested below it."""

    def __init__(
        self, client: MlflowClient, experiment_id: str, study_run_id: str, dataset: DatasetInfo
    ) -> None:
        self.client, self.experiment_id = client, experiment_id
        self.study_run_id = study_run_id
        self._input = dataset_input(dataset, "training")
        self._run_ids: dict[int | None, str] = {None: study_run_id}

    @classmethod
    def open(
        cls, client: MlflowClient, study_name: str, study_id: str, dataset: DatasetInfo
    ) -> StudyRuns:
        """Finds the study's run by its tag, or makes it; it is RUNNING then."""
        experiment_id = _experiment_id(client, study_name)
        identity = {"regsearch.kind": "study", "regsearch.study": study_id}
        run = _find_run(client, experiment_id, identity) or client.create_run(
            experiment_id, tags=identity, run_name=study_name
        )
        client.update_run(run.info.run_id, status="RUNNING")
        return cls(client, experiment_id, run.info.run_id, dataset)

    def describe(self, artifacts: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Logs on the study's run its data set, tags, and the texts that it does not have yet."""
        self.client.log_inputs(self.study_run_id, [self._input])
        for name, value in tags.items():
            self.client.set_tag(self.study_run_id, name, value)
        present = {file.path for file in self.client.list_artifacts(self.study_run_id)}
        for name, text in artifacts.items():
            if name not in present:
                self.client.log_text(self.study_run_id, text, name)

    def send(self, update: RunUpdate) -> None:
        """Writes an update to its run; once more changes nothing.

        Raises:
            MlflowException, OSError: MLflow is away, or refuses (see `is_final`).
        """
        run_id = self._run_ids.get(update.trial) or self._open_trial(update)
        try:
            self._log(run_id, update)
        finally:  # a run whose curves are refused ends all the same
            if update.end_time_ms is not None:
                self.client.set_terminated(run_id, update.status, update.end_time_ms)

    def _log(self, run_id: str, update: RunUpdate) -> None:
        points = [Metric(p.name, p.value, p.time_ms, p.step) for p in update.metrics]
        for metrics, params, tags in zip_longest(
            _chunks(points, _MAX_METRICS),
            _chunks([Param(*item) for item in update.params.items()], _MAX_PARAMS),
            _chunks([RunTag(*item) for item in update.tags.items()], _MAX_TAGS),
            fillvalue=(),
        ):
            self.client.log_batch(run_id, metrics, params, tags, synchronous=True)

    def find_trial(self, number: int) -> str:
        """The id of a trial's run.

        Raises:
            LookupError: MLflow has no run of that trial.
        """
        run = _find_run(self.client, self.experiment_id, self._identity(number))
        if run is None:
            raise LookupError(f"MLflow has no run of trial {number} of this study")
        return str(run.info.run_id)

    def _open_trial(self, update: RunUpdate) -> str:
        """Looks for the run first: the reply to an earlier attempt may have been lost."""
        assert update.trial is not None, "the study's own run is known from the start"
        identity = self._identity(update.trial)
        run = _find_run(self.client, self.experiment_id, identity)
        if run is None:
            run = self.client.create_run(
                self.experiment_id,
                start_time=update.time_ms,
                tags=identity,
                run_name=update.tags.get(MLFLOW_RUN_NAME),
            )
        elif update.status == "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
        run_id = str(run.info.run_id)
        self.client.log_inputs(run_id, [self._input])
        self._run_ids[update.trial] = run_id
        return run_id

    def _identity(self, number: int) -> dict[str, str]:
        return {
            "regsearch.kind": "trial",
            "regsearch.trial": str(number),
            MLFLOW_PARENT_RUN_ID: self.study_run_id,
        }


def is_final(error: Exception) -> bool:
    """Whether MLflow will refuse the same write for ever, rather than be away for a while."""
    if isinstance(error, MlflowException):
        return error.error_code in _FINAL_ERRORS
    return not isinstance(error, OSError)


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name))
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"the MLflow experiment `{name}` is deleted",
            where="study.name",
            cure=f"give the study another name, or run "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`",
        )
    return str(experiment.experiment_id)


def _find_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
    filters = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs = client.search_runs([experiment_id], filters, max_results=1, order_by=["start_time"])
    return runs[0] if runs else None


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
