"""What is on the screen: the live view, the log lines, and the words for numbers."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from pipeline.events import EpochEnded, TrialStarted
from pipeline.progress import LiveView, LogView, View, open_view
from pipeline.standing import Standing
from pipeline.words import describe, duration, short_name, show_metric, spell

METRICS = {
    "train/loss": 1.234,
    "validation/loss": 0.987,
    "validation/accuracy": 0.7654,
    "images_per_sec": 12345.6,
}
STANDING = Standing(10, 3, 1, 2, "validation/accuracy", 0.81, 2)
SOME_MS = 1_700_000_000_000


def started(number: int, dropout: float = 0.25, time_ms: int = SOME_MS) -> TrialStarted:
    params = {"regularization.dropout": dropout}
    return TrialStarted(number, 1, "worker 1", f"trial {number}", params, 8, time_ms)


def ended(number: int, epoch: int, time_ms: int = SOME_MS) -> EpochEnded:
    return EpochEnded(number, 1, epoch, METRICS, time_ms)


def play(view: View) -> None:
    view.study(STANDING)
    view.trial_started(started(6))
    view.epoch_ended(ended(6, 2))


def test_the_live_view_shows_counts_best_and_the_running_trial() -> None:
    console = Console(width=120, file=io.StringIO())
    view = LiveView(console, "regsearch: study x")
    play(view)
    console.print(view.render())
    screen = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in (
        "regsearch: study x",
        "4/10",
        "3 complete, 1 pruned, 2 failed",
        "81.00% (trial 2)",
        "trial 6",
        "epoch 2/8",
        "accuracy 76.54%",
        "dropout 0.25",
    ):
        assert shown in screen


def test_several_workers_trials_are_shown_side_by_side() -> None:
    console = Console(width=120, file=io.StringIO())
    view = LiveView(console, "t")
    play(view)
    view.trial_started(started(7, 0.5))
    view.epoch_ended(ended(7, 3))
    view.epoch_ended(ended(99, 3))  # begun before this run looked
    console.print(view.render())
    screen = console.file.getvalue()  # type: ignore[attr-defined]
    assert "epoch 2/8" in screen
    assert "epoch 3/8" in screen


def test_attempts_that_were_taken_up_again_are_counted_if_there_are_any() -> None:
    assert STANDING.counts() == "3 complete, 1 pruned, 2 failed"
    again = Standing(10, 3, 1, 2, "validation/accuracy", interrupted=4)
    assert again.counts() == "3 complete, 1 pruned, 2 failed, 4 interrupted"


def test_an_ended_trial_moves_to_the_latest_results() -> None:
    console = Console(width=120, file=io.StringIO())
    view = LiveView(console, "t")
    play(view)
    view.trial_ended(6, "FAIL", "the first line\na traceback", SOME_MS)
    console.print(view.render())
    screen = console.file.getvalue()  # type: ignore[attr-defined]
    assert "FAIL" in screen
    assert "the first line" in screen
    assert "a traceback" not in screen
    assert "epoch 2/8" not in screen


def test_the_time_left_follows_from_the_pace_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now[0])
    file = io.StringIO()
    view = LogView(Console(file=file))
    view.study(Standing(10, 4, 0, 0, "validation/accuracy"))  # four were there before
    now[0] = 160.0
    assert "left" not in file.getvalue()
    # Two trials in 60 s, so the four that are left take 120 s.
    view.study(Standing(10, 5, 1, 0, "validation/accuracy"))
    assert "; about 2 min left" in file.getvalue()
    # The finalists have a pace of their own.
    view.study(Standing(6, 3, 0, 0, "validation/accuracy", kind="finalists"))
    assert "left" not in file.getvalue().splitlines()[-1]


def test_a_follow_up_has_no_best_since_its_trainings_are_judged_together() -> None:
    finalists = Standing(6, 3, 0, 1, "validation/accuracy", 0.5, 2, kind="finalists")
    file = io.StringIO()
    LogView(Console(file=file)).study(finalists)
    told = file.getvalue()[9:].strip()
    assert told == "finalists: 3 of 6 trainings finished (3 complete, 1 failed)"
    live = LiveView(Console(file=file), "")
    live.study(finalists)
    file.truncate(0)
    live.console.print(live.render())
    assert "3/6" in file.getvalue()
    assert "best" not in file.getvalue()


@pytest.mark.parametrize(
    ("at_sec", "shown"),
    [
        (lambda epoch: 2 * epoch, ["1/8", "4/8", "7/8", "8/8"]),
        (
            lambda epoch: -3600 * epoch,
            [f"{epoch}/8" for epoch in range(1, 9)],
        ),  # set back each time
    ],
    ids=["a clock", "a clock that is set back"],
)
def test_quick_epochs_have_no_line_each_but_the_first_and_the_last(
    at_sec: Callable[[int], int], shown: list[str]
) -> None:
    """By when they ended: all of them may be shown at once, after a while."""
    file = io.StringIO()
    view = LogView(Console(file=file, width=40))
    view.trial_started(started(6))
    for epoch in range(1, 9):
        view.epoch_ended(ended(6, epoch, SOME_MS + 1000 * at_sec(epoch)))
    told = [line.split("epoch ")[1][:3] for line in file.getvalue().splitlines()[1:]]
    assert told == shown


def test_a_line_has_the_time_at_which_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    file = io.StringIO()
    view = LogView(Console(file=file))
    view.trial_started(started(6, time_ms=0))
    view.epoch_ended(ended(6, 1, 61_999))
    view.note("trial 6: attempt 2", 3_600_000)
    view.trial_ended(6, "PRUNED", "pruned after epoch 1", 7_322_000)
    times = [line[:8] for line in file.getvalue().splitlines()]
    monkeypatch.undo()
    time.tzset()
    assert times == ["00:00:00", "00:01:01", "01:00:00", "02:02:02"]


def test_what_takes_a_while_is_said_before_it_has_been_done() -> None:
    file = io.StringIO()
    with LogView(Console(file=file)).doing("opening MLflow"):
        assert file.getvalue()[9:] == "opening MLflow ...\n"
    live = LiveView(Console(file=file), "regsearch: study x")
    with live.doing("opening MLflow"):
        live.console.print(live.render())
    assert file.getvalue().endswith("regsearch: study x\nopening MLflow ...\n")
    live.console.print(live.render())
    assert file.getvalue().endswith("regsearch: study x\n")


def test_log_lines_are_plain_and_one_an_event() -> None:
    file = io.StringIO()
    view = open_view(Console(file=file, width=40), "regsearch: study x")
    assert isinstance(view, LogView)
    play(view)
    view.trial_ended(6, "PRUNED", "pruned after epoch 2", SOME_MS)
    lines = [line[9:] for line in file.getvalue().splitlines()]
    assert lines == [
        "regsearch: study x",
        "study: 4 of 10 trials finished (3 complete, 1 pruned, 2 failed); "
        "best validation/accuracy: 81.00% (trial 2)",
        "trial 6: dropout 0.25",
        "trial 6: epoch 2/8: train loss 1.234, validation loss 0.987, accuracy 76.54%, "
        "12,346 images/s",
        "trial 6: PRUNED: pruned after epoch 2",
    ]


def test_loading_is_logged_by_tenths() -> None:
    file = io.StringIO()
    view = LogView(Console(file=file))
    for done in range(101):
        view.loading("decoding", done, 100)
    assert len(file.getvalue().splitlines()) == 11


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.2, "3 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (11_100, "3 h 5 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_values_are_short_and_names_are_clear() -> None:
    assert [spell(v) for v in (None, True, False, 3, 0.123456, 1e-5, "cosine")] == [
        "-",
        "true",
        "false",
        "3",
        "0.123",
        "1e-05",
        "cosine",
    ]
    assert short_name("training.optimizer.weight_decay") == "weight_decay"
    assert short_name("lr_schedule.kind") == "lr_schedule.kind"
    assert describe({"a.b": 1, "lr_schedule.gamma": 0.5}) == "b 1, lr_schedule.gamma 0.5"
    assert show_metric("validation/accuracy", 0.98765) == "98.77%"
    assert show_metric("validation/loss", 0.98765) == "0.9877"
    assert show_metric("validation/ece", 0.98765) == "0.9877"
    assert show_metric("validation/brier", 0.98765) == "0.9877"
    assert show_metric("validation/loss", None) == "-"
