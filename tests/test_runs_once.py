"""However many processes look for a run at once, there is one in the end, and all write to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.tracking import connect
from pipeline.tracking.finding import (
    find_or_make_experiment,
    find_or_make_run,
    find_runs,
    search_runs,
)

IDENTITY = {"regsearch.kind": "trial", "regsearch.trial": "0"}
pytestmark = pytest.mark.usefixtures("workspace")


class Meddled(MlflowClient):
    """A client before whose first creation of a run something happens; it is real otherwise."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__()
        self._before = before

    def create_run(self, *args: Any, **kwargs: Any) -> Run:
        before, self._before = self._before, lambda: None
        before()
        return super().create_run(*args, **kwargs)


def find_or_make(client: MlflowClient, maker: str, start_time_ms: int = 1_000) -> str:
    experiment_id = find_or_make_experiment(client, "s")
    run = find_or_make_run(
        client, experiment_id, IDENTITY, maker=maker, start_time_ms=start_time_ms
    )
    return str(run.info.run_id)


def make(client: MlflowClient, maker: str, start_time_ms: int = 1_000) -> str:
    tags = {**IDENTITY, "regsearch.maker": maker}
    experiment_id = find_or_make_experiment(client, "s")
    return str(client.create_run(experiment_id, start_time_ms, tags).info.run_id)


def existing(client: MlflowClient) -> list[str]:
    runs = find_runs(client, find_or_make_experiment(client, "s"), IDENTITY)
    return [run.info.run_id for run in runs]


def test_a_run_is_made_once_and_found_then() -> None:
    client = connect()
    made = find_or_make(client, "a")
    assert find_or_make(client, "a") == find_or_make(client, "b") == made
    assert existing(client) == [made]


def test_eight_that_find_nothing_at_once_agree_on_one() -> None:
    gate = threading.Barrier(8)
    found: list[str] = []

    def start(maker: str) -> None:
        found.append(find_or_make(Meddled(gate.wait), maker))

    connect()
    find_or_make_experiment(MlflowClient(), "s")
    threads = [threading.Thread(target=start, args=(f"maker {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert existing(MlflowClient()) == [found[0]]
    assert set(found) == {found[0]}


@pytest.mark.parametrize("start_time_ms", [1, 2_000])
def test_who_comes_late_gives_way_to_who_was_alone(start_time_ms: int) -> None:
    """Even where the late one's run sorts first: the other has no reason to look again."""
    client = connect()
    first: list[str] = []
    late = Meddled(lambda: first.append(find_or_make(client, "early")))
    assert find_or_make(late, "late", start_time_ms) == first[0]
    assert existing(client) == first


def test_a_run_whose_creation_was_not_answered_is_given_up_for_anothers() -> None:
    client = connect()
    make(client, "me", start_time_ms=1)
    other = make(client, "another")
    assert find_or_make(client, "me") == other
    assert existing(client) == [other]


def test_of_two_unanswered_ones_one_stays() -> None:
    client = connect()
    first = make(client, "me")
    make(client, "me", start_time_ms=2_000)
    assert find_or_make(client, "me") == first
    assert existing(client) == [first]


def test_everybody_takes_the_first_of_what_killed_processes_left() -> None:
    client = connect()
    first = make(client, "dead 1", start_time_ms=1)
    second = make(client, "dead 2", start_time_ms=2)
    assert find_or_make(client, "me") == first
    assert existing(client) == [first, second]


def test_a_run_that_is_made_but_not_found_is_told() -> None:
    class Blind(MlflowClient):
        def create_run(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
            return None

    connect()
    with pytest.raises(MlflowException, match="is not found"):
        find_or_make(Blind(), "me")


def test_an_experiment_that_another_process_makes_meanwhile_is_taken() -> None:
    class Slow(MlflowClient):
        def create_experiment(self, name: str, *args: Any, **kwargs: Any) -> str:
            MlflowClient().create_experiment(name)
            return str(super().create_experiment(name, *args, **kwargs))

    connect()
    made = find_or_make_experiment(Slow(), "s")
    assert find_or_make_experiment(MlflowClient(), "s") == made


def test_a_search_goes_over_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.finding._PAGE", 2)
    client = connect()
    made = {make(client, "me") for _ in range(5)}
    experiment_id = find_or_make_experiment(client, "s")
    assert {run.info.run_id for run in search_runs(client, experiment_id, IDENTITY)} == made
    assert list(search_runs(client, experiment_id, {"regsearch.trial": "1"})) == []
