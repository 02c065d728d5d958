"""Contract row 30: the UI answers this machine alone, under the names that it knows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tracking.ui import server_command
from tests.commands import environment

START_SEC = 180.0
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[int]:
    """`regsearch ui` on a free port."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ui", "--port", str(port)],
        cwd=folder,
        env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_WORKERS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + START_SEC
    while True:
        try:
            status(port)
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield port
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def status(port: int, **headers: str) -> int:
    """Of a call that a page in a browser could make."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{SEARCH}",
        b'{"max_results": 1}',
        {"Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_it_answers_this_machine(port: int) -> None:
    assert status(port, Host=f"127.0.0.1:{port}") == 200
    assert status(port, Host=f"localhost:{port}") == 200
    assert status(port, Origin=f"http://127.0.0.1:{port}") == 200


@pytest.mark.parametrize(
    "host", ["evil.org", "192.168.evil.org", "10.evil.org", "localhost.evil.org"]
)
def test_it_does_not_answer_to_names_that_it_does_not_know(port: int, host: str) -> None:
    """MLflow's own list would let two of them in."""
    assert status(port, Host=f"{host}:{port}") == 403


def test_pages_of_others_cannot_change_anything(port: int) -> None:
    assert status(port, Origin="http://evil.org") == 403


def test_a_network_address_needs_the_names_it_is_reached_by() -> None:
    with pytest.raises(UserError, match="no name is allowed"):
        server_command("0.0.0.0", 5000, [])
    command = server_command("0.0.0.0", 5000, ["lab.example", "[::1]:7"])
    hosts = command[command.index("--allowed-hosts") + 1].split(",")
    assert hosts == [
        "127.0.0.1:5000",
        "localhost:5000",
        "[::1]:5000",
        "lab.example:5000",
        "[::1]:7",
    ]
