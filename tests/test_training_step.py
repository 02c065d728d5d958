"""One update of the weights, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.loop import Trainer
from pipeline.training.step import Targets
from tests.trainings import fit, recipe, trainer

LN2 = math.log(2)

# Two images of two pixels, normalised to (1, -1) of class 0 and (-1, 1) of
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
