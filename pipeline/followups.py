"""Follow-ups of a study trained, by the same workers and in the same way as its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline.calibration import tags_as_measured
from pipeline.errors import redact
from pipeline.events import StudyEnded, StudyStarted, StudyStatus, now_ms
from pipeline.journal import JournalWriter, journal_folder
from pipeline.mirroring import AWAY_SEC, agree, deliver, open_mirror
from pipeline.presence import present
from pipeline.progress import View
from pipeline.settings import Scalar
from pipeline.study.followup import FollowUp, Point
from pipeline.study.ledger import Ledger
from pipeline.tracking import Mirror
from pipeline.workers.plan import Plan
from pipeline.workforce import run_workers

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FLUSH_SEC = 60.0


@dataclass(frozen=True)
class Workshop:
    """What follow-ups of a study need of the run that makes them.

    Args:
        ledger: the study's.
        plan: who trains, and how.
        storage: the URL of the study's store.
        mirror: the study's in MLflow.
        deadline: no training is begun after this `time.time()`.
    """

    ledger: Ledger
    plan: Plan
    storage: str
    mirror: Mirror
    view: View
    deadline: float = math.inf

    def train(
        self,
        kind: str,
        points: Sequence[Point],
        *,
        keeps: bool = False,
        changes: Mapping[str, Scalar] | None = None,
    ) -> FollowUp:
        """Train those points that are not trained yet, and tell MLflow.

        Args:
            kind: names the follow-up; calling again goes on with it.
            keeps: keep the trained weights.
            changes: how all points differ from the study's settings, by dotted path.

        Raises:
            KeyboardInterrupt: when interrupted; the running trainings were given back.
        """
        ledger, plan = self.ledger, self.plan
        config = ledger.config.with_overrides(changes or {})
        followup = FollowUp(config, ledger.store, kind, keeps=keeps)
        followup.fixed("changes", lambda: dict(changes or {}))
        self._inherit(followup)
        followup.add(points)
        if followup.is_over():
            self._make_up(followup)
            return followup
        folds = followup.folds_validation
        how = "on training and validation images" if folds else "with fresh seeds"
        self.view.note(f"{kind}: {len(points)} trainings {how}")
        mirror = open_mirror(followup, self.mirror)
        with present(followup.uuid), closing(JournalWriter(journal_folder(followup.uuid))) as log:
            try:
                log.put(StudyStarted(now_ms()))
                as_planned = replace(plan, config=plan.config.with_overrides(changes or {}))
                followup.given_up = run_workers(
                    followup, as_planned, self.storage, self.deadline, log, self.view
                )
                if followup.given_up:
                    self.view.note(gave_up(followup))
                if keeps:
                    ledger.keep("has_news", True)  # until the champion is registered
                status: StudyStatus = "FINISHED" if followup.is_over() else "KILLED"
                log.put(StudyEnded(status, now_ms()))
                if deliver(mirror, FLUSH_SEC):
                    agree(followup, mirror)
            except KeyboardInterrupt:
                log.try_put(StudyEnded("KILLED", now_ms()))
                raise
            finally:
                mirror.close(AWAY_SEC)
        return followup

    def _make_up(self, followup: FollowUp) -> None:
        """Tell MLflow of a follow-up that was trained before: it may be another MLflow now."""
        try:
            self.mirror.followup_run_id(followup.uuid, followup.kind)
        except LookupError:
            mirror = open_mirror(followup, self.mirror)
            try:
                if deliver(mirror, FLUSH_SEC):
                    agree(followup, mirror)
            finally:
                mirror.close(AWAY_SEC)
        except (MlflowException, OSError) as error:
            self.view.note(f"MLflow could not be asked for the {followup.kind}: {error}")

    def _inherit(self, followup: FollowUp) -> None:
        """What a follow-up says of itself is what its study says."""
        for name in ("dataset", "versions"):
            followup.fixed(name, partial(self.ledger.recorded, name))
        followup.fixed("tags", lambda: tags_as_measured(self.ledger.study.user_attrs))
        followup.fixed("artifacts", dict)
        if (fits := self.ledger.fits()) is not None:
            followup.fixed("fits", lambda: fits)
        followup.require_same_data(self.ledger.recorded("data_digest"))


def gave_up(followup: FollowUp) -> str:
    """Why a follow-up was left undone."""
    return f"{followup.kind}: too many failed in a row, the last with: {followup.given_up}"


def publish(
    mirror: Mirror,
    followup: FollowUp,
    artifacts: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, float],
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Log what came of a follow-up on its run in MLflow; why it could not be, else empty."""
    try:
        run_id = mirror.followup_run_id(followup.uuid, followup.kind)
        for name, data in artifacts.items():
            mirror.client.log_dict(run_id, dict(data), name)
        for name, figure in (figures or {}).items():
            mirror.client.log_figure(run_id, figure, name)
        now = now_ms()
        mirror.client.log_batch(
            run_id, [Metric(name, value, now, 0) for name, value in metrics.items()]
        )
    except (MlflowException, OSError, LookupError) as error:
        return redact(str(error)).splitlines()[0]
    return ""
