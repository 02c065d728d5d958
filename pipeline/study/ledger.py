"""The study's books: its spec, its budget, its baselines, who has claimed which trial.

Optuna's store is the authority; nothing is counted anywhere else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.run_config import RunConfig
from pipeline.errors import UserError
from pipeline.seeding import stream_seed
from pipeline.settings import Scalar
from pipeline.study.audit import WOULD_PRUNE, is_drawn, is_due, would_prune
from pipeline.study.baselines import baselines
from pipeline.study.carried import is_carried
from pipeline.study.claim import Claim
from pipeline.study.constraints import CONSTRAINTS_PREFIX, constraint_attrs, judged
from pipeline.study.finished_cache import FinishedCache
from pipeline.study.owner import has_died, new_owner
from pipeline.study.patience import StoreAwayError
from pipeline.study.pruners import build_pruner
from pipeline.study.samplers import QmcSettings, build_sampler
from pipeline.study.spec import (
    JUDGED,
    Change,
    extension,
    require_same_data,
    require_same_spec,
    spec,
)
from pipeline.study.store import (
    ATTEMPT,
    FINISHED,
    OWNER,
    REASON,
    SCORED,
    ClaimLostError,
    Store,
    Swept,
)
from pipeline.study.trials import (
    BASELINE,
    LAST_EPOCH,
    OVERRIDES,
    Trials,
    Values,
)
from pipeline.training.metrics import direction

_NOTHING: Mapping[str, Any] = {}

REJUDGED = "rejudged"
"""Whether finished trials were judged by other constraints since MLflow was told."""


class Ledger(Trials):
    """One study on its store.

    Args:
        config: the settings of the study.
        store: the opened store.
        extend: take the changes of the spec that leave the study's trials valid.
        begin: queue the baselines that are neither there nor on their way.

    Attributes:
        extended: what `extend` has changed, a line each.
        kind: `study`, or which follow-up of one.
        held: the trial that this process holds, as (id in the store, owner), for `beat`.

    Raises:
        UserError: when the store has a study of this name with other settings.
    """

    kind: str = "study"
    folds_validation: bool = False
    """Whether its trials are trained on the validation images too; only a follow-up's may be."""

    def __init__(
        self, config: RunConfig, store: Store, *, extend: bool = False, begin: bool = True
    ) -> None:
        self.config, self.space, self.store = config, config.space, store
        self.held: tuple[int, str] | None = None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = self._open_study()
        self.id = self.study._study_id
        self.uuid = str(self.fixed("uuid", lambda: str(uuid.uuid4())))
        self.extended = self._require_same_spec(extend)
        if begin:
            self._queue_baselines()

    @property
    def study_name(self) -> str:
        """Optuna's name of it."""
        return self.config.study.name

    @property
    def target(self) -> int:
        """How many trials shall be finished: where nothing is searched, the baselines."""
        trials = self.config.study.trials
        return trials if self.config.search else min(trials, len(baselines(self.config)))

    def _open_study(self) -> optuna.Study:
        config = self.config
        return optuna.create_study(
            study_name=self.study_name,
            storage=FinishedCache(self.store),
            load_if_exists=True,
            directions=[direction(metric) for metric in self.objectives],
            pruner=build_pruner(config.study.pruner, config.training.epochs),
        )

    def _require_same_spec(self, extend: bool) -> list[str]:
        now = spec(self.config)
        then = self.fixed("spec", lambda: now)
        changes = extension(then, now) if extend else []
        if changes:
            self.sweep()
            running = self.trials(TrialState.RUNNING)
            require_same_spec(then, now, self.config.study.name, also=changes, running=len(running))
            self._judge_anew(changes)
            self.store.set_distributions(self.id, self._distributions())
            self.study = self._open_study()  # Optuna keeps finished trials as it has read them
            self.keep("spec", now)
        else:
            require_same_spec(then, now, self.config.study.name)
        return [change.text for change in changes]

    def _judge_anew(self, changes: Sequence[Change]) -> None:
        """By the constraints as they are now, where they have changed."""
        if any(key.startswith(JUDGED) for change in changes for key in change.keys):
            attrs = judged(self.trials(*FINISHED), self.config.study.constraints)
            self.store.replace_system_attrs(self.id, CONSTRAINTS_PREFIX, attrs)
            self.keep(REJUDGED, True)

    def _distributions(self) -> dict[str, str]:
        """Of the numbers searched, as Optuna writes them: old trials get the wider bounds too."""
        return {
            path: optuna.distributions.distribution_to_json(entry.distribution())
            for path, entry in self.config.search.items()
            if entry.type != "categorical"
        }

    def _queue_baselines(self) -> None:
        """Queue each baseline that is neither there nor on its way: at first, or when it failed."""
        for name, overrides in baselines(self.config).items():
            values = self.config.values() | overrides
            waiting = optuna.create_trial(
                state=TrialState.WAITING,
                system_attrs={"fixed_params": self.space.nearest(values)},
                user_attrs={BASELINE: name, OVERRIDES: overrides},
            )
            self.store.enqueue(self.id, waiting, BASELINE)

    def require_same_data(self, digest: str) -> None:
        """Note the images' digest at the first start, and insist on it ever after."""
        known = self.fixed("data_digest", lambda: digest)
        require_same_data(known, digest, self.config.study.name)

    def fixed(self, name: str, measure: Callable[[], Any]) -> Any:
        """A value that the study takes at its first start and keeps; JSON."""
        key = f"regsearch.{name}"
        attrs = self.study.user_attrs
        return attrs[key] if key in attrs else self.store.keep_study_attr(self.id, key, measure())

    def recorded(self, name: str) -> Any:
        """A value that is there since the first start.

        Raises:
            UserError: the study was begun by a version that did not keep it.
        """
        try:
            return self.study.user_attrs[f"regsearch.{name}"]
        except KeyError:
            raise UserError(
                f"the study {self.config.study.name!r} does not say its {name}",
                where="the study's store",
                cure="run its space file once with this version",
            ) from None

    def keep(self, name: str, value: Any) -> None:
        """Replace such a value."""
        self.store.keep_study_attr(self.id, f"regsearch.{name}", value, replace=True)

    def is_over(self) -> bool:
        """Whether `study.trials` are finished."""
        return self.num_finished() >= self.target

    def sweep(self) -> list[Swept]:
        """Let the trials whose worker is dead or silent wait for another attempt."""
        return self.store.sweep(self.id, self.config.study.grace_sec, has_died)

    def claim(self) -> Claim | None:
        """Take the next trial; None while finished and running ones use the budget up.

        Raises:
            KeyboardInterrupt: after a trial that was already taken has been given back.
        """
        owner = new_owner()
        try:
            trial_id = self.store.claim(self.id, self._budget(), owner)
            if trial_id is None:
                return None
            self.held = (trial_id, owner)
            return self._claim_of(trial_id, owner)
        except KeyboardInterrupt as stop:
            self.store.let_go(stop)
            self._release(owner)
            raise

    def _release(self, owner: str) -> None:
        """Give back what an owner has taken, even if it never saw the store's reply."""
        with suppress(ClaimLostError, StoreAwayError):  # else the next run finds its owner gone
            for trial in self.trials(TrialState.RUNNING):
                if trial.user_attrs.get(OWNER) == owner:
                    self._give_back(trial._trial_id, owner, "interrupted")

    def _claim_of(self, trial_id: int, owner: str) -> Claim:
        """A trial that was taken, with its settings drawn."""
        frozen = next(t for t in self.trials() if t._trial_id == trial_id)  # this fills its cache
        self.study._thread_local.cached_all_trials = None
        trial = optuna.Trial(self.study, trial_id)
        overrides, params = self._settings_of(trial, frozen)
        return Claim(
            trial,
            owner,
            attempt=frozen.user_attrs[ATTEMPT],
            name=self.name_of(frozen),
            seed=self.seed_of(frozen),
            overrides=overrides,
            params=params,
            so_far=deepcopy(frozen),
            baseline=frozen.user_attrs.get(BASELINE),
            tags=self.tags_of(frozen),
            reported_epochs=max(frozen.intermediate_values, default=0),
            last_epoch=frozen.user_attrs.get(LAST_EPOCH),
        )

    def _budget(self) -> int | None:
        """How many trials there may be, running ones included; None for those that wait alone."""
        if self.config.study.warm_start is None:
            return self.target
        return self.target + sum(map(is_carried, self.trials(*FINISHED)))

    def _settings_of(
        self, trial: optuna.Trial, frozen: FrozenTrial
    ) -> tuple[dict[str, Scalar], Values]:
        """What a trial changes in the file's settings, and what it has for all that is searched:
        drawn by the sampler, as far as it has not been."""
        self.study.sampler = self._sampler(frozen.number)
        with self.store.gathered_params():
            sample = self.space.sample(trial)
        overrides: dict[str, Scalar] = frozen.user_attrs.get(OVERRIDES, sample)
        values = self.config.values() | overrides
        return overrides, {path: values[path] for path in sample} | overrides

    def seed_of(self, trial: FrozenTrial) -> int | str:
        """What names a trial's streams of chance (see `seeding`)."""
        return trial.number

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler whose stream follows from the trial, however often the study is restarted.

        A quasi-random sequence keeps its one seed: its place in the sequence is in the store.
        """
        settings, seed = self.config.study.sampler, self.config.study.seed
        seed = seed if settings.seed is None else settings.seed
        stream = None if isinstance(settings, QmcSettings) else number
        return build_sampler(settings, stream_seed(seed, "sampler", stream) % 2**32)

    def beat(self) -> None:
        """Note that this process lives, where it holds a trial."""
        held = self.held
        if held is not None:
            with suppress(ClaimLostError):  # its next report will find out
                self.store.beat(*held)

    def report(self, claim: Claim, epoch: int, value: float) -> bool:
        """Record an epoch's value of the metric; whether the pruner wants the trial to stop.

        This and what settles a trial raise `ClaimLostError` where another has it by now.

        Baselines are never pruned: the gain over them is what the study is about. Nor is a trial at
        an epoch that an earlier attempt of it has passed, nor one that is audited.
        """
        self.store.report(claim.trial._trial_id, claim.owner, epoch, value)
        trial = claim.so_far
        trial.intermediate_values[epoch] = value
        if claim.baseline is not None or epoch <= claim.reported_epochs:
            return False
        # Not `trial.should_prune()`: Optuna's handle knows only what was reported through it.
        if self.config.study.pruner.marks_trials:
            trial.system_attrs = self.store.get_trial(trial._trial_id).system_attrs
        if would_prune(trial) is not None or not self.study.pruner.prune(self.study, trial):
            return False
        if not self._audits(claim.number):
            return True
        self.store.mark(claim.trial._trial_id, claim.owner, {WOULD_PRUNE: epoch})
        trial.user_attrs[WOULD_PRUNE] = epoch
        return False

    def _audits(self, number: int) -> bool:
        """Whether a trial that the pruner would stop runs on (see `study.audit`)."""
        settings = self.config.study
        if not settings.audit_fraction:
            return False
        if is_drawn(settings.seed, number, settings.audit_fraction):
            return True
        alive = (t for t in self.trials() if t.state != TrialState.FAIL)
        audited = [trial for trial in alive if would_prune(trial) is not None]
        return is_due(len(audited), self.num_finished(), settings.trials)

    def complete(self, claim: Claim, value: float, attrs: Mapping[str, Any] = _NOTHING) -> None:
        """Settle a trial that ran to its end; `attrs` are kept with it (see `SCORED`), and the
        other metrics of a search by several are taken from them."""
        others = [float(attrs[SCORED][metric]) for metric in self.objectives[1:]]
        self._finish(claim, TrialState.COMPLETE, [value, *others], attrs)

    def prune(self, claim: Claim, attrs: Mapping[str, Any] = _NOTHING) -> None:
        """As in Optuna, a pruned trial's value is the last that it reported."""
        reported = claim.so_far.intermediate_values
        values = [reported[max(reported)]] if reported else []
        self._finish(claim, TrialState.PRUNED, values, attrs)

    def fail(self, claim: Claim, reason: str) -> None:
        self._finish(claim, TrialState.FAIL, attrs={REASON: reason})

    def give_back(self, claim: Claim, reason: str) -> None:
        """Let the trial wait for another attempt."""
        self._give_back(claim.trial._trial_id, claim.owner, reason)

    def _give_back(self, trial_id: int, owner: str, reason: str) -> None:
        self.store.give_back(trial_id, owner, reason)
        self.held = None

    def _finish(
        self,
        claim: Claim,
        state: TrialState,
        values: Sequence[float] = (),
        attrs: Mapping[str, Any] = _NOTHING,
    ) -> None:
        judgement: Mapping[str, float] = _NOTHING
        if state in FINISHED and self.config.study.constraints:
            judgement = constraint_attrs(self.config.study.constraints, attrs[SCORED])
        self.store.finish(claim.trial._trial_id, claim.owner, state, values, attrs, judgement)
        self.held = None
