"""Contract rows 11, 25 and 31: two runs at once, damaged images, and passwords."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.commands import regsearch_here
from tests.faults.conftest import new_database
from tests.faults.searches import Search, mlflow_runs, trials, wait_until
from tests.spaces import TINY, write_tiny

TRIALS = ("tiny.yaml", "--trials", "5", "--workers", "1")


@pytest.mark.slow
def test_row_11_two_runs_of_one_file_share_the_study_and_another_file_is_refused(
    workspace: Path,
) -> None:
    write_tiny(workspace)
    (workspace / "other.yaml").write_text(TINY.replace("epochs: 2", "epochs: 3"))
    first, second = Search(TRIALS), Search(TRIALS)
    wait_until(lambda: len(trials()) > 2)
    other = Search(("other.yaml", *TRIALS[1:]))
    assert (first.finish(), second.finish(), other.finish()) == (0, 0, 2)
    assert Counter(t.state.name for t in trials()) == Counter(COMPLETE=5)
    assert len(mlflow_runs("study")) == 1
    assert len(mlflow_runs("trial")) == 5
    log = Path("run.log").read_text()
    assert "training.epochs: 2 then, 3 now" in log
    assert "Traceback" not in log


def image_folder(folder: Path) -> Path:
    """Two classes of eight JPEGs each."""
    for label in ("cat", "dog"):
        path = folder / "data" / "train" / label
        path.mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(path / f"{i}.jpg")
    return folder / "data" / "train" / "dog" / "7.jpg"


@pytest.mark.parametrize("damage", ["truncated", "a flipped byte"])
def test_row_25_a_damaged_image_is_named_before_any_trial(workspace: Path, damage: str) -> None:
    victim = image_folder(workspace)
    data = bytearray(victim.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    else:
        data[random.Random(0).randrange(2)] ^= 0xFF  # in the marker by which a JPEG is known
    victim.write_bytes(data)
    text = TINY.replace(
        "{kind: digits, train_images: 100}", "{kind: image_folder, root: data, image_size: 16}"
    )
    write_tiny(workspace, text)
    done = regsearch_here("run", *TRIALS, cwd=workspace)
    assert done.returncode == 2
    assert "dog/7.jpg" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert trials() == []


@pytest.mark.slow
def test_row_31_a_password_is_nowhere(workspace: Path, postgres: Any) -> None:
    """Given on the command line: it is out of the process list before the study begins."""
    canary = "canary-5d1f"
    url = new_database(postgres).replace("postgres:@", f"postgres:{canary}@")
    assert canary in url
    write_tiny(workspace)
    search = Search((*TRIALS, "--storage", url), anew=True)
    wait_until(lambda: "trial 0" in Path("run.log").read_text())
    commands = command_lines()
    assert search.finish() == 0, Path("run.log").read_text()[-3000:]
    assert any("tiny.yaml" in command for command in commands)
    assert [command for command in commands if canary in command] == []
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if canary.encode() in path.read_bytes()] == []


def command_lines() -> list[str]:
    """What everybody on this machine can see of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_text().replace("\0", " "))
    return found
