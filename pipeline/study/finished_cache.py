"""Optuna's cache of a store, which leaves those that run unread where nobody asks for them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Container

from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.store import Store


class FinishedCache(_CachedStorage):
    """Finished trials are read once, as Optuna does it. But for each list of them it would read the
    running ones anew, with all that they have reported: twice an epoch, most of a report's time.
    Here the store is asked whether another one has ended; only if so are they read."""

    _backend: Store

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if not isinstance(states, Collection) or not all(state.is_finished() for state in states):
            return super().get_all_trials(study_id, deepcopy, states)
        if self._has_news(study_id):
            return super().get_all_trials(study_id, deepcopy, states)
        with self._lock:
            known = sorted(self._studies[study_id].trials.items())
            found = [trial for _, trial in known if trial.state in states]
            return copy.deepcopy(found) if deepcopy else found

    def _has_news(self, study_id: int) -> bool:
        """Whether a trial has ended that was not read since."""
        with self._lock:
            study = self._studies.get(study_id)
            if study is None:
                return True
            after, running = study.last_finished_trial_id, set(study.unfinished_trial_ids)
        return self._backend.has_ended(study_id, after, running)
