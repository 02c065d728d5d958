"""State files: what goes in comes out, whole; what others put in is never run."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import resource
import struct
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.state_file import DamagedFileError, check_state, load_state, save_state

STATE = {
    "epoch": 3,
    "best": -math.inf,
    "rate": 0.1,
    "mark": None,
    "on": True,
    "name": "größer",
    "pair": (0.9, 0.999),
    "entries": [1, {"deep": "er"}],
    "by_number": {0: 1.5, 7: 2.5},
}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, STATE)
    loaded = load_state(path)
    assert loaded == STATE
    assert [type(value) for value in loaded.values()] == [type(value) for value in STATE.values()]
    check_state(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


TENSORS = [
    torch.tensor(2.5),
    torch.arange(6, dtype=torch.uint8),
    torch.tensor([math.nan, -0.0, math.inf]),
    torch.arange(120.0).view(2, 3, 4, 5).to(memory_format=torch.channels_last),
    torch.arange(3).to(torch.bfloat16),
    torch.tensor([True, False]),
    torch.empty(0),
    nn.Parameter(torch.ones(2)),
]


def bits(tensor: torch.Tensor) -> list[int]:
    bits: list[int] = tensor.detach().contiguous().view(-1).view(torch.uint8).tolist()
    return bits


@pytest.mark.parametrize("number", range(len(TENSORS)))
def test_tensors_keep_bits_types_and_layout(tmp_path: Path, number: int) -> None:
    tensor = TENSORS[number]
    save_state(tmp_path / "state", {"tensor": tensor})
    loaded = load_state(tmp_path / "state")["tensor"]
    assert type(loaded) is torch.Tensor
    assert not loaded.requires_grad
    assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
    assert loaded.stride() == tensor.stride()
    assert bits(loaded) == bits(tensor)


def test_a_models_state_becomes_plain(tmp_path: Path) -> None:
    state = nn.BatchNorm1d(3).state_dict()
    assert type(state) is OrderedDict
    save_state(tmp_path / "state", {"model": state})
    loaded = load_state(tmp_path / "state")["model"]
    assert type(loaded) is dict
    nn.BatchNorm1d(3).load_state_dict(loaded)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"metrics": {"loss": np.float64(0.5)}}, r"state.metrics.loss is a float64"),
        ({"groups": [{"on": np.bool_(True)}]}, r"state.groups.0.on is a bool"),
        ({"device": torch.device("cpu")}, r"state.device is a device"),
        ({"net": nn.Linear(1, 1)}, r"state.net is a Linear"),
        ({"seen": {1, 2}}, r"state.seen is a set"),
        ({"by_pair": {(1, 2): 3}}, r"state.by_pair has keys other than"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved(
    tmp_path: Path, state: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        save_state(tmp_path / "state", state)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    for read in (load_state, check_state):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        save_state(tmp_path / "absent" / "state", STATE)


# Writing that fails


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("num_bytes", [0, 10, 5_000, 30_000, 40_000])
def test_a_write_that_fails_says_why_and_leaves_the_old_file(
    tmp_path: Path, num_bytes: int
) -> None:
    """It fails in the header, in the payload or in what was buffered of its end."""
    path = tmp_path / "state"
    save_state(path, STATE)
    with files_of_at_most(num_bytes), pytest.raises(OSError, match="File too large"):
        save_state(path, {"weight": torch.zeros(10_000)})
    assert load_state(path) == STATE
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_an_interrupted_write_stays_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would turn what is raised while it writes into a RuntimeError."""

    class Interrupted:
        def __init__(self) -> None:
            self.written = hashlib.new("sha256")

        def update(self, data: memoryview) -> None:
            self.written.update(data)
            if data.nbytes > 30_000:
                raise KeyboardInterrupt

    path = tmp_path / "state"
    save_state(path, STATE)
    monkeypatch.setattr(hashlib, "sha256", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"weight": torch.zeros(10_000)})
    monkeypatch.undo()
    assert load_state(path) == STATE
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


# Payloads made by others, under a header that is right


def write_file(path: Path, payload: bytes) -> None:
    header = b"regstate" + struct.pack("<IQ", 1, len(payload)) + hashlib.sha256(payload).digest()
    path.write_bytes(header + payload)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.target),))


def saved_by_torch(content: object, **how: bool) -> bytes:
    file = BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path: Path, kind: str) -> None:
    content = {"weight": Evil(tmp_path / "executed")}
    payload = {
        "zip": lambda: saved_by_torch(content),
        "legacy": lambda: saved_by_torch(content, _use_new_zipfile_serialization=False),
        "pickle": lambda: pickle.dumps(content),
    }[kind]()
    write_file(tmp_path / "state", payload)
    check_state(tmp_path / "state")  # the header is right
    with pytest.raises(DamagedFileError, match="cannot be read as plain data"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "executed").exists()
    if kind == "pickle":  # the fixture does what it says
        pickle.loads(payload)  # noqa: S301
        assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("payload", [b"", b"rubbish", saved_by_torch({})[:-30]])
def test_a_payload_that_is_no_archive_is_damage(tmp_path: Path, payload: bytes) -> None:
    write_file(tmp_path / "state", payload)
    with pytest.raises(DamagedFileError, match="cannot be read as plain data"):
        load_state(tmp_path / "state")


def test_a_payload_that_is_no_state_is_damage(tmp_path: Path) -> None:
    write_file(tmp_path / "state", saved_by_torch(torch.zeros(2)))
    with pytest.raises(DamagedFileError, match="holds a Tensor, not a state"):
        load_state(tmp_path / "state")


def test_the_format_is_the_one_that_is_documented(tmp_path: Path) -> None:
    write_file(tmp_path / "state", saved_by_torch(STATE))
    assert load_state(tmp_path / "state") == STATE
