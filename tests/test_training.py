"""The training: who is augmented, what is scored, what chance decides, when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.augmentation.augmentation import Augmentation
from pipeline.datasets import ImageSet, Splits
from pipeline.training import loop
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.loop import NonFiniteLossError, Trainer
from pipeline.training.prediction import predict
from tests.trainings import (
    STANDS_STILL,
    Curves,
    Spy,
    fit,
    net,
    random_data,
    recipe,
    trainer,
    untimed,
)

# Who is augmented, and in which mode


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The batches that were augmented, by position in the training split."""
    seen: list[Tensor] = []
    original: Callable[..., Tensor] = Augmentation.apply

    def spy(self: Augmentation, images: Tensor, indices: Tensor, *rest: Any) -> Tensor:
        assert images.max() < 128, "an image that isn't the training split's"
        seen.append(indices)
        return original(self, images, indices, *rest)

    monkeypatch.setattr(Augmentation, "apply", spy)
    return seen


def test_only_training_images_are_augmented_and_scoring_is_in_eval_mode(
    augmented: list[Tensor],
) -> None:
    spy, data = Spy(net()).eval(), random_data()
    fit(trainer(recipe(epochs=2, sections={"augmentation": {"strength": 1.0}}), spy, data))
    assert sum(map(len, augmented)) == 2 * len(data.train)
    shown = {mode: [batch for m, batch in spy.seen if m is mode] for mode in (True, False)}
    assert sum(map(len, shown[True])) == 2 * len(data.train)
    expected = [data.validation.images, data.probe.images] * 2
    for batch, images in zip(shown[False], expected, strict=True):
        torch.testing.assert_close(batch, (images / 255 - 0.5) / 0.5)


def test_training_images_are_normalised_like_those_that_are_scored() -> None:
    spy, data = Spy(net()), random_data()
    fit(trainer(recipe(batch_size=32), spy, data))
    shown = spy.seen[0][1].flatten().sort().values
    torch.testing.assert_close(
        shown, ((data.train.images / 255 - 0.5) / 0.5).flatten().sort().values
    )


def test_augmentation_leaves_the_scores_of_the_same_weights_alone() -> None:
    def scored(strength: float) -> dict[str, float]:
        torch.manual_seed(0)
        # no batch norm: training images would leave their mark on its statistics
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        sections = {"augmentation": {"strength": strength}}
        return fit(trainer(recipe(optimizer=STANDS_STILL, sections=sections), model))[1][0]

    plain, changed = scored(0.0), scored(1.0)
    assert plain["train/loss"] != changed["train/loss"]
    clean = [key for key in plain if key.startswith(("validation/", "train/clean", "general"))]
    assert len(clean) == 8
    assert {key: plain[key] for key in clean} == {key: changed[key] for key in clean}


def test_the_gap_is_the_clean_probe_minus_validation() -> None:
    sections = {"regularization": {"dropout": 0.5}, "augmentation": {"strength": 1.0}}
    data, model = random_data(), net(rate=0.5)

    def accuracy(part: DeviceSplit) -> float:
        logits = predict(model, part.images, data.mean, data.std, torch.float32)
        return (logits.argmax(dim=1) == part.labels).float().mean().item()

    def check(_: int, metrics: Mapping[str, float]) -> None:
        gap = accuracy(data.probe) - accuracy(data.validation)
        assert metrics["generalization_gap"] == pytest.approx(gap)
        assert metrics["train/clean_accuracy"] == pytest.approx(accuracy(data.probe))

    assert trainer(recipe(epochs=3, sections=sections), model, data).fit(check).num_epochs == 3


def test_the_probe_is_drawn_from_the_training_images_once_for_the_study() -> None:
    def images(count: int, value: int) -> ImageSet:
        return ImageSet(np.full((count, 1, 8, 8), value, np.uint8), np.arange(count))

    parts = images(30, 100), images(9, 200), images(5, 250)
    splits = Splits(*parts, ("a", "b"), "", "", *np.full((2, 1), 0.5, np.float32))
    probes = [DeviceData.from_splits(splits, torch.device("cpu"), seed).probe for seed in (0, 0, 1)]
    assert set(probes[0].images.flatten().tolist()) == {100}
    assert len(set(probes[0].labels.tolist())) == len(splits.validation)
    assert probes[0].labels.tolist() == probes[1].labels.tolist() != probes[2].labels.tolist()


# Chance


def test_a_trial_repeats_itself_and_differs_from_the_next() -> None:
    def curves(trial: int) -> Curves:
        regularization = {"dropout": 0.5, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
        sections = {"regularization": regularization, "augmentation": {"strength": 1.0}}
        model = net(rate=0.5)
        torch.seed()  # whatever chance came before is forgotten
        return untimed(fit(trainer(recipe(epochs=3, sections=sections), model, trial=trial))[1])

    assert curves(0) == curves(0)
    assert curves(0) != curves(1)


# Batches


def test_the_incomplete_last_batch_is_left_out_with_other_images_each_epoch(
    augmented: list[Tensor],
) -> None:
    fit(trainer(recipe(epochs=3, batch_size=4), data=random_data(num_train=10)))
    assert [len(indices) for indices in augmented] == [4] * 6
    epochs = [set(torch.cat(augmented[i : i + 2]).tolist()) for i in (0, 2, 4)]
    assert all(len(epoch) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_a_batch_is_no_larger_than_the_training_split(augmented: list[Tensor]) -> None:
    _, [epoch] = fit(trainer(recipe(batch_size=100), data=random_data(num_train=10)))
    assert sorted(torch.cat(augmented).tolist()) == list(range(10))
    assert 0 <= epoch["train/accuracy"] <= 1


# Learning rate


def learning_rates(schedule: Mapping[str, Any], epochs: int) -> list[float]:
    how = recipe(epochs, 32, STANDS_STILL, {"lr_schedule": schedule})
    return [epoch["learning_rate"] * 1e30 for epoch in fit(trainer(how))[1]]


def test_the_learning_rate_follows_the_schedule() -> None:
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert learning_rates({"kind": "cosine"}, epochs=4) == pytest.approx(expected)


def test_the_learning_rate_is_cut_on_a_plateau_of_the_validation_loss() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images: Tensor) -> Tensor:
            return self.weight * images.new_ones(len(images), 3)

    schedule = {"kind": "plateau", "patience_epochs": 1, "gamma": 0.1}
    how = recipe(6, 32, STANDS_STILL, {"lr_schedule": schedule})
    _, curves = fit(trainer(how, Still()))
    rates = [epoch["learning_rate"] * 1e30 for epoch in curves]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])
    assert [epoch["train/loss"] for epoch in curves] == pytest.approx([math.log(3)] * 6)


# The end


def test_early_stopped_weights_are_those_of_a_plain_run_of_that_many_epochs() -> None:
    def training(epochs: int, patience: int) -> Trainer:
        how = recipe(
            epochs,
            sections={"augmentation": {"strength": 1.0}},
            early_stopping={"patience": patience},
        )
        return trainer(how, metric="validation/loss")

    stopped = training(epochs=60, patience=3)
    result, curves = fit(stopped)
    assert result.stopped_early
    assert 1 < result.best_epoch == result.num_epochs - 3
    assert result.metrics == curves[result.best_epoch - 1]

    plain = training(epochs=result.best_epoch, patience=60)
    last: dict[str, Tensor] = {}
    plain.fit(lambda *_: last.update({k: v.clone() for k, v in plain.model.state_dict().items()}))
    for name, value in stopped.model.state_dict().items():
        assert torch.equal(value, last[name]), name
    assert not stopped.model.training


# Ahead of the report


@pytest.mark.parametrize(("ahead_sec", "num_ahead"), [(1e-9, 1), (1e9, 4)])
def test_updates_that_are_launched_ahead_of_a_report_change_nothing(
    monkeypatch: pytest.MonkeyPatch, ahead_sec: float, num_ahead: int
) -> None:
    """One update of the next epoch, or all four of them."""
    monkeypatch.setattr(loop, "AHEAD_SEC", ahead_sec)
    sections = {
        "regularization": {"dropout": 0.3, "mixup_alpha": 0.4, "ema_decay": 0.5},
        "augmentation": {"strength": 1.0},
        "lr_schedule": {"kind": "plateau", "patience_epochs": 1},
    }
    how = recipe(40, sections=sections, early_stopping={"patience": 3})
    turns = trainer(how, net(0.3), metric="validation/loss")
    expected, in_turns = fit(turns)
    ahead = trainer(how, net(0.3), metric="validation/loss")
    curves: Curves = []
    launched = []

    def report(_: int, metrics: Mapping[str, float]) -> None:
        curves.append(dict(metrics))
        launched.append(ahead.num_ahead)

    result = ahead.fit(report, goes_ahead=lambda: True)
    assert untimed(curves) == untimed(in_turns)
    assert (result.best_epoch, result.num_epochs) == (expected.best_epoch, expected.num_epochs)
    assert result.stopped_early
    assert launched == [num_ahead] * (len(curves) - 1) + [0]
    for name, value in ahead.model.state_dict().items():
        assert torch.equal(value, turns.model.state_dict()[name]), name


def test_a_state_is_refused_while_the_next_epoch_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "AHEAD_SEC", 1e9)
    training = trainer(recipe(epochs=2))
    with pytest.raises(RuntimeError, match=r"^4 updates of epoch 2 are under way$"):
        training.fit(lambda *_: training.state_dict(), goes_ahead=lambda: True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("training_mode", [True, False])
def test_a_number_that_is_not_finite_ends_the_training(value: float, training_mode: bool) -> None:
    class Sick(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images.flatten(1))
            return logits + value if self.training is training_mode else logits

    where = "train/loss" if training_mode else "validation/loss"
    with pytest.raises(NonFiniteLossError, match=rf"^{where} is -?(nan|inf) in epoch 1$"):
        trainer(recipe(epochs=3), Sick(64, 3)).fit(lambda *_: pytest.fail("reported"))


def test_an_epoch_that_diverges_is_named() -> None:
    def poison(epoch: int, _: Mapping[str, float]) -> None:
        if epoch == 2:
            nn.init.constant_(next(training.model.parameters()), math.nan)

    training = trainer(recipe(epochs=5))
    with pytest.raises(NonFiniteLossError, match="in epoch 3"):
        training.fit(poison)
