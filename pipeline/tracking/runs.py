"""A study's runs in MLflow: each is found by its tags or made, and nothing is written twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from pipeline.tracking.dataset import DatasetInfo, dataset_input
from pipeline.tracking.finding import find_or_make_experiment, find_or_make_run
from pipeline.tracking.store import is_final
from pipeline.tracking.tables import log_tables
from pipeline.tracking.updates import Point, RunUpdate, Standing

_MAX_METRICS, _MAX_PARAMS, _MAX_TAGS = 800, 100, 100  # log_batch takes 1000 entities in all

T = TypeVar("T")


@dataclass
class _KnownRun:
    """A run as MLflow had it when it was found, and what was written to it since.

    Args:
        logged: the metrics that it had then.
        steps: metric -> the steps that it has; read when a metric is first written.
    """

    run_id: str
    status: str
    standing: Standing
    logged: frozenset[str]
    has_dataset: bool
    steps: dict[str, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> _KnownRun:
        return cls(
            str(run.info.run_id),
            str(run.info.status),
            Standing.of_run(run.data.tags),
            frozenset(run.data.metrics),
            bool(run.inputs and run.inputs.dataset_inputs),
        )


class StudyRuns:
    """The study's run and the trials' runs nested below it; for one thread at a time.

    Args:
        maker: unique to this object: by it, a run whose creation was not answered is known again.
    """

    def __init__(
        self, client: MlflowClient, study_run: Run, dataset: DatasetInfo, maker: str
    ) -> None:
        self.client, self._maker = client, maker
        self.experiment_id = str(study_run.info.experiment_id)
        self.study_run_id = str(study_run.info.run_id)
        self._input = dataset_input(dataset, "training")
        self._known: dict[int | None, _KnownRun] = {None: _KnownRun.of(study_run)}

    @classmethod
    def open(
        cls,
        client: MlflowClient,
        experiment: str,
        identity: Mapping[str, str],
        dataset: DatasetInfo,
        maker: str,
        run_name: str | None = None,
    ) -> StudyRuns:
        """Finds the study's run by its tags (see `study_identity`), or makes it.

        Raises:
            UserError: the experiment is deleted.
            MlflowException, OSError: MLflow is away.
        """
        experiment_id = find_or_make_experiment(client, experiment)
        name = run_name or experiment
        run = find_or_make_run(client, experiment_id, identity, maker=maker, name=name)
        return cls(client, run, dataset, maker)

    def describe(self, artifacts: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Logs on the study's run its data set, tags, and the texts that it does not have yet."""
        self._log_dataset(self._known[None])
        self.client.log_batch(
            self.study_run_id, tags=[RunTag(*item) for item in tags.items()], synchronous=True
        )
        present = {file.path for file in self.client.list_artifacts(self.study_run_id)}
        for name, text in artifacts.items():
            if name not in present:
                self.client.log_text(self.study_run_id, text, name)

    def send(self, update: RunUpdate, *, settled: bool = False) -> None:
        """Writes an update to its run; once more changes nothing.

        A step that the run has is left as it is: the first attempt to reach an epoch is right.

        Args:
            settled: the store says so: it holds against whatever the same attempt told before.

        Raises:
            MlflowException, OSError: MLflow is away, or refuses (see `is_final`).
        """
        try:
            self._send(update, settled)
        except MlflowException as error:
            if not (is_final(error) and self._forget_if_deleted(update.trial)):
                raise
            self._send(update, settled)

    def _send(self, update: RunUpdate, settled: bool) -> None:
        run = self._known.get(update.trial) or self._open_trial(update)
        self._log_dataset(run)
        update = update.seen_from(Standing(run.standing.attempt) if settled else run.standing)
        try:
            self._log(run, update)
        except Exception as error:
            if is_final(error):  # a run whose curves are refused ends all the same
                self._set_status(run, update)
            raise
        self._set_status(run, update)
        run.standing = max(run.standing, update.standing)
        log_tables(self.client, run.run_id, update.tables)

    def _open_trial(self, update: RunUpdate) -> _KnownRun:
        assert update.trial is not None, "the study's own run is known from the start"
        run = find_or_make_run(
            self.client,
            self.experiment_id,
            trial_identity(self.study_run_id, update.trial),
            maker=self._maker,
            name=update.tags.get(MLFLOW_RUN_NAME),
            start_time_ms=update.time_ms,
        )
        known = self._known[update.trial] = _KnownRun.of(run)
        return known

    def _log_dataset(self, run: _KnownRun) -> None:
        if not run.has_dataset:
            self.client.log_inputs(run.run_id, [self._input])
            run.has_dataset = True

    def _log(self, run: _KnownRun, update: RunUpdate) -> None:
        points = list(self._unwritten(run, update.metrics))
        for chunk, params, tags in zip_longest(
            _chunks(points, _MAX_METRICS),
            _chunks([Param(*item) for item in update.params.items()], _MAX_PARAMS),
            _chunks([RunTag(*item) for item in update.tags.items()], _MAX_TAGS),
            fillvalue=(),
        ):
            metrics = [Metric(p.name, p.value, p.time_ms, p.step) for p in chunk]
            self.client.log_batch(run.run_id, metrics, params, tags, synchronous=True)
            for point in chunk:
                run.steps[point.name].add(point.step)

    def _unwritten(self, run: _KnownRun, points: Iterable[Point]) -> Iterator[Point]:
        """The points at steps that the run does not have; of two at one step the first."""
        taken: set[tuple[str, int]] = set()
        for point in points:
            if point.name not in run.steps:
                run.steps[point.name] = self._steps(run, point.name)
            if point.step not in run.steps[point.name] and (point.name, point.step) not in taken:
                taken.add((point.name, point.step))
                yield point

    def _steps(self, run: _KnownRun, metric: str) -> set[int]:
        if metric not in run.logged:
            return set()
        return {point.step for point in self.client.get_metric_history(run.run_id, metric)}

    def _set_status(self, run: _KnownRun, update: RunUpdate) -> None:
        if update.status is None:
            return
        if update.end_time_ms is not None:
            self.client.set_terminated(run.run_id, update.status, update.end_time_ms)
        elif run.status != update.status:
            self.client.update_run(run.run_id, status=update.status)
        run.status = update.status

    def _forget_if_deleted(self, trial: int | None) -> bool:
        """Whether the trial's run was deleted, by its maker or a user; then it is sought anew."""
        if trial is None or trial not in self._known:
            return False
        try:
            run = self.client.get_run(self._known[trial].run_id)
            deleted = run.info.lifecycle_stage != "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            deleted = True
        if deleted:
            del self._known[trial]
        return deleted


def study_identity(study_uuid: str, kind: str = "study", parent_run_id: str = "") -> dict[str, str]:
    """The tags by which the run of a study, or of a follow-up of one, is found."""
    below = {MLFLOW_PARENT_RUN_ID: parent_run_id} if parent_run_id else {}
    return {"regsearch.kind": kind, "regsearch.study": study_uuid, **below}


def trials_identity(study_run_id: str) -> dict[str, str]:
    """The tags that all trials of a study have in common."""
    return {"regsearch.kind": "trial", MLFLOW_PARENT_RUN_ID: study_run_id}


def trial_identity(study_run_id: str, number: int) -> dict[str, str]:
    """The tags by which a trial's run is found."""
    return {**trials_identity(study_run_id), "regsearch.trial": str(number)}


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
