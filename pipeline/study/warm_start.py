"""Warm start: a new study begins with the finished trials of an earlier one that fit it.

They come with states, values, curves and metrics, so that sampler and pruner know from the first
trial on what the earlier study has found out. What was neither searched then nor is now has to be
equal; of what was or is, each trial is asked whether it lies in the new space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.run_config import RunConfig
from pipeline.config.search_space import in_range, same
from pipeline.errors import UserError
from pipeline.settings import Scalar
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.constraints import constraint_attrs, judged, require_scored
from pipeline.study.ledger import Ledger
from pipeline.study.record import recall
from pipeline.study.store import FINISHED, SCORED, Store
from pipeline.study.trials import BASELINE, overrides_of

WHERE = "study.warm_start"
COMPARED = ("data", "model", "training", "lr_schedule", "regularization", "augmentation")
"""The sections that decide how a trial is trained."""
ALWAYS = ("study.metric", "study.seed")
"""What else makes values comparable: the seed fixes which images are validated on."""
ELSEWHERE = ("data.root", "data.cache")
"""Where things lie, which changes no trial."""
CARRIED = "carried"
MAX_SHOWN = 5


@dataclass(frozen=True)
class WarmStart:
    """What a study begins with.

    Args:
        trials: finished, as they are to be added.
        text: which these are, in a line.
    """

    trials: tuple[FrozenTrial, ...]
    text: str


def find_warm_start(config: RunConfig, store: Store, digest: str) -> WarmStart | None:
    """The trials that the new study is to begin with; None where it is to begin with none, or has
    begun. To be called before the study is made, so that a mistake leaves none behind.

    Args:
        digest: of the images that the study is going to use.

    Raises:
        UserError: there is no such study, it was another task, or none of its trials fits.
    """
    asked = config.study.warm_start
    if asked is None or _has_begun(store, config.study.name):
        return None
    old = recall(store, asked.study)
    _require_known(asked.ignore, old, config)
    study = optuna.load_study(study_name=asked.study, storage=store)
    known = str(study.user_attrs.get("regsearch.data_digest", "unknown"))
    _require_comparable(old, config, {"data digest": (known, digest)})
    several = len(config.study.objectives) > 1
    states = (TrialState.COMPLETE,) if several else FINISHED  # a pruned trial has one metric alone
    found = [t for t in study.get_trials(deepcopy=False, states=states) if not _is_baseline(t)]
    misfits: Counter[str] = Counter()
    samples = {trial.number: _sample(trial, old, config, misfits) for trial in found}
    fitting = [trial for trial in found if samples[trial.number] is not None]
    text = f"{len(fitting)} of {len(found)} finished trials of the study {asked.study!r}"
    if not fitting:
        raise UserError(
            f"no trial fits: {text} are as this space file wants them{_shown(misfits)}",
            where=WHERE,
            rule="every setting of a trial has to lie in the new search, or equal the new one's",
            cure="widen the search, name settings that don't matter in `study.warm_start.ignore`, "
            "or leave `study.warm_start` out",
        )
    judged(fitting, config.study.constraints)
    if several:
        require_scored(fitting, config.study.objectives, "study.metrics")
    trials = tuple(_carried(t, samples[t.number] or {}, config, asked.study) for t in fitting)
    return WarmStart(trials, f"begun with {text}{_shown(misfits)}")


def carry(ledger: Ledger, warm: WarmStart | None) -> str:
    """Add these trials to a study, in one transaction, unless it has begun with some.

    Returns:
        What was added, in a line; empty where nothing was, as in the second of two runs that start
        at once.
    """
    if warm is None:
        return ""
    key = f"regsearch.{CARRIED}"
    return warm.text if ledger.store.add_once(ledger.id, warm.trials, key, warm.text) else ""


def _has_begun(store: Store, name: str) -> bool:
    try:
        attrs = store.get_study_user_attrs(store.get_study_id_from_name(name))
    except KeyError:
        return False
    return f"regsearch.{CARRIED}" in attrs


def _is_baseline(trial: FrozenTrial) -> bool:
    return BASELINE in trial.user_attrs


def _require_known(ignore: Iterable[str], old: RunConfig, new: RunConfig) -> None:
    """Raise a `UserError` for a path to ignore that names no setting that is compared."""
    paths = {*_compared(old, ()), *_compared(new, ()), *old.search, *new.search}
    for name in ignore:
        if not any(_covers(name, path) for path in paths):
            raise UserError(
                f"`{name}` is none of the settings that are compared",
                where=f"{WHERE}.ignore",
                rule=f"the dotted path of a setting or a section of {', '.join(COMPARED)}",
                cure="correct it or delete it",
            )


def _require_comparable(
    old: RunConfig, new: RunConfig, also: Mapping[str, tuple[str, str]]
) -> None:
    """Raise a `UserError` that shows the differences of what all trials have in common.

    Args:
        also: what else has to be equal, then and now, by name.
    """
    asked = new.study.warm_start
    ignore = asked.ignore if asked else []
    kinds = [p.removesuffix("kind") for p in {*old.search, *new.search} if p.endswith(".kind")]
    then, now = _compared(old, ignore), _compared(new, ignore)
    pairs = {
        path: (then.get(path), now.get(path))
        for path in sorted(then.keys() | now.keys())
        if path not in old.search and path not in new.search and not path.startswith(tuple(kinds))
    }
    values = (old.values(), new.values())
    pairs |= {path: (values[0][path], values[1][path]) for path in ALWAYS}
    differing = {k: pair for k, pair in (pairs | dict(also)).items() if not _alike(*pair)}
    if differing:
        lines = [
            f"    {k}: {before!r} then, {after!r} now" for k, (before, after) in differing.items()
        ]
        raise UserError(
            f"the study {asked.study if asked else ''!r} was another task:\n" + "\n".join(lines),
            where=WHERE,
            rule="trials are carried over between studies of the same images, metric and settings; "
            "what is searched in either may differ",
            cure="make them equal, name settings that don't matter in `study.warm_start.ignore`, "
            "or leave `study.warm_start` out",
        )


def _compared(config: RunConfig, ignore: Iterable[str]) -> dict[str, Scalar | None]:
    """The settings that decide how a trial is trained, without those to ignore."""
    return {
        path: value
        for path, value in config.values().items()
        if path.startswith(tuple(f"{section}." for section in COMPARED))
        and path not in ELSEWHERE
        and not any(_covers(name, path) for name in ignore)
    }


def _covers(name: str, path: str) -> bool:
    """Whether a path is the one that is named, or in the section that is."""
    return path == name or path.startswith(f"{name}.")


def _sample(
    trial: FrozenTrial, old: RunConfig, new: RunConfig, misfits: Counter[str]
) -> dict[str, Scalar] | None:
    """The point of the new space that an old trial is; None, and why is counted, if it is none."""
    asked = new.study.warm_start
    ignore = asked.ignore if asked else []
    trained = old.with_overrides(overrides_of(trial))
    values = trained.values()
    sample = new.space.nearest(values)
    wrong = {
        path
        for path, value in sample.items()
        if not any(_covers(name, path) for name in ignore)
        and not _is_in_range(new, path, values.get(path))
    }
    if not wrong:
        then, now = _compared(trained, ignore), _compared(new.with_overrides(sample), ignore)
        both = (then.keys() | now.keys()) - sample.keys()
        wrong = {path for path in both if not _alike(then.get(path), now.get(path))}
    misfits.update(wrong)
    return None if wrong else sample


def _alike(then: object, now: object) -> bool:
    """Equality; of numbers, up to rounding: a step's multiple is not always what a file writes."""
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now)
    return same(then, now)


def _is_in_range(config: RunConfig, path: str, value: Scalar | None) -> bool:
    return value is not None and in_range(config.search[path], value)


def _carried(
    trial: FrozenTrial, sample: dict[str, Scalar], config: RunConfig, study: str
) -> FrozenTrial:
    scored = trial.user_attrs.get(SCORED)
    bounds = config.study.constraints
    carried = optuna.create_trial(
        state=trial.state,
        values=_values(trial, config),
        params=sample,
        distributions={path: config.search[path].distribution() for path in sample},
        intermediate_values=trial.intermediate_values,
        user_attrs={CARRIED_FROM: f"{study}/{trial.number}"}
        | ({} if scored is None else {SCORED: scored}),
        system_attrs=constraint_attrs(bounds, scored) if bounds and scored else {},
    )
    carried.datetime_start, carried.datetime_complete = (
        trial.datetime_start,
        trial.datetime_complete,
    )
    return carried


def _values(trial: FrozenTrial, config: RunConfig) -> list[float] | None:
    """By the new study's metrics, of which every trial keeps what it had at its best epoch."""
    if len(config.study.objectives) == 1 or trial.values is None:
        return None if trial.values is None else trial.values[:1]
    return [trial.user_attrs[SCORED][metric] for metric in config.study.objectives]


def _shown(misfits: Counter[str]) -> str:
    """Which settings kept how many trials out, the most frequent first."""
    if not misfits:
        return ""
    listed = ", ".join(f"{path} ({count})" for path, count in misfits.most_common(MAX_SHOWN))
    return f"; the others don't fit by {listed}"
