"""The folders of checkpoints and weights, which several processes share."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import CheckpointStore
from pipeline.weights import WeightStore
from tests.trainings import net

ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore("study", tmp_path / "mlruns" / "checkpoints")


def names(store: CheckpointStore | WeightStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_a_trials_checkpoint_is_its_last_one(store: CheckpointStore) -> None:
    assert store.load(12) is None
    for epoch in (1, 2):
        store.save(12, {"epoch": epoch})
    store.save(3, {"epoch": 9})
    assert store.load(12) == {"epoch": 2}
    assert store.load(3) == {"epoch": 9}
    assert store.trials() == [3, 12]
    assert store.path(12) == store.folder / "trial-00012.ckpt"
    store.remove(12)
    store.remove(12)
    assert store.load(12) is None
    assert store.trials() == [3]


def test_a_study_that_has_saved_nothing_has_nothing(store: CheckpointStore) -> None:
    assert (store.trials(), store.check(), store.size_bytes()) == ([], [], 0)
    store.remove(1)
    store.remove_leftovers()
    assert not store.folder.exists()


def test_studies_are_apart(tmp_path: Path) -> None:
    for uuid in ("one", "two"):
        CheckpointStore(uuid, tmp_path).save(1, {"study": uuid})
    assert CheckpointStore("one", tmp_path).load(1) == {"study": "one"}


def test_other_files_are_left_alone(store: CheckpointStore) -> None:
    store.save(100_000, {})
    for name in ("notes.txt", "trial-x.ckpt", "trial-00001.pt", "trial-00002.ckpt.old"):
        (store.folder / name).write_text("mine")
    assert store.trials() == [100_000]
    assert store.check() == []
    store.remove_leftovers()
    assert len(names(store)) == 5
    assert store.size_bytes() == store.path(100_000).stat().st_size + 4 * len("mine")


def test_a_checkpoint_that_cannot_be_read_is_a_problem(store: CheckpointStore) -> None:
    store.save(1, {})
    store.path(2).mkdir()
    store.path(3).symlink_to("nowhere")
    store.path(4).write_bytes(b"torn")
    assert store.check() == [(2, "cannot be read: Is a directory"), (4, "is cut off after 4 bytes")]


# Weights


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    store, model = WeightStore("study", tmp_path), net()
    store.save(5, model)
    assert names(store) == ["trial-00005.pt"]
    loaded = store.load(5)
    assert loaded.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value)
    with pytest.raises(FileNotFoundError):
        store.load(6)


def test_only_the_needed_weights_are_kept(tmp_path: Path) -> None:
    store, asked = WeightStore("study", tmp_path), []
    for trial in range(4):
        store.save(trial, net())

    def needed(trial: int) -> bool:
        asked.append(trial)
        return trial in (0, 2)

    store.keep_only(needed)
    assert asked == [0, 1, 2, 3]
    assert store.trials() == [0, 2]


def test_weights_that_another_process_saves_meanwhile_are_kept(tmp_path: Path) -> None:
    store = WeightStore("study", tmp_path)
    store.save(0, net())

    def needed(trial: int) -> bool:
        WeightStore("study", tmp_path).save(1, net())
        return trial != 0

    store.keep_only(needed)
    assert store.trials() == [1]


# Processes that die, and processes that write at once


def leftover(store: CheckpointStore, size: int = 10) -> Path:
    store.save(1, {})
    path = store.folder / ".trial-00001.ckpt.4711.0123abcd.tmp"
    path.write_bytes(bytes(size))
    return path


def test_what_a_dead_writer_left_is_removed_and_a_living_ones_is_not(
    store: CheckpointStore,
) -> None:
    path = leftover(store)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a writer does
        store.remove_leftovers()
        assert path.exists()
    store.remove_leftovers()
    assert names(store) == ["trial-00001.ckpt"]


def test_a_leftover_is_nobodys_after_an_hour(store: CheckpointStore) -> None:
    path = leftover(store)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for seconds, stays in ((3_000, True), (4_000, False)):
            os.utime(path, (time.time() - seconds,) * 2)
            store.remove_leftovers()
            assert path.exists() is stays


def test_a_file_that_was_just_made_is_not_yet_locked(store: CheckpointStore) -> None:
    path = leftover(store, size=0)
    store.remove_leftovers()
    assert path.exists()


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


KILLED_WHILE_IT_SAVES = """
import resource, signal, sys, torch
from pathlib import Path
from pipeline.checkpoints import CheckpointStore
store = CheckpointStore("study", Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills it in the midst of a write
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
store.save(1, {"epoch": 2, "weight": torch.ones(100_000)})
"""


def test_a_process_that_is_killed_while_it_saves_leaves_the_old_checkpoint(
    store: CheckpointStore,
) -> None:
    store.save(1, {"epoch": 1})
    with start(KILLED_WHILE_IT_SAVES, store.folder.parent) as process:
        assert process.wait() == -signal.SIGXFSZ
    assert len(names(store)) == 2  # it did write
    assert store.size_bytes() >= 300_000
    assert store.load(1) == {"epoch": 1}
    assert store.trials() == [1]
    store.remove_leftovers()
    assert names(store) == ["trial-00001.ckpt"]


SAVES_AGAIN_AND_AGAIN = """
import sys, torch
from pathlib import Path
from pipeline.checkpoints import CheckpointStore
store, own = CheckpointStore("study", Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
for turn in range(25):
    store.save(1, {"own": own, "weight": torch.full((100_000,), own)})
"""


def test_two_processes_that_save_one_trial_at_once_leave_one_whole_file(
    store: CheckpointStore,
) -> None:
    store.save(1, {"own": 0, "weight": torch.zeros(100_000, dtype=torch.int64)})
    with (
        start(SAVES_AGAIN_AND_AGAIN, store.folder.parent, 1) as one,
        start(SAVES_AGAIN_AND_AGAIN, store.folder.parent, 2) as other,
    ):
        assert one.stdin and other.stdin and one.stdout and other.stdout  # noqa: PT018
        assert [one.stdout.readline(), other.stdout.readline()] == [b"ready\n"] * 2
        one.stdin.close()
        other.stdin.close()
        while one.poll() is None or other.poll() is None:
            state = store.load(1)
            assert state is not None
            assert torch.equal(state["weight"], torch.full((100_000,), state["own"]))
            store.remove_leftovers()  # none of what is there is left over
    assert [one.returncode, other.returncode] == [0, 0]
    assert names(store) == ["trial-00001.ckpt"]
    assert (store.load(1) or {})["own"] in (1, 2)
