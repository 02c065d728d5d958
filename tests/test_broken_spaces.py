"""Every file of `broken/` has one mistake, and the command line tells it in one clear message.

The first line of a file says what is expected: `# expect: <line>: <part of the message>`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli

BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
WHOLE = "study: {name: s}\ndata: {kind: digits}\nmodel: {kind: vgg}\n"


def expectation(path):
    _, line, fragment = path.read_bytes().split(b"\n")[0].decode().split(":", 2)
    return int(line), fragment.strip()


def assert_one_message(errors, where, fragment):
    assert errors.startswith(f"error: {where}: ")
    assert fragment in errors
    for part in ("error:", "  rule: ", "  do:   "):
        assert errors.count(part) == 1, errors
    assert "Traceback" not in errors
    assert "pydantic" not in errors
    assert "Input should" not in errors
    assert all(line[len("  rule: ") :].strip() for line in errors.splitlines()[1:])


def complaint(monkeypatch, capsys, *arguments):
    """What `regsearch validate` writes to stderr when it refuses."""
    monkeypatch.setattr(sys, "argv", ["regsearch", "validate", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    written = capsys.readouterr()
    assert exit_.value.code == 2
    assert written.out == ""
    return written.err


def test_there_are_enough_of_them():
    assert len(BROKEN) >= 34


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_file_is_told_in_one_message(path, monkeypatch, capsys):
    line, fragment = expectation(path)
    errors = complaint(monkeypatch, capsys, path)
    assert_one_message(errors, f"{path}:{line}", fragment)


@pytest.mark.parametrize("name", ["alias_bomb", "not_utf8", "condition_cycle"])
def test_as_a_process(name):
    path = Path(__file__).parent / "broken" / f"{name}.yaml"
    line, fragment = expectation(path)
    command = [sys.executable, "-m", "pipeline", "validate", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parents[2])
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_message(done.stderr, f"{path}:{line}", fragment)


@pytest.mark.parametrize(
    ("assignment", "fragment"),
    [
        ("training.epochs", "not an assignment"),
        ("=3", "not an assignment"),
        ("search.model.width=3", "not an assignment"),
        ("training.epochs=ten", "`training.epochs` is 'ten'"),
        ("training.epochs=", "`training.epochs` is null"),
        ("training.epochs=-1", "greater than or equal to 1"),
        ("training.epoch=3", "did you mean `epochs`?"),
        ("epochs=3", "did you mean `training.epochs`?"),
        ("training.learning_rate=0.1", "did you mean `training.optimizer.learning_rate`?"),
        ("training.lr=0.1", "did you mean `training.optimizer.learning_rate`?"),
        ("regularization.weight_decay=0.1", "did you mean `training.optimizer.weight_decay`?"),
        ("optimizer.kind=sgd", "did you mean `training.optimizer`?"),
        ("augmentation.mixup=0.2", "did you mean `regularization.mixup_alpha`?"),
        ("augmentation.unheard_of=0.2", "delete `augmentation.unheard_of` or rename it"),
        ("model.kind=resnet18", "did you mean `torchvision/resnet18`?"),
        ("training.optimizer.momentum=0.9", "or choose a kind that has it"),
        ("study.finalists=3", "write `finalists:` at the top level, beside `study:`"),
        ("study.direction=maximize", "delete `study.direction` or rename it"),
        ("study.metric=accuracy", "did you mean `validation/accuracy`?"),
        ("study.constraints={ece: 0.1}", "did you mean `validation/ece`?"),
        ("study.sampler=tpe", "write it as {kind: tpe}"),
        ("regularization.dropout=[0.0, 0.7]", "has an entry under `search:`"),
        ("trainign.epochs=3", "did you mean `training`?"),
        ("training=3", "`training` is 3"),
        ("study.name.x=3", "`study.name` is a mapping"),
        ("model.kind=vgh", "did you mean `vgg`?"),
        ("study.pruner.kind=threshold", "lower, upper or both should be given"),
        ("regularization.stochastic_depth=0.2", "has no place in a `vgg` model"),
        ("augmentation.hue=0.2", "does nothing"),
        ("training.epochs=[5, 10]", "`training.epochs` is [5, 10]"),
        ("study.constraints={validation/ec: 0.05}", "did you mean `validation/ece`?"),
        ("study.metrics=[validation/accuracy, validation/acc]", "`study.metrics.1` is"),
        ("study.metrics=[validation/accuracy", "begins like a list or a mapping, but is none"),
        ("study.metrics=[a] b", "[one, two] or {key: value}: brackets in pairs"),
        ("study.constraints={a: 1, a: 2}", "`study.constraints.a` is given twice"),
        ("study.metrics=[&a x, *a]", "an anchor"),
        ("study.metrics=[a]\nmodel: {}", "begins like a list or a mapping, but is none"),
    ],
)
def test_a_wrong_assignment_is_told_as_such(assignment, fragment, tmp_path, monkeypatch, capsys):
    (tmp_path / "space.yaml").write_text(WHOLE)
    errors = complaint(monkeypatch, capsys, tmp_path / "space.yaml", "--set", assignment)
    assert_one_message(errors, f"--set {assignment}", fragment)


def test_a_missing_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "nowhere.yaml"
    errors = complaint(monkeypatch, capsys, path)
    assert_one_message(errors, path, "No such file")


def test_a_file_that_is_too_long(tmp_path, monkeypatch, capsys):
    path = tmp_path / "long.yaml"
    path.write_text(WHOLE + "#" * 64_000)
    assert_one_message(complaint(monkeypatch, capsys, path), path, "more than 64,000 bytes")


def test_several_mistakes_are_told_together_each_with_its_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "space.yaml"
    path.write_text(WHOLE + "training:\n  epochs: ten\n  batchsize: 3\n")
    errors = complaint(monkeypatch, capsys, path)
    assert errors.count("error:") == 1
    assert errors.count("rule:") == errors.count("do:") == 2
    assert f"{path}:5: `training.epochs` is 'ten'" in errors
    assert f"{path}:6: `training.batchsize`" in errors


def test_no_more_than_twenty_mistakes_are_told(tmp_path, monkeypatch, capsys):
    path = tmp_path / "space.yaml"
    path.write_text(WHOLE + "".join(f"key{i}: 1\n" for i in range(3000)))
    assert complaint(monkeypatch, capsys, path).count("rule:") == 20


def test_the_file_without_mistake_is_right(tmp_path, monkeypatch, capsys):
    """Or the files above might be refused for what they have in common."""
    path = tmp_path / "space.yaml"
    path.write_text(WHOLE)
    monkeypatch.setattr(sys, "argv", ["regsearch", "validate", str(path)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    assert capsys.readouterr().out.endswith("right.\n")
