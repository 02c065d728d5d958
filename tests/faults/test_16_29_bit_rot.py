"""Bits that flip on disk, and other damage: found before anything is loaded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.checkpoints import CheckpointStore
from pipeline.state_file import DamagedFileError
from tests.trainings import recipe, trainer

HEADER = 52


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """The checkpoint of a training after its first epoch, as that of trial 4."""
    store, training = CheckpointStore("study", tmp_path), trainer(recipe())
    training.fit(lambda *_: store.save(4, training.state_dict()))
    return store


def assert_found(store: CheckpointStore, damaged: bytes, problem: str = "trial-00004") -> None:
    store.path(4).write_bytes(damaged)
    with pytest.raises(DamagedFileError, match=problem) as found:
        store.load(4)
    assert found.value.path == store.path(4)
    assert store.check() == [(4, found.value.problem)]


def flipped(whole: bytes, bit: int) -> bytes:
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_every_flipped_bit_is_found(store: CheckpointStore) -> None:
    whole = store.path(4).read_bytes()
    anywhere = random.Random(16).sample(range(8 * len(whole)), 200)
    for bit in [*anywhere, *range(8 * HEADER)]:
        assert_found(store, flipped(whole, bit))
    store.path(4).write_bytes(whole)
    assert store.check() == []
    assert (store.load(4) or {})["epoch"] == 1


def test_every_kind_of_damage_is_told(store: CheckpointStore) -> None:
    whole = store.path(4).read_bytes()
    length = len(whole) - HEADER
    assert_found(store, b"", "is cut off after 0 bytes")
    assert_found(store, whole[:51], "is cut off after 51 bytes")
    assert_found(store, whole[:-1], f"has {length - 1} bytes of its {length}")
    assert_found(store, whole + b"\0", f"has {length + 1} bytes of its {length}")
    assert_found(store, bytes(len(whole)), "is not a state file")  # as after a power cut
    assert_found(store, whole[HEADER:], "is not a state file")
    assert_found(store, flipped(whole, 8 * 8), "has version 0, not 1")
    assert_found(store, flipped(whole, 8 * 8 + 1), "has version 3, not 1")
    assert_found(store, flipped(whole, 8 * len(whole) - 1), "has been altered")
