"""What all trials of a study have in common, and the refusal to mix it with anything else."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.config.run_config import RunConfig
from pipeline.config.yaml_edit import written
from pipeline.errors import UserError

# How long to go on, which trials the pruner spares, where things lie and what the winner is called
# change no trial. The images themselves are guarded by their digest.
FREE = (
    "study.trials",
    "study.max_consecutive_failures",
    "study.grace_sec",
    "study.checkpoint_sec",
    "study.audit_fraction",
    "data.root",
    "data.cache",
    "registry.model_name",
    "finalists.count",
    "finalists.seeds",
    "finalists.champion",
    "finalists.refit",
)

NEW = {"training.engine": "auto", "study.metrics": None}
"""Settings that older studies don't have, with the value that leaves them as they are."""

JUDGED = ("study.constraints.",)
"""How the spec's keys begin by which finished trials are judged."""


@dataclass(frozen=True)
class Change:
    """A difference that `--extend` takes: its keys in the spec, and what it means."""

    keys: tuple[str, ...]
    text: str


def spec(config: RunConfig) -> dict[str, Any]:
    """The settings that the trials have in common and the entries of the search, by dotted path."""
    values: dict[str, Any] = {k: v for k, v in config.values().items() if k not in FREE}
    for path, entry in config.search.items():
        values[f"search.{path}"] = json.dumps(entry.model_dump(mode="json"), sort_keys=True)
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def extension(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The differences that leave every trial of the study valid.

    Wider bounds of a number, how points are proposed and pruned, and which of them may win: every
    trial is judged anew, so nobody may judge others meanwhile. Choices are not among them: Optuna
    wants one list of choices for all trials.
    """
    changes = []
    for key in _changed(old, new):
        if key.startswith((*JUDGED, "study.sampler.", "study.pruner.")):
            changes.append(Change((key,), f"{key}: {shown(key, old)} -> {shown(key, new)}"))
        elif key.startswith("search.") and (text := _wider(old.get(key), new.get(key))):
            changes.append(Change((key,), f"{key.removeprefix('search.')}: {text}"))
    return changes


def _wider(old: str | None, new: str | None) -> str:
    """`0 to 0.5 -> 0 to 0.7` where an entry's bounds only became wider; else empty."""
    if old is None or new is None:
        return ""
    before, after = json.loads(old), json.loads(new)
    bounds = ("low", "high")
    same = all(before.get(k) == after.get(k) for k in {*before, *after} - {*bounds})
    if not same or "low" not in before:
        return ""
    if after["low"] > before["low"] or after["high"] < before["high"]:
        return ""
    moved = _exact(before["low"]) - _exact(after["low"])
    if before.get("step") and moved % _exact(before["step"]):
        return ""
    return " -> ".join("{low:g} to {high:g}".format(**entry) for entry in (before, after))


def _exact(number: float) -> Fraction:
    """As it is written: 0.3 less 0.2 is no multiple of 0.1 in floats."""
    return Fraction(str(number))


def require_same_spec(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    study: str,
    *,
    also: Sequence[Change] = (),
    running: int = 0,
) -> None:
    """Raise a `UserError` that shows the differences, if there are any.

    Args:
        also: differences to accept.
        running: how many trials run now, which nothing may be changed under.
    """
    if also and running:
        raise UserError(
            f"{running} trials of the study {study!r} are running",
            where="--extend",
            rule="a study is extended while nobody works on it",
            cure="stop the other runs first (Ctrl-C; nothing is lost); `regsearch status` shows "
            "who runs them",
        )
    accepted = {key for change in also for key in change.keys}
    changed = [key for key in _changed(old, new) if key not in accepted]
    if changed:
        lines = [f"    {key}: {shown(key, old)} then, {shown(key, new)} now" for key in changed]
        extendable = {key for change in extension(old, new) for key in change.keys}
        raise UserError(
            f"the study {study!r} was begun with other settings:\n" + "\n".join(lines),
            where="the study's store",
            rule=_rule(changed, extendable),
            cure=_cure([key for key in changed if key not in extendable], bool(extendable)),
        )


def _rule(changed: Sequence[str], extendable: Collection[str]) -> str:
    """As much of it as these changes have to do with."""
    rule = "all trials of a study are drawn from one space and trained alike"
    if any(key.startswith("search.") and key not in extendable for key in changed):
        return f"{rule}; --extend takes bounds that become wider, and no other change of `search:`"
    return f"{rule}; --extend takes these changes" if {*changed} <= {*extendable} else rule


def _cure(refused: Sequence[str], some_are_taken: bool) -> str:
    """What to do about changes of which some can't be had in the same study."""
    rename = "give the study another name (`--set study.name=...`)"
    if not refused:
        return f"add --extend to take these changes into the study; or undo them, or {rename}"
    if some_are_taken:
        return f"undo those of {', '.join(refused)} (--extend takes the others), or {rename}"
    return f"undo the changes (`--set` makes some, too), or {rename}"


def shown(key: str, values: Mapping[str, Any]) -> str:
    """A setting's value as it would stand in the space file; of an entry what is not a default."""
    if key not in values:
        return "nothing"
    if not key.startswith("search."):
        return written(values[key])
    entry: dict[str, Any] = json.loads(values[key])
    given = {k: v for k, v in entry.items() if not (v is None or v is False or v == {})}
    order = ("type", "low", "high", "step", "log", "choices", "when")
    return written({name: given[name] for name in order if name in given})


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys that differ. A setting that is newer than the study was at `NEW`'s value in it."""
    before = {**NEW, **old}
    return sorted(k for k in before.keys() | new.keys() if before.get(k) != new.get(k))


def require_same_data(old: str, new: str, study: str) -> None:
    """Raise a `UserError` if the digests of the images differ."""
    if old != new:
        raise UserError(
            f"the images have changed since the study {study!r} was begun "
            f"(digest {old} then, {new} now)",
            where="data",
            rule="all trials of a study are trained and judged on the same images",
            cure="restore the images, or give the study another `study.name`",
        )
