"""The study in MLflow: an experiment of its name, a run for it, and a nested run a trial."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.tracking.dataset import DatasetInfo
from pipeline.tracking.delivery import Delivery, Report
from pipeline.tracking.finding import find_runs
from pipeline.tracking.positions import positions_file
from pipeline.tracking.runs import StudyRuns, study_identity, trial_identity
from pipeline.tracking.store import connect, is_final, patiently


@dataclass(frozen=True)
class StudyFacts:
    """What MLflow is told about a study.

    Args:
        name: the experiment's name.
        uuid: what tells this study from another of the same name; its store keeps it, and the
            run carries it as the tag `regsearch.study`.
        kind: `study`, or which follow-up of one.
        parent_run_id: the run that a follow-up's is nested below.
        artifacts: file name -> text; those that the run has already are left as they are.
    """

    name: str
    uuid: str
    dataset: DatasetInfo
    kind: str = "study"
    parent_run_id: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Mirror:
    """Brings a study's journal to MLflow as it grows; what MLflow misses, the journal still has.

    The trials' runs are made, or found by their tags, by the thread that delivers. Neither the
    active run nor `MLFLOW_RUN_ID` plays a part. Any number of processes may mirror one study.
    """

    def __init__(self, facts: StudyFacts, journal: Path, runs: StudyRuns) -> None:
        self.facts, self.journal = facts, journal
        self.client, self.experiment_id = runs.client, runs.experiment_id
        self.run_id = runs.study_run_id
        saved = positions_file(journal, self.run_id)
        self._delivery = Delivery(journal, saved, runs.send, is_final)

    @classmethod
    def open(cls, facts: StudyFacts, journal: Path) -> Mirror:
        """Finds the study's run or makes it, and begins to deliver; waits for MLflow.

        Args:
            journal: the journal's folder; it need not exist yet.

        Raises:
            UserError: no MLflow store answers, or the experiment is deleted.
        """
        client, maker = connect(), secrets.token_hex(8)

        def opened() -> StudyRuns:
            identity = study_identity(facts.uuid, facts.kind, facts.parent_run_id)
            run_name = facts.name if facts.kind == "study" else facts.kind
            runs = StudyRuns.open(
                client, facts.name, identity, facts.dataset, maker, run_name=run_name
            )
            runs.describe(facts.artifacts, facts.tags)
            return runs

        mirror = cls(facts, journal, patiently(opened))
        mirror._delivery.start()
        return mirror

    def flush(self, timeout_sec: float) -> bool:
        """Waits until MLflow took all that the journal holds now; False if not in that time."""
        return self._delivery.flush(timeout_sec)

    def answers(self) -> bool:
        """Whether MLflow has lately taken what it was sent; asks nothing, so that it returns."""
        return self._delivery.gets_on

    def close(self, timeout_sec: float = 10) -> Report:
        """Delivers what is left, for so long at most, and reports what did not get through."""
        return self._delivery.close(timeout_sec)

    def trial_run_id(self, number: int, study_run_id: str | None = None) -> str:
        """The MLflow run of a trial that MLflow has been told about; asks MLflow.

        Args:
            study_run_id: the run of the follow-up that the trial is of; this study's without it.

        Raises:
            LookupError: MLflow has no run of that trial.
            MlflowException: MLflow is away.
        """
        return self._find(trial_identity(study_run_id or self.run_id, number), f"trial {number}")

    def followup_run_id(self, uuid: str, kind: str) -> str:
        """The MLflow run of a follow-up of this study; raises as `trial_run_id`."""
        return self._find(study_identity(uuid, kind, self.run_id), f"the {kind}")

    def _find(self, identity: Mapping[str, str], what: str) -> str:
        runs = find_runs(self.client, self.experiment_id, identity)
        if not runs:
            raise LookupError(f"MLflow has no run of {what} of this study")
        return str(runs[0].info.run_id)

    def runs(self) -> StudyRuns:
        """The study's runs as MLflow has them now, for another thread than the one that delivers.

        Raises:
            MlflowException: MLflow is away, or no longer has the study's run.
        """
        run = self.client.get_run(self.run_id)
        return StudyRuns(self.client, run, self.facts.dataset, secrets.token_hex(8))
