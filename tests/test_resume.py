"""A training that was broken off ends as if it had not been: bit for bit, in another process."""

from __future__ import annotations

import copy
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.state_file import load_state, save_state
from pipeline.training.loop import Trainer
from pipeline.training.resuming import OtherTrainingError
from tests import resuming
from tests.resuming import ADAMW, CASES, EPOCHS, KILLED, Case, outcome, outcome_path, stops
from tests.template import forked
from tests.trainings import fit, net, random_data, recipe, trainer, untimed


@cache
def unbroken(name: str) -> dict[str, Any]:
    """What a case comes to when nothing happens to it, and nothing is saved."""
    training = CASES[name].trainer()
    return outcome(training, *fit(training))


def run(folder: Path, action: str) -> int:
    """Do an action of `tests.resuming` in a process of its own; the exit status."""
    process = forked(resuming.main, str(folder), action)
    told = process.communicate()
    code = process.wait()
    assert code <= 0, told
    return code


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the outcomes of all the trainings that were gone on with."""
    folder = tmp_path_factory.mktemp("resumed")
    assert run(folder, "die") == -signal.SIGKILL
    assert run(folder, "go_on") == 0
    return folder


def bits(value: Tensor) -> tuple[torch.dtype, bytes]:
    return value.dtype, value.contiguous().numpy().tobytes()


def assert_goes_on(resumed: dict[str, Any], unbroken: dict[str, Any], epoch: int) -> None:
    """A training that went on after `epoch` is the rest of the unbroken one."""
    assert untimed(resumed["curve"]) == untimed(unbroken["curve"])[epoch:]
    for name in ("best_epoch", "num_epochs"):
        assert resumed[name] == unbroken[name]
    assert untimed([resumed["metrics"]]) == untimed([unbroken["metrics"]])
    assert resumed["weights"].keys() == unbroken["weights"].keys()
    for name, value in unbroken["weights"].items():
        assert bits(resumed["weights"][name]) == bits(value), name


@pytest.mark.parametrize("name", CASES)
def test_a_training_goes_on_in_another_process_as_if_unbroken(resumed: Path, name: str) -> None:
    expected = unbroken(name)
    for epoch in stops(expected["num_epochs"]):
        assert_goes_on(load_state(outcome_path(name, epoch, resumed)), expected, epoch)


def test_a_training_that_was_killed_during_an_epoch_repeats_only_that_one(resumed: Path) -> None:
    went_on = load_state(outcome_path(KILLED, 0, resumed))
    assert len(went_on["curve"]) == EPOCHS - 3
    assert_goes_on(went_on, unbroken(KILLED), epoch=3)


def test_the_cases_do_what_their_names_say() -> None:
    def curve(name: str, metric: str) -> list[float]:
        return [epoch[metric] for epoch in unbroken(name)["curve"]]

    rates = curve("plateau", "learning_rate")
    assert rates[0] == 0.01
    assert any(rate == pytest.approx(0.003) for rate in rates)
    assert min(curve("everything", "learning_rate")) < 0.01
    stopped = unbroken("early stopping")
    assert stopped["best_epoch"] < stopped["num_epochs"] < EPOCHS
    assert max(curve("penalties and clipped gradients", "gradient_norm")) > 0.5
    assert len({tuple(curve(name, "validation/loss")) for name in CASES}) == len(CASES)


# What may be done with a state


def test_a_state_is_complete_when_the_epoch_is_reported() -> None:
    """Taken in `report`, it is the state after it: nothing happens in between."""
    training, taken = trainer(recipe(epochs=2)), []
    training.fit(lambda *_: taken.append(copy.deepcopy(training.state_dict())))
    assert [state["epoch"] for state in taken] == [1, 2]
    assert [state["step"]["rule"]["num_updates"] for state in taken] == [4, 8]
    assert [state["early_stopping"]["best_epoch"] > 0 for state in taken] == [True, True]


def test_a_training_at_its_end_reports_nothing_and_has_its_best_weights() -> None:
    finished, states = trainer(recipe(epochs=3)), []
    result = finished.fit(lambda *_: states.append(copy.deepcopy(finished.state_dict())))
    again = trainer(recipe(epochs=3))
    again.load_state_dict(states[-1])
    assert again.fit(lambda *_: pytest.fail("reported")) == result
    assert not again.model.training
    for name, value in finished.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_trainer_that_was_used_can_take_over_a_state() -> None:
    def states(training: Trainer) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        training.fit(lambda *_: found.append(copy.deepcopy(training.state_dict())))
        return found

    class Fault(nn.ReLU):
        """Fails in the second epoch, with part of its sums gathered."""

        def forward(self, x: Tensor) -> Tensor:
            if used.epoch == 2 and used.step.position == 2:
                raise ZeroDivisionError
            return super().forward(x)

    saved = states(trainer(recipe(epochs=2)))[0]
    expected = fit(trainer(recipe(epochs=2)))[1][1]
    model = net()
    assert isinstance(model, nn.Sequential)
    model[3] = Fault()
    used = trainer(recipe(epochs=2), model)
    with pytest.raises(ZeroDivisionError):
        fit(used)
    model[3] = nn.ReLU()
    used.load_state_dict(saved)
    assert untimed(fit(used)[1]) == untimed([expected])


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Case(net={"kind": "vgg", "width": 8}), "weight "),
        (Case(net={"kind": "vgg", "width": 4, "norm": "group"}), "weight "),
        (
            Case(optimizer={**ADAMW, "learning_rate": 0.02}),
            "training.optimizer.learning_rate is 0.01, and here 0.02$",
        ),
        (Case(regularization={"ema_decay": 0.9}), "regularization.ema_decay is 0.0, and here 0.9$"),
        (Case(augmentation={"strength": 0.1}), "augmentation.strength is 0.0, and here 0.1$"),
        (Case(schedule={"kind": "constant"}), "lr_schedule.kind is 'cosine', and here 'constant'$"),
    ],
)
def test_a_state_of_another_training_is_refused(other: Case, difference: str) -> None:
    training, found = other.trainer(), CASES["plain"].trainer().state_dict()
    before = copy.deepcopy(training.state_dict())
    with pytest.raises(
        OtherTrainingError, match=f"^the state is of another training: {difference}"
    ):
        training.load_state_dict(found)
    assert_same(training.state_dict(), before)


def test_a_state_of_other_images_and_what_is_no_state_are_refused() -> None:
    training = trainer(recipe())
    other = trainer(recipe(), data=random_data(num_train=40)).state_dict()
    with pytest.raises(OtherTrainingError, match="images is 40, and here 32"):
        training.load_state_dict(other)
    with pytest.raises(OtherTrainingError, match="layout is absent"):
        training.load_state_dict({"weight": torch.zeros(3)})


def test_a_state_on_disk_is_the_state(tmp_path: Path) -> None:
    training = CASES["everything"].trainer()
    training.fit(lambda *_: save_state(tmp_path / "state", training.state_dict()))
    again = CASES["everything"].trainer()
    again.load_state_dict(load_state(tmp_path / "state"))
    save_state(tmp_path / "again", again.state_dict())
    assert_same(load_state(tmp_path / "again"), load_state(tmp_path / "state"))


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Two nested states are equal, to the bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert_same(dict(enumerate(one)), dict(enumerate(other)), where)
    elif isinstance(one, Tensor):
        assert bits(one) == bits(other), where
    else:
        assert one == other, where


@pytest.mark.gpu
def test_chance_goes_on_on_a_gpu(tmp_path: Path) -> None:
    from pipeline.training.resuming import default_streams, set_default_streams

    device = torch.device("cuda")
    torch.manual_seed(1)
    torch.rand(5, device=device)
    save_state(tmp_path / "streams", default_streams(device))
    expected = torch.rand(5, device=device), torch.rand(5)
    set_default_streams(load_state(tmp_path / "streams"), device)
    assert torch.equal(torch.rand(5, device=device), expected[0])
    assert torch.equal(torch.rand(5), expected[1])
