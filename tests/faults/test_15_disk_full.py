"""A full disk: the old checkpoint stays as it was, and nothing half written is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import CheckpointStore
from pipeline.weights import WeightStore
from tests.trainings import fit, net, recipe, trainer

PAGE = 4096
PAGES = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 pages."""
    mount = shutil.which("mount")
    if os.getuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", f"size={PAGES * PAGE}", "tmpfs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_old_checkpoint_survives_whatever_part_of_the_new_one_fits(small_disk: Path) -> None:
    store = CheckpointStore("study", small_disk)
    store.save(7, {"epoch": 1, "weight": torch.zeros(10 * PAGE // 4)})
    old, new_pages = store.path(7).read_bytes(), 20
    used_pages = -(-len(old) // PAGE)
    for free_pages in range(new_pages + 1):
        (small_disk / "others").write_bytes(bytes((PAGES - used_pages - free_pages) * PAGE))
        new = {"epoch": 2, "weight": torch.ones((new_pages - 1) * PAGE // 4)}
        if free_pages < new_pages:
            with pytest.raises(OSError, match="No space left on device") as failed:
                store.save(7, new)
            assert failed.value.errno == errno.ENOSPC
            assert store.path(7).read_bytes() == old
        else:
            store.save(7, new)
        assert [path.name for path in store.folder.iterdir()] == ["trial-00007.ckpt"]
    state = store.load(7)
    assert state is not None
    assert state["epoch"] == 2


def test_a_training_whose_checkpoint_no_longer_fits_ends_with_the_reason(small_disk: Path) -> None:
    training = trainer(recipe(epochs=3))
    store = CheckpointStore("study", small_disk)

    def save(epoch: int, _: object) -> None:
        if epoch == 2:
            (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        store.save(0, training.state_dict())

    with pytest.raises(OSError, match="No space left on device"):
        training.fit(save)
    again = trainer(recipe(epochs=3))
    again.load_state_dict(store.load(0) or {})
    assert again.epoch == 1
    assert [path.name for path in store.folder.iterdir()] == ["trial-00000.ckpt"]
    (small_disk / "others").unlink()
    assert fit(again)[0].num_epochs == 3


def test_weights_that_no_longer_fit_leave_the_old_ones(small_disk: Path) -> None:
    store, model = WeightStore("study", small_disk), net()
    store.save(3, model)
    old = store.path(3).read_bytes()
    (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(OSError, match="No space left on device"):
        store.save(3, model)
    assert store.path(3).read_bytes() == old
    assert [path.name for path in store.folder.iterdir()] == ["trial-00003.pt"]
