"""What all trials of a study have in common, and the refusal to mix it with anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.run_config import RunConfig
from pipeline.errors import UserError

# How long to go on, where things lie and what the winner is called change no trial. The images
# themselves are guarded by their digest.
FREE = (
    "study.trials",
    "study.max_consecutive_failures",
    "data.root",
    "data.cache",
    "registry.model_name",
)


def spec(config: RunConfig) -> dict[str, Any]:
    """The settings that the trials have in common and the entries of the search, by dotted path."""
    values: dict[str, Any] = {k: v for k, v in config.values().items() if k not in FREE}
    for path, entry in config.search.items():
        values[f"search.{path}"] = json.dumps(entry.model_dump(mode="json"), sort_keys=True)
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def require_same_spec(old: Mapping[str, Any], new: Mapping[str, Any], study: str) -> None:
    """Raise a `UserError` that shows the differences, if there are any."""
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        lines = [f"    {key}: {old.get(key)!r} then, {new.get(key)!r} now" for key in changed]
        raise UserError(
            f"the study {study!r} was begun with other settings:\n" + "\n".join(lines),
            where="the study's store",
            rule="all trials of a study are drawn from one space and trained alike; "
            f"only {', '.join(FREE)} may change",
            cure="undo the changes, or give the study another `study.name`",
        )


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
