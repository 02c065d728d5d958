"""The commands as a user runs them: real processes, real signals, exit codes, no tracebacks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from pipeline import __version__
from pipeline.study.storage import open_storage
from pipeline.study.store import OWNER
from tests.commands import Done, environment, regsearch, regsearch_forked, regsearch_here
from tests.conftest import enter
from tests.spaces import write_tiny
from tests.template import Forked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Path]:
    """A folder in which a study has been run to its end by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        write_tiny(folder)
        done = regsearch("run", "tiny.yaml", "--trials", "3", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout)
        (folder / "errors").write_text(done.stderr)
        yield folder


def test_run_prints_a_line_an_epoch_and_ends_with_a_summary(folder: Path) -> None:
    printed = (folder / "printed").read_text()
    before, _, _ = printed.partition("trial 0 (unregularized)")
    assert "measuring what trains fastest on this machine ..." in before
    assert "loading MLflow and opening its store ..." in before
    for trial in ("trial 0 (unregularized)", "trial 1 (recipe)", "trial 2"):
        for epoch in (1, 2):
            assert f"{trial}: epoch {epoch}/2: train loss" in printed
    assert "comparing on the selection images, and registering" in printed
    assert "3 of 3 trials finished" in printed
    assert "regsearch evaluate models:/tiny-cnn@champion" in printed


def test_run_says_nothing_on_stderr(folder: Path) -> None:
    assert (folder / "errors").read_text() == ""


def test_the_stores_are_where_plain_mlflow_and_the_readme_look(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"mlflow.db", "mlruns"} <= names
    assert (folder / "mlruns" / "optuna.db").exists()


def test_a_store_that_nobody_has_open_is_one_file(folder: Path) -> None:
    """So that a copy of it has all of the study: what SQLite's log of writes holds would lack."""
    assert {path.name for path in (folder / "mlruns").glob("optuna.db*")} == {
        "optuna.db",
        "optuna.db.lock",
    }


def test_evaluate_prints_the_test_scores_and_counts_its_readings(folder: Path) -> None:
    first = regsearch_forked("evaluate", "models:/tiny-cnn@champion", cwd=folder)
    assert first.returncode == 0, first.stderr
    assert "359 test images" in first.stdout
    assert "95 % interval" in first.stdout
    assert "first reading" in first.stdout
    second = regsearch_here("evaluate", "models:/tiny-cnn@champion", "--json", cwd=folder)
    result = json.loads(second.stdout)
    assert result["test_readings"] == 2
    assert result["scores"]["num_images"] == 359
    assert sum(map(sum, result["scores"]["confusion"])) == 359
    low, high = result["scores"]["accuracy_low"], result["scores"]["accuracy_high"]
    assert 0 <= low <= result["scores"]["accuracy"] <= high <= 1


def test_two_evaluations_at_once_are_both_on_record(folder: Path) -> None:
    """Two processes; a third one then knows of both."""
    uri = "models:/tiny-cnn@recipe"
    pair = [Forked(("evaluate", uri, "--json"), folder, environment()) for _ in range(2)]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in pair)
    third = json.loads(regsearch_here("evaluate", uri, "--json", cwd=folder).stdout)
    assert third["test_readings"] == max(first["test_readings"], second["test_readings"]) + 1 == 3
    earliest = min(first["reading"], second["reading"], key=lambda reading: str(reading["when"]))
    assert third["first_reading"] == earliest


def test_evaluate_names_the_models_that_there_are(folder: Path) -> None:
    done = regsearch_here("evaluate", "models:/none@champion", cwd=folder)
    assert done.returncode == 2
    assert "models:/tiny-cnn@champion" in done.stderr


def test_validate_prints_the_settings_and_the_space_without_training(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    done = regsearch("validate", "tiny.yaml", "--set", "training.epochs=7", cwd=tmp_path)
    assert done.returncode == 0
    assert "training.epochs" in done.stdout
    assert "0 to 0.7" in done.stdout
    assert "1e-05 to 0.1, log scale" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_schema_is_json(tmp_path: Path) -> None:
    schema = json.loads(regsearch("schema", cwd=tmp_path).stdout)
    assert "regularization.dropout" in schema["properties"]["search"]["properties"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.yaml"), "missing.yaml"),
        (("run", "tiny.yaml", "--device", "cuda:7"), "no device 'cuda:7'"),
        (("run", "tiny.yaml", "--set", "training.epochs=many"), "--set training.epochs=many"),
        (("run", "tiny.yaml", "--trials", "0"), "--trials"),
        (("run",), "Missing argument"),
        (("run", "tiny.yaml", "--no-such-option"), "No such option"),
        (("evaluate", "models:/x@y"), "no MLflow store"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    write_tiny(tmp_path)
    done = regsearch_here(*arguments, cwd=tmp_path, MLFLOW_TRACKING_URI="")
    assert_a_mistake(done, message)


def test_a_mistake_beside_a_password_is_told_without_it(tmp_path: Path) -> None:
    """As a process, which begins anew to have the password out of its arguments."""
    write_tiny(tmp_path)
    done = regsearch("run", "tiny.yaml", "--storage", "nonsense://x:canary@y", cwd=tmp_path)
    assert_a_mistake(done, "can't open")
    assert "canary" not in done.stdout + done.stderr


def assert_a_mistake(done: Done, message: str) -> None:
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unforeseen_fault_is_told_without_a_traceback_and_exit_code_1(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    code = (
        "import sys, pipeline.config.space_file as f\n"
        "def broken(*_): raise RuntimeError('on purpose')\n"
        "f.load_space = broken\n"
        "sys.argv[1:] = ['validate', 'tiny.yaml']\n"
        "from pipeline.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError: on purpose" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_ends_with_its_exit_handlers_run_and_nothing_torn_down(tmp_path: Path) -> None:
    """What torch and MLflow have made takes up to two seconds to be freed."""
    code = (
        "import atexit, sys, threading\n"
        "class Large:\n"
        "    def __del__(self): print('freed')\n"
        "large = Large()\n"
        "main = threading.main_thread()\n"
        "threading.Thread(target=lambda: (main.join(), print('thread done'))).start()\n"
        "atexit.register(print, 'closed')\n"
        "sys.argv = ['regsearch', *sys.argv[1:]]\n"
        "from pipeline.cli import command; command()"
    )
    for arguments, printed, exit_code in (
        (["--version"], f"regsearch {__version__}\nthread done\nclosed\n", 0),
        (["validate", "absent.yaml"], "thread done\nclosed\n", 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert (done.stdout, done.returncode) == (printed, exit_code)


INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored

class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
from pipeline.__main__ import command

command()
"""


def test_an_interrupt_before_the_commands_are_loaded_ends_it_without_a_traceback(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "validate", "absent.yaml"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")
    assert "Traceback" not in done.stderr


Launched = subprocess.Popen[str] | Forked
Launch = Callable[..., Launched]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts `regsearch ...` as a process group of its own, which is gone after the test; `anew`
    with nothing loaded."""
    processes: list[Launched] = []

    def start(cwd: Path, *arguments: str, anew: bool = False, **env: str) -> Launched:
        process: Launched
        if anew:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *arguments],
                cwd=cwd,
                env=environment(**env),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        else:
            process = Forked(arguments, cwd, environment(**env))
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_until(process: Launched, text: str) -> str:
    """What it prints, up to the line with this text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"it ended without {text!r}:\n{''.join(lines)}{process.communicate()[1]}")


ENDLESS = ("--set", "training.epochs=5000", "--set", "training.early_stopping.patience=9999")


@pytest.mark.parametrize("after_sec", [0.1, 0.6, 1.2])
def test_a_run_that_is_interrupted_while_it_loads_prints_no_traceback(
    workspace: Path, launch: Launch, after_sec: float
) -> None:
    """Its workers' template loads torch meanwhile, and a Ctrl-C reaches that process, too."""
    write_tiny(workspace)
    process = launch(workspace, "run", "tiny.yaml", *ENDLESS, anew=True)
    started = psutil.Process(process.pid)
    while len(started.children()) < 2:  # the template, and what cleans up after it
        time.sleep(0.01)
    time.sleep(after_sec)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + errors


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_row_21_an_interrupted_run_gives_its_trials_back(
    workspace: Path, launch: Launch, sent: signal.Signals, code: int
) -> None:
    """Ctrl-C goes to the whole process group, workers included; SIGTERM to the one."""
    write_tiny(workspace)
    process = launch(workspace, "run", "tiny.yaml", "--workers", "2", *ENDLESS)
    read_until(process, "epoch 1/5000")
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in out + errors
    assert "the same command goes on" in out
    assert states(workspace) == (["WAITING", "WAITING"], {"KILLED"})


def test_row_21_an_interrupt_while_mlflow_loads_gives_trials_back(
    workspace: Path, launch: Launch
) -> None:
    """Workers train by then."""
    write_tiny(workspace)
    process = launch(workspace, "run", "tiny.yaml", "--workers", "2", *ENDLESS)
    running: list[str] = []
    while len(running) < 2:
        time.sleep(0.02)
        with suppress(KeyError):  # there is no such study yet
            running = owners(workspace)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + errors
    assert states(workspace)[0] == ["WAITING", "WAITING"]


def test_an_mlflow_that_cannot_be_had_ends_a_run_that_has_begun_and_nothing_is_lost(
    workspace: Path, launch: Launch
) -> None:
    write_tiny(workspace)
    wrong = {"MLFLOW_TRACKING_URI": "sqlite:///mlruns/optuna.db"}
    process = launch(workspace, "run", "tiny.yaml", "--workers", "2", *ENDLESS, **wrong)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "mlruns/optuna.db holds Optuna's studies" in " ".join(errors.split())
    assert "Traceback" not in out + errors
    assert set(states(workspace)[0]) == {"WAITING"}


def test_row_21_a_second_interrupt_leaves_at_once(workspace: Path, launch: Launch) -> None:
    """Whatever the workers do; they are killed, and their trials are found by the next run."""
    write_tiny(workspace)
    process = launch(workspace, "run", "tiny.yaml", "--workers", "1", *ENDLESS)
    read_until(process, "epoch 1/5000")
    workers = [int(owner.split("|")[2]) for owner in owners(workspace)]
    assert len(workers) == 1
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # a worker that can't answer
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for the worker
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 10  # a killed process is gone only once its memory is given back
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    # Had it waited for the worker's end, it would have given the trial back.
    assert states(workspace)[0] == ["RUNNING", "WAITING"]


def test_row_21_an_interrupt_while_workers_start_leaves_none_behind(
    workspace: Path, launch: Launch
) -> None:
    """A worker that is being forked when the signal comes must not train on alone."""
    write_tiny(workspace)
    process = launch(workspace, "run", "tiny.yaml", "--workers", "2", *ENDLESS)
    read_until(process, "study: 0 of 4")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    wait_for_group_to_end(process.pid)


def test_workers_stop_when_their_coordinator_is_killed(workspace: Path, launch: Launch) -> None:
    write_tiny(workspace)
    process = launch(workspace, "run", "tiny.yaml", "--workers", "2", *ENDLESS)
    read_until(process, "epoch 1/5000")
    process.kill()
    process.wait()
    wait_for_group_to_end(process.pid)
    assert states(workspace)[0] == ["WAITING", "WAITING"]  # they gave their trials back


def wait_for_group_to_end(group: int) -> None:
    """Until no process of a group is left."""
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "a process of the run is still there"
        time.sleep(0.1)


def owners(folder: Path) -> list[str]:
    """Who holds the running trials."""
    with closing(open_storage(f"sqlite:///{folder}/mlruns/optuna.db")) as store:
        trials = optuna.load_study(study_name="tiny", storage=store).get_trials()
    return [trial.user_attrs[OWNER] for trial in trials if trial.state.name == "RUNNING"]


def states(folder: Path) -> tuple[list[str], set[str]]:
    """The trials' states in the study's store, and the statuses of MLflow's runs."""
    with closing(open_storage(f"sqlite:///{folder}/mlruns/optuna.db")) as store:
        trials = optuna.load_study(study_name="tiny", storage=store).get_trials()
    runs = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    return sorted(trial.state.name for trial in trials), {run.info.status for run in runs}


@pytest.mark.slow
def test_ui_serves_mlflow_on_this_folders_store(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ui", "--port", "5987"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = "http://127.0.0.1:5987/ajax-api/2.0/mlflow/experiments/search"
    request = urllib.request.Request(
        url, b'{"max_results": 10}', {"Content-Type": "application/json"}
    )
    try:
        for _ in range(120):
            try:
                answer = json.loads(urllib.request.urlopen(request, timeout=5).read())
                break
            except OSError:
                time.sleep(0.5)
        names = {experiment["name"] for experiment in answer["experiments"]}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    assert "tiny" in names
