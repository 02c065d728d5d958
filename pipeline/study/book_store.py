"""What is written about a whole study: attributes, trials that it begins with, wider bounds.

Each is one transaction; see `Store` for the trials' own steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sql
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

from pipeline.study.patience import persistent
from pipeline.study.patient_storage import PatientStorage


class BookStore(PatientStorage):
    """Optuna's relational store, with transactions of our own."""

    @contextmanager
    def _transaction(self, lock_study: int | None = None) -> Iterator[Session]:
        """A transaction; with `lock_study`, no other of that study's runs beside it."""
        with _create_scoped_session(self.scoped_session) as session:
            if lock_study is not None:
                models.StudyModel.find_or_raise_by_id(lock_study, session, for_update=True)
            yield session

    @persistent
    def keep_study_attr(self, study_id: int, key: str, value: Any, *, replace: bool = False) -> Any:
        """Set a study's user attribute unless it is there (or `replace`); what it has now."""
        model = models.StudyUserAttributeModel
        with self._transaction(lock_study=study_id) as session:
            row = session.query(model).filter_by(study_id=study_id, key=key).one_or_none()
            if row is None:
                session.add(model(study_id=study_id, key=key, value_json=json.dumps(value)))
            elif replace:
                row.value_json = json.dumps(value)
            else:
                return json.loads(str(row.value_json))
            return value

    @persistent
    def add_once(self, study_id: int, trials: Sequence[FrozenTrial], key: str, value: Any) -> bool:
        """Add trials to a study, all of them and once: unless it has this user attribute, which it
        is given. Whether they were added."""
        model = models.StudyUserAttributeModel
        with self._transaction(lock_study=study_id) as session:
            if session.query(model).filter_by(study_id=study_id, key=key).first() is not None:
                return False
            session.add(model(study_id=study_id, key=key, value_json=json.dumps(value)))
            for trial in trials:
                self._get_prepared_new_trial(study_id, trial, session)
            return True

    @persistent
    def set_distributions(self, study_id: int, distributions: dict[str, str]) -> None:
        """Write other distributions (JSON) of some parameters onto all trials of a study."""
        with self._transaction(lock_study=study_id) as session:
            trials = sql.select(models.TrialModel.trial_id).filter_by(study_id=study_id)
            for name, distribution in distributions.items():
                session.execute(
                    sql.update(models.TrialParamModel)
                    .where(models.TrialParamModel.param_name == name)
                    .where(models.TrialParamModel.trial_id.in_(trials))
                    .values(distribution_json=distribution)
                    .execution_options(synchronize_session=False)
                )

    @persistent
    def replace_user_attrs(self, study_id: int, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Give a trial other values of user attributes that it has; a finished one too."""
        model = models.TrialUserAttributeModel
        with self._transaction(lock_study=study_id) as session:
            for key, value in attrs.items():
                session.query(model).filter(model.trial_id == trial_id, model.key == key).update(
                    {"value_json": json.dumps(value)}, synchronize_session=False
                )

    @persistent
    def replace_system_attrs(
        self, study_id: int, prefix: str, attrs: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """Give trials (by id) these system attributes instead of theirs that begin with `prefix`;
        finished ones too, of which Optuna itself lets nobody change anything."""
        model = models.TrialSystemAttributeModel
        with self._transaction(lock_study=study_id) as session:
            session.query(model).filter(
                model.trial_id.in_(list(attrs)), model.key.startswith(prefix)
            ).delete(synchronize_session=False)
            session.add_all(
                model(trial_id=trial_id, key=key, value_json=json.dumps(value))
                for trial_id, given in attrs.items()
                for key, value in given.items()
            )
