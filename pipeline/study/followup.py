"""A follow-up of a study: chosen points, each trained with fresh seeds, in a study of their own.

It is an Optuna study in the same store, `<study>/finalists`, say. Its trials are queued and never
drawn, so that claims, heartbeats, resuming and MLflow work for them as they do for the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.answers import Answers
from pipeline.config.run_config import RunConfig
from pipeline.errors import UserError
from pipeline.events import Table
from pipeline.settings import Scalar
from pipeline.study.claim import Claim
from pipeline.study.ledger import Ledger
from pipeline.study.pruners import NoneSettings
from pipeline.study.store import Store
from pipeline.study.trials import BASELINE, LAST_EPOCH, OVERRIDES, Values, overrides_of

LABEL, GROUP, SEED, ANSWERS, WEIGHTS = (
    f"regsearch.{name}" for name in ("label", "group", "seed", "answers", "weight_statistics")
)
_LOST = " (lost)"
WEIGHTS_TABLE = "weights.json"
"""What MLflow calls the statistics of a net's weights, a row a layer."""
CHANGES = "regsearch.changes"
"""Of a follow-up: how all of its points differ from the study's settings, by dotted path."""

REFIT = "refit"
"""The kind of the follow-up that trains on the validation images too. It has no validation metric:
it would be one of training images."""


@dataclass(frozen=True)
class Point:
    """One training that is wanted.

    Args:
        group: what trainings with other seeds are the same as this one in: "trial 12", "without
            dropout".
        seed: names its streams of chance; points of one name are compared in pairs.
        overrides: what it changes in the file's settings.
        last_epoch: the epoch after which it ends, on the schedule of all; None for its end.
    """

    group: str
    seed: str
    overrides: Mapping[str, Scalar]
    last_epoch: int | None = None

    @property
    def label(self) -> str:
        """What people read, and what tells it from the others of a follow-up."""
        return f"{self.group}, seed {self.seed.rpartition('/')[2]}"


class FollowUp(Ledger):
    """The books of a follow-up.

    Args:
        config: the settings of the study, or how they are changed for all points.
        kind: `finalists`, `ablation` ...: the last part of its name.
        keeps: whether the weights of its trainings are kept.

    Attributes:
        given_up: the reason of the last of too many failures in a row, in this run; else empty.
    """

    given_up: str = ""

    def __init__(self, config: RunConfig, store: Store, kind: str, *, keeps: bool = False) -> None:
        self.kind, self.keeps, self.folds_validation = kind, keeps, kind == REFIT
        changes: dict[str, object] = {"pruner": NoneSettings(kind="none")}
        if self.folds_validation:
            changes["constraints"] = {}  # on images that are trained on, they would tell nothing
        study = config.study.model_copy(update=changes)
        super().__init__(config.model_copy(update={"study": study}), store, begin=False)

    @property
    def study_name(self) -> str:
        return followup_name(self.config.study.name, self.kind)

    @property
    def metric(self) -> str:
        """The study's; where validation images are trained on, the accuracy on clean training
        images, by which nothing is chosen."""
        return "train/clean_accuracy" if self.folds_validation else super().metric

    @property
    def objectives(self) -> tuple[str, ...]:
        """One: nothing is sought among chosen points."""
        return (self.metric,)

    @property
    def target(self) -> int:
        return len(self.trials())

    def _require_same_spec(self, extend: bool) -> list[str]:  # noqa: ARG002 - the ledger's
        """Nothing: its study was asked, and wider bounds of that change no point."""
        return []

    def add(self, points: Sequence[Point]) -> None:
        """Queue those points that are neither there nor on their way; failed ones once more."""
        for point in points:
            waiting = optuna.create_trial(
                state=TrialState.WAITING,
                user_attrs={
                    LABEL: point.label,
                    GROUP: point.group,
                    SEED: point.seed,
                    OVERRIDES: dict(point.overrides),
                }
                | ({} if point.last_epoch is None else {LAST_EPOCH: point.last_epoch}),
            )
            self.store.enqueue(self.id, waiting, LABEL)

    def set_aside(self, trial: FrozenTrial) -> None:
        """A training whose weights are lost counts no more: `add` queues its point once more."""
        lost = {name: f"{trial.user_attrs[name]}{_LOST}" for name in (LABEL, GROUP)}
        self.store.replace_user_attrs(self.id, trial._trial_id, lost)

    def counting(self) -> list[FrozenTrial]:
        """The complete trainings, without those that were set aside."""
        complete = self.trials(TrialState.COMPLETE)
        return [trial for trial in complete if not str(trial.user_attrs[GROUP]).endswith(_LOST)]

    def fits(self) -> float | None:
        """As its study knows it: its own trainings are no baselines."""
        fits: float | None = self.study.user_attrs.get("regsearch.fits")
        return fits

    def is_over(self) -> bool:
        """Whether nothing waits or runs."""
        return not self.trials(TrialState.WAITING, TrialState.RUNNING)

    def keeps_weights(self, claim: Claim, value: float) -> bool:  # noqa: ARG002 - the ledger's
        return self.keeps

    def needs_weights(self) -> Callable[[int], bool]:
        """All that were kept: who chooses among them removes the others."""
        return lambda _: True

    def complete_in(self, groups: Sequence[str]) -> dict[str, list[FrozenTrial]]:
        """The complete trainings of each group, by seed."""
        found: dict[str, list[FrozenTrial]] = {group: [] for group in groups}
        for trial in self.trials(TrialState.COMPLETE):
            if trial.user_attrs[GROUP] in found:
                found[trial.user_attrs[GROUP]].append(trial)
        return {g: sorted(ts, key=lambda t: str(t.user_attrs[SEED])) for g, ts in found.items()}

    def name_of(self, trial: FrozenTrial) -> str:
        return str(trial.user_attrs[LABEL])

    def params_of(self, trial: FrozenTrial) -> Values:
        values = self.config.values() | overrides_of(trial)
        searched = [path for path in self.config.search if path in values]
        return {path: values[path] for path in searched} | overrides_of(trial)

    def tags_of(self, trial: FrozenTrial) -> dict[str, str]:
        return {name: str(trial.user_attrs[name]) for name in (GROUP, SEED)}

    def _budget(self) -> int | None:
        return None

    def _settings_of(
        self,
        trial: optuna.Trial,  # noqa: ARG002 - nothing is drawn
        frozen: FrozenTrial,
    ) -> tuple[dict[str, Scalar], Values]:
        return overrides_of(frozen), self.params_of(frozen)

    def seed_of(self, trial: FrozenTrial) -> int | str:
        return str(trial.user_attrs[SEED])


def is_unregularized(trial: FrozenTrial) -> bool:
    """Whether it is the unregularized baseline, of a search or among a follow-up's points."""
    return "unregularized" in (trial.user_attrs.get(BASELINE), trial.user_attrs.get(GROUP))


def followup_name(study: str, kind: str) -> str:
    """Optuna's name of a follow-up; no study's own name has a slash."""
    return f"{study}/{kind}"


def followup_kinds(store: Store, study: str) -> list[str]:
    """The follow-ups of a study that a store has."""
    prefix = followup_name(study, "")
    names = (s.study_name for s in store.get_all_studies())
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def find_followup(ledger: Ledger, kind: str) -> FollowUp | None:
    """The books of a follow-up of a study, if it has any (see `open_followup`)."""
    if kind not in followup_kinds(ledger.store, ledger.config.study.name):
        return None
    return open_followup(ledger, kind)


def open_followup(ledger: Ledger, kind: str) -> FollowUp:
    """The books of a follow-up that a study has, with the settings that it changed for all points.

    Raises:
        UserError: the study has no such follow-up.
    """
    name, kinds = ledger.config.study.name, followup_kinds(ledger.store, ledger.config.study.name)
    if kind not in kinds:
        raise UserError(
            f"the study {name!r} has no {kind!r}",
            where="--of",
            rule=f"it has {', '.join(kinds) or 'no follow-up yet'}",
            cure="name one of these, or leave it out for the trials of the search",
        )
    study_id = ledger.store.get_study_id_from_name(followup_name(name, kind))
    changes = ledger.store.get_study_user_attrs(study_id).get(CHANGES, {})
    return FollowUp(ledger.config.with_overrides(changes), ledger.store, kind)


def open_followups(ledger: Ledger) -> list[FollowUp]:
    """Those that have a training, by name: one that was killed before says nothing of itself."""
    kinds = followup_kinds(ledger.store, ledger.config.study.name)
    followups = [open_followup(ledger, kind) for kind in kinds]
    return [followup for followup in followups if followup.trials()]


def tables_of(attrs: Mapping[str, Any]) -> dict[str, Table]:
    """What MLflow shows as tables of all that is kept with a training."""
    weights = attrs.get(WEIGHTS)
    return {WEIGHTS_TABLE: weights} if weights else {}


def answers_of_trial(trial: FrozenTrial) -> Answers:
    """What the net of a complete training said of the selection images."""
    return Answers.from_json(trial.user_attrs[ANSWERS])
