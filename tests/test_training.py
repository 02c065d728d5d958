"""The training: the update by hand, who is augmented, what is scored, when it ends."""

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
from pipeline.regularizers.dropout import dropout
from pipeline.regularizers.masks import set_rates
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.early_stopping import EarlyStopping, EarlyStoppingSettings
from pipeline.training.loop import EVAL_BATCH, FitResult, NonFiniteLossError, Trainer, predict
from pipeline.training.metrics import METRICS, Metric, classification_metrics, direction, is_better
from pipeline.training.recipe import Recipe
from pipeline.training.step import Targets

LN2 = math.log(2)
STANDS_STILL = {"kind": "sgd", "learning_rate": 1e-30}
Curves = list[dict[str, float]]


def recipe(
    epochs: int = 1,
    batch_size: int = 8,
    optimizer: Mapping[str, Any] | None = None,
    sections: Mapping[str, Any] | None = None,
    **training: Any,
) -> Recipe:
    training |= {"epochs": epochs, "batch_size": batch_size, "precision": "float32"}
    training["optimizer"] = optimizer or {"learning_rate": 0.01}
    return Recipe.model_validate(
        {"training": training, "lr_schedule": {"kind": "constant"}} | dict(sections or {})
    )


def split(num_images: int, seed: int, low: int = 0, high: int = 256) -> DeviceSplit:
    chance = torch.Generator().manual_seed(seed)
    shape = (num_images, 1, 8, 8)
    images = torch.randint(low, high, shape, dtype=torch.uint8, generator=chance)
    return DeviceSplit(images, torch.randint(0, 3, (num_images,), generator=chance))


def random_data(num_train: int = 32) -> DeviceData:
    """Training images are dark and the others bright: a pixel tells where it comes from."""
    train = split(num_train, seed=1, high=128)
    probe = DeviceSplit(train.images[:12], train.labels[:12])
    half = torch.full((1, 1, 1, 1), 0.5)
    return DeviceData(train, split(20, seed=2, low=128), probe, half, half, num_classes=3)


def net(rate: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), dropout())
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    set_rates(model, recipe(sections={"regularization": {"dropout": rate}}).regularization)
    return model


def trainer(
    how: Recipe,
    model: nn.Module | None = None,
    data: DeviceData | None = None,
    metric: Metric = "validation/accuracy",
    trial: int = 0,
) -> Trainer:
    seeds = TrialSeeds.of(0, trial)
    return Trainer(model or net(), data or random_data(), how, metric, seeds)


def fit(training: Trainer) -> tuple[FitResult, Curves]:
    curves: Curves = []
    result = training.fit(lambda _, metrics: curves.append(dict(metrics)))
    return result, curves


def untimed(curves: Curves) -> Curves:
    return [{k: v for k, v in epoch.items() if not k.endswith("_sec")} for epoch in curves]


# One update, by hand. Two images of two pixels, normalised to (1, -1) of class 0 and (-1, 1) of
# class 1; all four weights are 1, so both classes have probability 1/2. With smoothing 0.2 the
# targets are 0.9 and 0.1: an image's logits have gradients of (1/2 - target) / 2, -0.2 and 0.2, and
# the weights have -0.4 and 0.4.


def by_hand(optimizer: Mapping[str, Any], regularization: Mapping[str, Any], **how: Any) -> Trainer:
    images = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).view(2, 2, 1, 1)
    both = DeviceSplit(images, torch.tensor([0, 1]))
    half = torch.full((1, 2, 1, 1), 0.5)
    linear = nn.Linear(2, 2, bias=False)
    nn.init.ones_(linear.weight)
    plain_sgd = {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.0}
    sections = {"regularization": {"label_smoothing": 0.2, **regularization}}
    settings = recipe(optimizer={**plain_sgd, **optimizer}, sections=sections, **how)
    data = DeviceData(both, both, both, half, half, num_classes=2)
    return trainer(settings, nn.Sequential(nn.Flatten(), linear), data)


def weights_of(training: Trainer) -> Tensor:
    return next(training.model.parameters()).detach().clone()


def crosswise(diagonal: float, other: float) -> Tensor:
    return torch.tensor([[diagonal, other], [other, diagonal]])


def test_the_first_update_is_the_one_worked_out_by_hand() -> None:
    training = by_hand({"weight_decay": 0.1}, {})
    _, [epoch] = fit(training)
    # 1 * (1 - 0.5 * 0.1), then half of the gradient down
    torch.testing.assert_close(weights_of(training), crosswise(1.15, 0.75))
    assert epoch["train/loss"] == pytest.approx(LN2)
    assert epoch["train/penalty"] == 0
    assert epoch["train/accuracy"] == 0.5
    assert epoch["gradient_norm"] == pytest.approx(0.8)
    assert epoch["learning_rate"] == 0.5


def test_the_penalty_is_told_apart_and_drives_the_gradient() -> None:
    training = by_hand({}, {"l1": 0.01, "l2": 0.1})
    _, [epoch] = fit(training)
    # gradients of -0.4 and 0.4, each with 0.01 + 0.1 on top
    torch.testing.assert_close(weights_of(training), crosswise(1.145, 0.745))
    assert epoch["train/loss"] == pytest.approx(LN2)
    assert epoch["train/penalty"] == pytest.approx(0.01 * 4 + 0.1 / 2 * 4)
    assert epoch["gradient_norm"] == pytest.approx(math.sqrt(2 * 0.29**2 + 2 * 0.51**2))


def test_the_gradient_norm_is_the_one_before_clipping() -> None:
    training = by_hand({}, {}, gradient_clip_norm=0.1)
    _, [epoch] = fit(training)
    assert epoch["gradient_norm"] == pytest.approx(0.8)
    # an eighth of the gradient is left of it
    torch.testing.assert_close(weights_of(training), crosswise(1.025, 0.975))


def test_the_average_is_scored_and_the_weights_go_on_from_their_own() -> None:
    training = by_hand({}, {"ema_decay": 0.9})
    own = []
    training.fit(lambda *_: own.append(weights_of(training)))
    torch.testing.assert_close(own[0], crosswise(1.2, 0.8))
    # the best weights are those scored: the first update has a decay of 1/10
    torch.testing.assert_close(weights_of(training), crosswise(1.18, 0.82))


def test_mixed_images_count_for_both_of_their_labels() -> None:
    labels, partners = torch.tensor([0, 1]), torch.tensor([1, 1])
    scores = torch.tensor([4.0, 2.0])
    mixed = Targets(labels, partners, share=torch.tensor([0.75, 0.5]))
    # (0.75 * 4 + 0.25 * 2 + 2) / 2
    assert mixed.mean(lambda y: scores[y]).item() == 2.75
    assert Targets(labels).mean(lambda y: scores[y]).item() == 3


# Who is augmented, and in which mode


class Spy(nn.Module):
    """Notes each batch it is shown, and the mode it is in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((self.training, images.detach().clone()))
        logits: Tensor = self.model(images)
        return logits


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The batches that were augmented, by position in the training split."""
    seen: list[Tensor] = []
    original: Callable[..., Tensor] = Augmentation.__call__

    def spy(self: Augmentation, images: Tensor, indices: Tensor, *rest: Any) -> Tensor:
        assert images.max() < 128, "an image that isn't the training split's"
        seen.append(indices)
        return original(self, images, indices, *rest)

    monkeypatch.setattr(Augmentation, "__call__", spy)
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
    assert len(clean) == 6
    assert {key: plain[key] for key in clean} == {key: changed[key] for key in clean}


def test_prediction_is_in_eval_mode_and_leaves_the_mode_as_it_was() -> None:
    spy = Spy(net(rate=0.5))
    images = torch.cat([random_data().train.images] * (EVAL_BATCH // 32 + 1))
    half = torch.full((1, 1, 1, 1), 0.5)
    for mode in (True, False):
        spy.train(mode)
        logits = predict(spy, images, half, half, torch.float32)
        assert spy.training is mode
        assert logits.shape == (len(images), 3)
        torch.testing.assert_close(logits[:32], logits[-32:])
    assert [(m, len(batch)) for m, batch in spy.seen] == [(False, EVAL_BATCH), (False, 24)] * 2


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
    splits = Splits(*parts, class_names=("a", "b"), digest="", source="")
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


def test_patience_counts_from_the_last_improvement_by_min_delta() -> None:
    settings = EarlyStoppingSettings(patience=2, min_delta=0.1)
    stopping = EarlyStopping(settings, "validation/accuracy")
    model = nn.Linear(1, 1, bias=False)
    seen = []
    for epoch, accuracy in enumerate([0.50, 0.55, 0.61, 0.65, 0.64], start=1):
        nn.init.constant_(model.weight, epoch)
        stopping.observe(epoch, {"validation/accuracy": accuracy}, model)
        seen.append(stopping.should_stop(epoch))
    # 0.55 is too little over 0.50; 0.61 is enough, and nothing is enough over 0.61
    assert seen == [False, False, False, False, True]
    stopping.restore(model)
    assert (stopping.best_epoch, model.weight.item()) == (4, 4)
    assert stopping.best_metrics == {"validation/accuracy": 0.65}


def test_a_tie_keeps_the_earlier_weights() -> None:
    stopping = EarlyStopping(EarlyStoppingSettings(), "validation/loss")
    for epoch, loss in enumerate([2.0, 1.0, 1.0, 1.5], start=1):
        stopping.observe(epoch, {"validation/loss": loss}, nn.Linear(1, 1))
    assert stopping.best_epoch == 2


# Metrics


def test_a_loss_is_minimized_and_all_else_maximized() -> None:
    assert [direction(metric) for metric in METRICS] == [
        "minimize" if metric == "validation/loss" else "maximize" for metric in METRICS
    ]
    assert is_better("validation/loss", 1.0, than=2.0)
    assert not is_better("validation/loss", 1.0, than=1.5, min_delta=0.5)
    assert is_better("validation/accuracy", 0.7, than=0.5, min_delta=0.1)
    assert not is_better("validation/accuracy", 0.5, than=0.5)


def test_classification_metrics_by_hand() -> None:
    # predicted 0 0 1 1, each with probability 1/2, the other two classes with 1/4
    predicted = torch.tensor([0, 0, 1, 1])
    logits = nn.functional.one_hot(predicted, 3) * LN2
    metrics = classification_metrics(logits, torch.tensor([0, 0, 0, 1]))
    assert metrics == pytest.approx(
        {
            "loss": (3 * LN2 + 2 * LN2) / 4,
            "accuracy": 3 / 4,
            "balanced_accuracy": (2 / 3 + 1) / 2,
            "macro_f1": (4 / 5 + 2 / 3) / 2,
        }
    )
