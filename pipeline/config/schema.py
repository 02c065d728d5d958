"""The JSON Schema of a space file: what an editor needs to complete and check one."""

from __future__ import annotations

from typing import Any

from pipeline.config.run_config import RunConfig
from pipeline.config.space_check import searchable_paths
from pipeline.optimizers import AdamwSettings
from pipeline.settings import scalar_fields

WITHOUT_KIND = (AdamwSettings.__name__,)
"""What a section without `kind` is; all others have to name theirs."""


def space_schema() -> dict[str, Any]:
    """The schema of `RunConfig`, in which `search:` lists every setting that can be searched."""
    schema = RunConfig.model_json_schema()
    for name, settings in schema["$defs"].items():
        if "kind" in settings["properties"] and name not in WITHOUT_KIND:
            settings["required"] = sorted({"kind", *settings.get("required", [])})
    search = schema["properties"]["search"]
    entry = search.pop("additionalProperties")
    described = {path: scalar.field.description for path, scalar in scalar_fields(RunConfig)}
    search["properties"] = {
        path: {**entry, "description": described[path]} for path in searchable_paths()
    }
    search["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "regsearch search space",
        **schema,
    }
