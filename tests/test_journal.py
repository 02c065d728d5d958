"""The journal keeps what it was given, whatever happens to the process, the disk or the bits."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.events import (
    KINDS,
    EpochEnded,
    Event,
    Note,
    StudyEnded,
    StudyProgress,
    StudyStarted,
    TrialEnded,
    TrialRequeued,
    TrialScored,
    TrialStarted,
    decode,
    encode,
)
from pipeline.journal import JournalReader, JournalWriter, journal_folder

WEIGHTS = {"weights.json": [{"layer": "0", "mean_abs": 0.5, "num_weights": 6}]}

EVENTS: list[Event] = [
    TrialStarted(
        trial=7,
        attempt=2,
        worker="worker 1",
        name="trial 7",
        params={"a.b": 1e-5, "n": 3, "on": True, "kind": "step\n", "off": None},
        num_epochs=30,
        time_ms=1_700_000_000_000,
        tags={"regsearch.baseline": "récipe"},
    ),
    EpochEnded(7, 2, 1, {"loss": 0.5, "up": math.inf, "down": -math.inf}, 1),
    TrialScored(
        7, 2, 3, {"selection/accuracy": 0.5}, {"regsearch.diagnosis": "healthy"}, 2, WEIGHTS
    ),
    TrialEnded(7, 2, "PRUNED", "worse than the median", 0.25, 2),
    TrialRequeued(7, 2, "killed", 3),
    Note("a line", 4),
    StudyProgress(12, {"best": 1.0}, 5, {"regsearch.pruning_audit": "no false prune"}),
    StudyStarted(6),
    StudyEnded("KILLED", 7),
]

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from pipeline.events import EpochEnded
from pipeline.journal import JournalWriter
writer = JournalWriter(Path(sys.argv[1]))
for epoch in range(1, int(sys.argv[2])):
    writer.put(EpochEnded(int(sys.argv[3]), 1, epoch, {"loss": 0.5}, epoch))
"""


def epoch(number: int, time_ms: int | None = None) -> Event:
    return EpochEnded(0, 1, number, {"loss": 0.5}, number if time_ms is None else time_ms)


def write(folder: Path, *events: Event) -> Path:
    """Writes them to a file of their own."""
    before = set(folder.glob("*"))
    writer = JournalWriter(folder)
    for event in events:
        writer.put(event)
    writer.close()
    [path] = set(folder.glob("*")) - before
    return path


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    line = encode(event)
    assert line.isascii()
    assert "\n" not in line
    assert decode(line) == event


def test_a_line_from_before_there_were_tables_is_read() -> None:
    line = '{"kind": "trial_scored", "trial": 7, "attempt": 2, "epoch": 3, "metrics": {}, '
    line += '"tags": {}, "time_ms": 2}'
    assert decode(line) == TrialScored(7, 2, 3, {}, {}, 2)


def test_every_kind_of_event_is_among_them() -> None:
    assert {type(event) for event in EVENTS} == set(KINDS.values())


def test_a_value_that_is_no_number_stays_one() -> None:
    again = decode(encode(EpochEnded(0, 1, 1, {"loss": math.nan}, 1)))
    assert isinstance(again, EpochEnded)
    assert math.isnan(again.metrics["loss"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "study_started"}',
        '{"kind": "study_started", "time_ms": "now"}',
        '{"kind": "study_started", "time_ms": 1, "more": 2}',
        '{"kind": "study_ended", "time_ms": 1, "status": "RUNNING"}',
        '{"kind": "study_progress", "time_ms": 1, "step": 1, "metrics": {"a": "b"}}',
        '{"kind": "party", "time_ms": 1}',
        '{"kind": "trial_scored", "trial": 0, "attempt": 1, "epoch": 1, "metrics": {}, "tags": {}, '
        '"time_ms": 1, "tables": {"a.json": [{"layer": [1]}]}}',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(text)


def test_a_reader_gives_what_is_new_of_all_files_by_time(tmp_path: Path) -> None:
    folder = journal_folder("a-study", tmp_path)
    assert folder == tmp_path / "a-study"
    reader = JournalReader(folder)
    assert reader.read() == []  # there is no folder yet
    first, second = JournalWriter(folder), JournalWriter(folder)
    first.put(epoch(1, time_ms=10))
    first.put(epoch(2, time_ms=30))
    second.put(epoch(3, time_ms=20))
    assert reader.read() == [epoch(1, 10), epoch(3, 20), epoch(2, 30)]
    assert reader.read() == []
    second.put(epoch(4, time_ms=5))
    assert reader.read() == [epoch(4, 5)]
    again = JournalReader(folder, reader.positions)
    first.put(epoch(5, time_ms=40))
    assert again.read() == reader.read() == [epoch(5, 40)]
    assert len(JournalReader(folder).read()) == 5
    first.close()
    second.close()


def test_events_of_one_time_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path, *(epoch(number, time_ms=1) for number in range(20)))
    assert JournalReader(tmp_path).read() == [epoch(number, 1) for number in range(20)]


def test_no_file_is_made_for_nothing_and_a_new_one_after_closing(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "new")
    writer.sync()
    writer.close()
    assert not (tmp_path / "new").exists()
    for number in (1, 2):
        writer.put(epoch(number))
        writer.sync()
        writer.close()
    assert len(list((tmp_path / "new").glob("*.jsonl"))) == 2
    assert JournalReader(tmp_path / "new").read() == [epoch(1), epoch(2)]


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, epoch(1), epoch(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    reader = JournalReader(tmp_path)
    assert reader.read() == [epoch(1)]
    assert reader.read() == []
    path.write_bytes(whole)
    assert reader.read() == [epoch(2)]
    assert reader.num_damaged == 0


def test_a_flipped_bit_costs_at_most_the_lines_it_is_in(tmp_path: Path) -> None:
    events = [epoch(number) for number in range(1, 5)]
    path = write(tmp_path, *events)
    whole = path.read_bytes()
    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << (place % 8)
        path.write_bytes(spoilt)
        reader = JournalReader(tmp_path)
        left = reader.read()
        assert all(event in events for event in left)
        lost = len(events) - len(left)
        newline = whole[place : place + 1] == b"\n"  # it joins two lines, or leaves the last open
        assert lost == 1 or (newline and lost == 2)
        assert reader.num_damaged >= 1 or place == len(whole) - 1


def test_a_file_that_lost_its_end_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path, epoch(1), epoch(2))
    reader = JournalReader(tmp_path)
    assert len(reader.read()) == 2
    path.write_bytes(path.read_bytes()[:-10])
    assert reader.read() == [epoch(1)]


def test_who_skips_to_the_end_sees_only_what_comes(tmp_path: Path) -> None:
    half = write(tmp_path, epoch(1), epoch(2))
    long = write(tmp_path, *(epoch(number) for number in range(1, 100)))
    whole = half.read_bytes()
    half.write_bytes(whole[:-10])
    with long.open("ab") as file:
        file.write(b"0" * 10_000)  # no end of a line for longer than a block
    reader = JournalReader(tmp_path)
    reader.skip_to_end()
    assert reader.read() == []
    half.write_bytes(whole)
    write(tmp_path, epoch(3))
    assert reader.read() == [epoch(2), epoch(3)]
    assert reader.num_damaged == 0


def test_skipping_where_nothing_is_skips_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"half")
    reader = JournalReader(tmp_path)
    reader.skip_to_end()
    JournalReader(tmp_path / "not there").skip_to_end()
    assert reader.positions == {"a.jsonl": 0}


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from pipeline.events import EpochEnded
from pipeline.journal import JournalWriter
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
writer = JournalWriter(Path(sys.argv[1]))
event = lambda epoch: EpochEnded(0, 1, epoch, {"loss": 0.5}, epoch)
taken = []
for epoch in range(1, 20):
    try:
        writer.put(event(epoch))
        taken.append(epoch)
    except OSError as error:
        print(error.errno)
        break
try:
    writer.put(event(100))
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.put(event(epoch))
writer.put(event(epoch + 1))
print(*taken, epoch, epoch + 1)
"""


def test_after_a_full_disk_the_next_event_is_whole(tmp_path: Path) -> None:
    """A limit on the file's size cuts a write short, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    *errors, taken = done.stdout.splitlines()
    assert errors == [str(errno.EFBIG)] * 2
    reader = JournalReader(tmp_path)
    assert reader.read() == [epoch(int(number)) for number in taken.split()]
    assert reader.num_damaged == 1  # the line that was cut short
    [path] = tmp_path.glob("*.jsonl")
    assert path.stat().st_size > 1000


def lines_of(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), "1000000"]
    started = [subprocess.Popen([*command, str(trial)]) for trial in (0, 1)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_two_writers_killed_at_full_speed_leave_whole_events(
    tmp_path: Path, writers: list[subprocess.Popen[bytes]]
) -> None:
    reader, events = JournalReader(tmp_path), []
    while not all(sum(e.trial == t for e in events) > 2_000 for t in (0, 1)):  # type: ignore[attr-defined]
        assert all(process.poll() is None for process in writers)
        events += reader.read()  # while they write
        time.sleep(0.05)
    for process in writers:
        process.kill()
        process.wait()
    events += reader.read()
    assert reader.num_damaged == 0
    for trial in (0, 1):
        epochs = [e.epoch for e in events if e.trial == trial]  # type: ignore[attr-defined]
        assert epochs == list(range(1, len(epochs) + 1))
    assert len(events) == lines_of(tmp_path)

    write(tmp_path, epoch(7))
    assert reader.read() == [epoch(7)]
    assert len(JournalReader(tmp_path).read()) == len(events) + 1


def test_threads_share_a_writer(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)

    def put(trial: int) -> None:
        for number in range(200):
            writer.put(EpochEnded(trial, 1, number, {"loss": 0.5}, number))

    threads = [threading.Thread(target=put, args=(trial,)) for trial in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    reader = JournalReader(tmp_path)
    assert len(reader.read()) == 1_600
    assert reader.num_damaged == 0
    assert len(list(tmp_path.glob("*"))) == 1


def test_a_journal_that_cannot_be_read_is_told_and_read_later(tmp_path: Path) -> None:
    write(tmp_path, epoch(1))
    blocked = tmp_path / "zzz.jsonl"
    blocked.mkdir()  # a name that can't be read, even by root
    reader = JournalReader(tmp_path)
    with pytest.raises(IsADirectoryError):
        reader.read()
    blocked.rmdir()
    assert reader.read() == [epoch(1)]
