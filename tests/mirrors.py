"""Journals to deliver, and what MLflow has of them afterwards."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.events import EpochEnded, Event, TrialEnded, TrialStarted, TrialState
from pipeline.journal import JournalWriter, journal_folder
from pipeline.tracking import DatasetInfo, Mirror, Report, StudyFacts, connect
from tests.template import forked

DIGITS = DatasetInfo("digits", "0123456789abcdef", {"kind": "digits"}, {"num_images": 1797})


def start_eight() -> tuple[str, str]:
    """Has eight processes connect to the store at once: their exit codes, and their complaints."""
    return forked(eight).communicate()


def eight() -> None:
    """In a process without threads, and so one that can be forked."""
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(8)

    def start() -> None:
        gate.wait()
        connect()

    processes = [context.Process(target=start) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print([process.exitcode for process in processes])


def facts(uuid: str = "id-1", **changes: Any) -> StudyFacts:
    return StudyFacts(**{"name": "my study", "uuid": uuid, "dataset": DIGITS, **changes})


def open_mirror(uuid: str = "id-1", **changes: Any) -> Mirror:
    return Mirror.open(facts(uuid, **changes), journal_folder(uuid))


def started(trial: int, attempt: int = 1, time_ms: int = 1_000, **params: Any) -> TrialStarted:
    return TrialStarted(trial, attempt, f"worker {attempt}", f"trial {trial}", params, 3, time_ms)


def epoch(
    trial: int, number: int, loss: float = 0.5, attempt: int = 1, time_ms: int | None = None
) -> EpochEnded:
    when = 1_000 + number if time_ms is None else time_ms
    return EpochEnded(trial, attempt, number, {"loss": loss}, when)


def ended(
    trial: int, state: TrialState = "COMPLETE", attempt: int = 1, reason: str = "", at: int = 2_000
) -> TrialEnded:
    return TrialEnded(trial, attempt, state, reason, None, at)


def lived(trial: int, num_epochs: int = 3) -> list[Event]:
    """All that is told of a trial that goes well; its loss is 1, 1/2, 1/3 ..."""
    epochs = [epoch(trial, number, 1 / number) for number in range(1, num_epochs + 1)]
    return [started(trial, x=trial), *epochs, ended(trial)]


def write(events: Iterable[Event], uuid: str = "id-1") -> None:
    """Appends to the study's journal, as a process of its own would."""
    writer = JournalWriter(journal_folder(uuid))
    for event in events:
        writer.put(event)
    writer.close()


def deliver(uuid: str = "id-1", events: Iterable[Event] = ()) -> Report:
    """Delivers the journal, with these events at its end, as a process of its own would."""
    write(events, uuid)
    mirror = open_mirror(uuid)
    assert mirror.flush(120)
    return mirror.close(60)


def all_runs(name: str = "my study") -> list[Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def trial_runs(name: str = "my study") -> dict[int, Run]:
    """The trials' runs; fails if a trial has two."""
    runs = [run for run in all_runs(name) if run.data.tags["regsearch.kind"] == "trial"]
    by_number = {int(run.data.tags["regsearch.trial"]): run for run in runs}
    assert len(by_number) == len(runs)
    return by_number


def curve(run: Run, metric: str = "loss") -> list[tuple[int, float]]:
    history = MlflowClient().get_metric_history(run.info.run_id, metric)
    return [(point.step, point.value) for point in history]


def picture(name: str = "my study") -> list[tuple[Any, ...]]:
    """All that a user can see of the runs, but for their ids."""
    return sorted(
        (
            run.info.run_name,
            run.info.status,
            run.info.start_time if "regsearch.trial" in run.data.tags else None,
            run.info.end_time,
            sorted(run.data.params.items()),
            sorted(
                (tag, value)
                for tag, value in run.data.tags.items()
                if tag not in ("mlflow.parentRunId", "regsearch.maker")
            ),
            sorted((metric, curve(run, metric)) for metric in run.data.metrics),
        )
        for run in all_runs(name)
    )


def journal_size(uuid: str = "id-1") -> int:
    return sum(path.stat().st_size for path in Path(journal_folder(uuid)).glob("*.jsonl"))
