"""The study in MLflow: an experiment of its name, a run for it, and a nested run a trial."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Literal

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from pipeline.errors import redact
from pipeline.settings import Scalar
from pipeline.tracking.dataset import DatasetInfo
from pipeline.tracking.delivery import Delivery, Report
from pipeline.tracking.runs import StudyRuns, is_final
from pipeline.tracking.store import connect
from pipeline.tracking.updates import Point, RunStatus, RunUpdate

TrialState = Literal["COMPLETE", "PRUNED", "FAIL"]

_STATUS: dict[TrialState, RunStatus] = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
}


class Mirror:
    """Writes a study to MLflow as it happens; what MLflow misses, Optuna's store still has.

    Trials are told by their numbers. Their runs are made, or found by their tags, by the thread
    that delivers: no method but `open` and `trial_run_id` waits for MLflow, and none of the others
    raises because of it. Neither the active run nor `MLFLOW_RUN_ID` plays a part.
    """

    def __init__(self, runs: StudyRuns) -> None:
        self.client, self.experiment_id = runs.client, runs.experiment_id
        self.run_id = runs.study_run_id
        self._runs = runs
        self._delivery = Delivery(runs.send, is_final)

    @classmethod
    def open(
        cls,
        study_name: str,
        study_id: str,
        dataset: DatasetInfo,
        *,
        artifacts: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Mirror:
        """Finds the study's run and sets it RUNNING again, or makes it; waits for MLflow.

        Args:
            study_name: the experiment's name.
            study_id: what tells this study from another of the same name, such as a UUID that the
                study's store keeps; the run carries it as the tag `regsearch.study`.
            artifacts: file name -> text; those that the run has already are left as they are.

        Raises:
            UserError: no MLflow store answers, or the experiment is deleted.
        """
        runs = StudyRuns.open(connect(), study_name, study_id, dataset)
        runs.describe(artifacts or {}, tags or {})
        return cls(runs)

    def start_trial(
        self,
        number: int,
        params: Mapping[str, Scalar | None],
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        """Opens the trial's run, `name` or "trial 7", with what was sampled."""
        self._put(
            number,
            params={path: str(value) for path, value in params.items()},
            tags={MLFLOW_RUN_NAME: name or f"trial {number}", **(tags or {})},
            status="RUNNING",
        )

    def log_epoch(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """A point on each of the trial's curves."""
        self._log(number, epoch, metrics)

    def end_trial(self, number: int, state: TrialState, reason: str | None = None) -> None:
        """Closes the trial's run as FINISHED, KILLED (pruned) or FAILED, with the reason."""
        tags: dict[str, str] = {"regsearch.state": state}
        if reason is not None:
            tags["regsearch.reason"] = redact(reason)
        self._put(number, tags=tags, status=_STATUS[state], end_time_ms=_now_ms())

    def log_study(self, step: int, metrics: Mapping[str, float]) -> None:
        """A point on each of the study's own curves: best so far, counts."""
        self._log(None, step, metrics)

    def end_study(self, status: RunStatus = "FINISHED") -> None:
        """Closes the study's run; the next `open` sets it RUNNING again."""
        self._put(None, status=status, end_time_ms=_now_ms())

    def flush(self, timeout_sec: float) -> bool:
        """Waits until MLflow has taken all so far; False if it has not in that time."""
        return self._delivery.flush(timeout_sec)

    def close(self, timeout_sec: float = 10) -> Report:
        """Delivers what waits, for so long at most, and reports what did not get through."""
        return self._delivery.close(timeout_sec)

    def trial_run_id(self, number: int) -> str:
        """The MLflow run of a trial that MLflow has been told about.

        Raises:
            LookupError: MLflow has no run of that trial.
        """
        return self._runs.find_trial(number)

    def _log(self, trial: int | None, step: int, metrics: Mapping[str, float]) -> None:
        """MLflow stores infinity as 1.797e308, which sorts first: such values become tags."""
        now = _now_ms()
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        others = {
            f"regsearch.non_finite.{name}": f"{value} at step {step}"
            for name, value in metrics.items()
            if name not in finite
        }
        points = tuple(Point(name, float(value), step, now) for name, value in finite.items())
        self._put(trial, metrics=points, tags=others)

    def _put(
        self,
        trial: int | None,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: tuple[Point, ...] = (),
        status: RunStatus | None = None,
        end_time_ms: int | None = None,
    ) -> None:
        self._delivery.put(
            RunUpdate(trial, _now_ms(), params or {}, tags or {}, metrics, status, end_time_ms)
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
