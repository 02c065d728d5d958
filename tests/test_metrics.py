"""Metrics and early stopping, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.statistics import score
from pipeline.training.early_stopping import EarlyStopping, EarlyStoppingSettings
from pipeline.training.metrics import METRICS, classification_metrics, direction, is_better

LN2 = math.log(2)


def test_errors_are_minimized_and_all_else_maximized() -> None:
    errors = {"validation/loss", "validation/ece", "validation/brier"}
    assert errors < set(METRICS)
    assert {metric for metric in METRICS if direction(metric) == "minimize"} == errors
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
            # three of four right at a confidence of 1/2
            "ece": 3 / 4 - 1 / 2,
            # 1/4 + 2/16 for a hit, 1/4 + 9/16 + 1/16 for the miss
            "brier": (3 * 0.375 + 0.875) / 4,
        }
    )


def test_scores_are_those_that_numpy_finds() -> None:
    chance = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 7, generator=chance)
    labels = torch.randint(0, 7, (500,), generator=chance)
    metrics = classification_metrics(logits, labels)
    scores = score(logits.softmax(dim=1).numpy(), labels.numpy(), tuple("abcdefg"))
    for name in ("loss", "accuracy", "ece", "brier"):
        assert metrics[name] == pytest.approx(getattr(scores, name), rel=1e-6), name
    assert metrics["ece"] > 0.3, "these nets are far too sure"


def test_certainty_is_scored_to_the_edge() -> None:
    """A probability that rounds to 1 or to 0 is in the last bin and exact."""
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0]])
    right = classification_metrics(logits, torch.tensor([0, 0]))
    assert (right["ece"], right["brier"]) == (0, 0)
    wrong = classification_metrics(logits, torch.tensor([1, 1]))
    assert (wrong["ece"], wrong["brier"]) == (1, 2)


def test_a_logit_that_is_no_number_gives_scores_that_are_none() -> None:
    metrics = classification_metrics(torch.tensor([[math.nan, 0.0]]), torch.tensor([1]))
    assert all(math.isnan(metrics[name]) for name in ("loss", "ece", "brier"))


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
