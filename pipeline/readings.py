"""The test split is a locked box: who opens it is written on the model version, before the scores.

Each reading is a tag of its own, named by its time and by chance. So of any number of readings at
once, none overwrites another, which a number in a tag's name or value could not promise: MLflow
has no "write this if nobody else has".
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.tracking import patiently

READING = "regsearch.test_reading."
"""What the names of these tags begin with."""
COUNT = "regsearch.test_readings"


@dataclass(frozen=True)
class Reading:
    """One reading of the test split for one version of a model.

    Attributes:
        who: the user's name.
        when: UTC, as ISO 8601 has it.
        data_digest: of the test images and their labels.
        accuracy: None of a reading that was broken off between the images and their scores.
    """

    who: str
    when: str
    data_digest: str
    accuracy: float | None = None


@dataclass(frozen=True)
class Opened:
    """A reading that is on record.

    Attributes:
        number: the how-many-eth of its version it is; of two at the same moment, both may be told
            that they are the second.
        first: the earliest of the others; None where there is none, or none that says when it was.
    """

    key: str
    reading: Reading
    number: int
    first: Reading | None


def open_box(client: MlflowClient, version: ModelVersion, data_digest: str) -> Opened:
    """Put a reading on record: to be called before anything is known of the scores.

    Raises:
        UserError: MLflow does not answer.
        MlflowException: it refuses.
    """
    now = datetime.now(UTC)
    reading = Reading(_user(), now.isoformat(timespec="milliseconds"), data_digest)
    key = f"{READING}{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
    counted = int(_tags(client, version).get(COUNT, 0))  # older versions of this only counted
    _write(client, version, key, json.dumps(asdict(reading)))
    others = {k: value for k, value in _recorded(client, version).items() if k != key}
    first = min(map(_parse, others.values()), key=lambda other: other.when, default=None)
    number = max(counted, len(others)) + 1
    _keep_count(client, version, number)
    return Opened(key, reading, number, first)


def complete(
    client: MlflowClient, version: ModelVersion, opened: Opened, accuracy: float
) -> Reading:
    """Note on the record what the reading came to (raises as `open_box`)."""
    reading = replace(opened.reading, accuracy=accuracy)
    _write(client, version, opened.key, json.dumps(asdict(reading)))
    return reading


def recorded_readings(client: MlflowClient, version: ModelVersion) -> list[Reading]:
    """All that are on record for a version, the earliest first."""
    found = map(_parse, _recorded(client, version).values())
    return sorted(found, key=lambda reading: reading.when)


def _keep_count(client: MlflowClient, version: ModelVersion, number: int) -> None:
    """Write down how many there are. Whoever writes last looks once more after that, and so sees
    the readings of all who wrote before."""
    while True:
        _write(client, version, COUNT, str(number))
        if (seen := len(_recorded(client, version))) <= number:
            return
        number = seen


def _recorded(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    tags = _tags(client, version)
    return {key: value for key, value in tags.items() if key.startswith(READING)}


def _tags(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """As they are now."""
    now = patiently(lambda: client.get_model_version(version.name, version.version))
    return dict(now.tags)


def _write(client: MlflowClient, version: ModelVersion, key: str, value: str) -> None:
    patiently(
        lambda: client.set_model_version_tag(version.name, version.version, key, value)
    )  # the same again where a reply was lost


def _parse(text: str) -> Reading:
    values = json.loads(text)
    return Reading(**values)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"
