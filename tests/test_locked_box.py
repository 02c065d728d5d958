"""The test split is a locked box: an alarm rings in every process that looks into it, and only
`evaluate` sets it off.

The commands run as they do for a user, workers and decoding processes included, on a folder of
images whose `test/` cannot be read: one image is garbage, another one blocks whoever opens it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import app
from tests.spaces import TINY

ROOT = Path(__file__).parents[1]

COMMANDS = [
    ("validate", "box.yaml"),
    ("run", "box.yaml", "--workers", "1"),
    ("status", "box"),
    ("sync", "box"),
    ("doctor", "box", "--fix"),
    ("reproduce", "box", "2"),
    ("reproduce", "box", "0", "--of", "finalists"),
    ("bounds", "box"),
    ("ablate", "box", "--seeds", "1", "--pairs", "0", "--workers", "1"),
    ("report", "box"),
]
"""Every command that has to do with a study; all but `evaluate` leave the box alone."""
EVALUATE = ("evaluate", "models:/box-cnn@champion")

BOX_SPACE = (
    TINY.replace("name: tiny", "name: box")
    .replace("trials: 4", "trials: 12")  # ten beside the baselines, as few as `bounds` takes
    .replace("epochs: 2", "epochs: 1")
    .replace("batch_size: 50", "batch_size: 8")
    .replace("{kind: digits, train_images: 100}", "{kind: image_folder, image_size: 8}")
    .replace("finalists: {count: 0}", "finalists: {count: 1, seeds: 1}")
)

ALARM = """
import os, sys

BOX, LOG = os.environ["LOCKED_BOX"], os.environ["ALARM_LOG"]

def alarm(event, arguments):
    if event not in ("open", "os.listdir", "os.scandir", "os.rename", "shutil.copyfile"):
        return
    path = arguments[0]
    if not isinstance(path, (str, bytes, os.PathLike)):
        return  # a file that is open already
    path = os.path.realpath(os.fsdecode(path))
    if path == BOX or path.startswith(BOX + os.sep):
        with open(LOG, "a") as log:
            log.write(f"{event} {path}\\n")
        raise PermissionError(f"the locked box was opened: {event} {path}")

sys.addaudithook(alarm)
"""
"""Python loads it at the start of each process; what a process does with the test split's files, or
with the folders that are its labels, is written down and fails."""

DRIVER = """
import json, os, shutil, sys
from pathlib import Path
from pipeline.cli import app

results = []
for arguments in json.loads(sys.argv[1]):
    shutil.rmtree("data/cache", ignore_errors=True)
    try:
        code = app(arguments, standalone_mode=False) or 0
    except BaseException as error:
        code = repr(error)
    log = Path(os.environ["ALARM_LOG"])
    rung = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    results.append([code, rung])
    Path("results.json").write_text(json.dumps(results))
"""
"""Runs the commands in one process, since each would load torch and MLflow anew; each has to read
the images anew."""


@dataclass(frozen=True)
class Result:
    """How a command ended, and what the alarm has written down."""

    code: int | str
    rung: list[str]


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> dict[tuple[str, ...], Result]:
    """Every command's result, and `evaluate`'s at the end."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    (folder / "box.yaml").write_text(BOX_SPACE)
    (folder / "alarm").mkdir()
    (folder / "alarm" / "sitecustomize.py").write_text(ALARM)
    fill(folder / "data")
    commands = [*COMMANDS, EVALUATE]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((folder / "results.json").read_text())
    return {command: Result(*one) for command, one in zip(commands, found, strict=True)}


def fill(root: Path) -> None:
    """Forty training images that can be learnt, and a test split that nobody can read."""
    chance = np.random.default_rng(0)
    for name, brightness in (("dark", 0), ("light", 128)):
        (root / "train" / name).mkdir(parents=True)
        (root / "test" / name).mkdir(parents=True)
        for number in range(20):
            pixels = brightness + chance.integers(0, 128, (8, 8), np.uint8)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "train" / name / f"{number}.png")
    (root / "test" / "dark" / "0.png").write_bytes(b"garbage")
    os.mkfifo(root / "test" / "light" / "0.png")


def environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "REGSEARCH_"))}
    return {
        **kept,
        "PYTHONPATH": f"{folder / 'alarm'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "LOCKED_BOX": str((folder / "data" / "test").resolve()),
        "ALARM_LOG": str(folder / "alarm.log"),
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_box_stays_shut(
    command: tuple[str, ...], results: dict[tuple[str, ...], Result]
) -> None:
    assert results[command] == Result(0, [])


def test_every_command_is_tried() -> None:
    """So that a new one has to be added to the list."""
    names = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert names - {"evaluate", "ui", "schema"} == {name for name, *_ in COMMANDS}


def test_evaluate_sets_the_alarm_off(results: dict[tuple[str, ...], Result]) -> None:
    """Without which the others' silence would mean nothing."""
    result = results[EVALUATE]
    assert result.code != 0
    assert result.rung


@pytest.mark.parametrize(
    "look",
    [
        "open('{box}/dark/0.png')",
        "os.listdir('{box}')",
        "list(Path('{box}').glob('*/'))",
        "list(Path('data').rglob('*.png'))",
        "Image.open('{box}/dark/0.png')",
        "np.fromfile('{box}/dark/0.png')",
        "multiprocessing.get_context('forkserver').Pool(1).map(os.listdir, ['{box}'])",
    ],
)
def test_the_alarm_rings_however_one_looks(tmp_path: Path, look: str) -> None:
    """In a process that was started by another one, too, and where the error is swallowed."""
    (tmp_path / "alarm").mkdir()
    (tmp_path / "alarm" / "sitecustomize.py").write_text(ALARM)
    fill(tmp_path / "data")
    code = "import multiprocessing, os\nfrom pathlib import Path\nimport numpy as np\n"
    code += "from PIL import Image\n" + look.format(box=tmp_path / "data" / "test")
    command = [sys.executable, "-c", code]
    subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, timeout=60
    )
    assert str(tmp_path / "data" / "test") in (tmp_path / "alarm.log").read_text()
