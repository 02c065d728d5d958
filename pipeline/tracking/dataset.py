"""What MLflow is told about the images that a run was fed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

_MAX_DIGEST_CHARS = 36


@dataclass(frozen=True)
class DatasetInfo:
    """A data set: its name, the digest of its content, its settings, and figures about it."""

    name: str
    digest: str
    source: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


def dataset_input(info: DatasetInfo, context: str) -> DatasetInput:
    """The data set as an MLflow input; `context` is "training" or "testing"."""
    dataset = Dataset(
        name=info.name,
        digest=info.digest[:_MAX_DIGEST_CHARS],
        source_type="regsearch",
        source=json.dumps(dict(info.source)),
        profile=json.dumps(dict(info.profile)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
