"""Metrics and early stopping, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.training.early_stopping import EarlyStopping, EarlyStoppingSettings
from pipeline.training.metrics import METRICS, classification_metrics, direction, is_better

LN2 = math.log(2)


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
