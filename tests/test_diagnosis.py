"""What is said of a trained net, and that the advice is about its own settings."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipeline.config.run_config import RunConfig, off_values
from pipeline.diagnosis import DIALS, Diagnosis, Word, diagnose
from pipeline.settings import Scalar


def settings(model: str = "vgg", **changes: Scalar) -> dict[str, Scalar | None]:
    """All settings of a trial without regularization, but for these: `dropout`, `optimizer`, ..."""
    sections = {"study": {"name": "s"}, "data": {"kind": "digits"}, "model": {"kind": model}}
    config = RunConfig.model_validate(sections)
    paths = {path.rpartition(".")[2]: path for path in config.values()} | {
        "strength": "augmentation.strength",
        "optimizer": "training.optimizer.kind",
    }
    return config.with_overrides({paths[name]: value for name, value in changes.items()}).values()


ON = {"strength": 0.5, "weight_decay": 0.05, "dropout": 0.25, "mixup_alpha": 0.2}
ON |= {"label_smoothing": 0.09, "cutmix_alpha": 1.0, "spatial_dropout": 0.1}


@pytest.mark.parametrize(
    ("train", "validation", "fits", "word"),
    [
        (0.99, 0.78, None, "overfitting"),
        (0.99, 0.80, 1.0, "slightly overfitting"),
        (0.80, 0.74, 1.0, "slightly overfitting"),
        (0.80, 0.76, None, "not overfitting"),
        (0.80, 0.76, 0.89, "healthy"),
        (0.80, 0.76, 0.91, "underfitting"),
        (0.80, 0.85, 0.91, "underfitting"),
        (0.95, 0.97, 0.90, "healthy"),
        # on the bounds, which floats overshoot: 1 - 0.95 > 0.05 and 0.8 - 0.7 > 0.1
        (1.0, 0.95, None, "not overfitting"),
        (0.7, 0.7, 0.8, "healthy"),
        # nothing below a half is well, whatever the gap
        (0.1, 0.1, 0.1, "underfitting"),
        (0.49, 0.49, 0.49, "underfitting"),
        (0.5, 0.5, 0.49, "healthy"),
        (0.49, 0.49, 0.5, "healthy"),
        (0.9, 0.7, None, "slightly overfitting"),
    ],
)
def test_the_word(train: float, validation: float, fits: float | None, word: Word) -> None:
    diagnosis = diagnose(train, validation, fits, settings())
    assert diagnosis.word == word
    assert "\n" not in diagnosis.advice


def overfitting(given: Mapping[str, Scalar | None]) -> str:
    return diagnose(0.99, 0.69, None, given).advice


def underfitting(given: Mapping[str, Scalar | None]) -> str:
    return diagnose(0.5, 0.5, 0.9, given).advice


def test_what_is_off_is_named_first_in_the_common_order() -> None:
    assert diagnose(0.99, 0.69, None, settings()) == Diagnosis(
        "overfitting",
        "30.0 points between training and validation accuracy: switch on augmentation.strength "
        "(now 0) or switch on training.optimizer.weight_decay (now 0)",
    )
    assert overfitting(settings(strength=0.3, weight_decay=1e-5)).endswith(
        ": raise training.optimizer.weight_decay (now 1e-05) "
        "or switch on regularization.dropout (now 0)"
    )


def test_what_is_furthest_below_its_usual_strength_is_raised() -> None:
    """Strength is at a half of 1, dropout at a half of 0.5, label smoothing at 0.9 of 0.1."""
    assert overfitting(settings(**ON)).endswith(
        "raise augmentation.strength (now 0.5) or raise regularization.dropout (now 0.25)"
    )
    assert overfitting(settings(**ON | {"strength": 1.0})).endswith(
        "raise regularization.dropout (now 0.25) or raise regularization.label_smoothing (now 0.09)"
    )


def test_only_what_the_net_has_a_place_for_is_switched_on() -> None:
    given = ON | {"strength": 1.0, "spatial_dropout": 0.0}
    assert "switch on regularization.spatial_dropout" in overfitting(settings("vgg", **given))
    assert "spatial_dropout" not in overfitting(settings("torchvision/resnet18", **given))
    assert "stochastic_depth" not in overfitting(settings("vgg", **ON))
    assert "switch on regularization.stochastic_depth" in overfitting(settings("resnet", **ON))


def test_what_is_as_strong_as_is_wise_is_not_raised() -> None:
    most = {dial.path.rpartition(".")[2]: dial.most for dial in DIALS if dial.most}
    advice = overfitting(settings("resnet", **most))
    assert advice.endswith("every regularizer is strong: a smaller net, or more images")


def test_what_is_strongest_for_its_kind_is_lowered() -> None:
    """Dropout is at 1.2 of 0.5, weight decay at 0.2 of 0.05, L1 at ten times 1e-5."""
    given = {"dropout": 0.6, "weight_decay": 0.01}
    assert diagnose(0.7, 0.7, 0.95, settings(**given)) == Diagnosis(
        "underfitting",
        "training accuracy is 25.0 points below the unregularized net's: lower "
        "regularization.dropout (now 0.6) or training.optimizer.weight_decay (now 0.01)",
    )
    assert "lower regularization.l1 (now 0.0001) or" in underfitting(settings(l1=1e-4, **given))
    assert "lower regularization.dropout (now 0.6)" in underfitting(settings(dropout=0.6, l2=1e-6))


def test_sgd_takes_a_tenth_of_the_weight_decay() -> None:
    """0.01 is a fifth of what is usual for AdamW, and twice what is for SGD."""
    given = {"dropout": 0.5, "weight_decay": 0.01}
    assert "lower regularization.dropout" in underfitting(settings(**given))
    assert "lower training.optimizer.weight_decay" in underfitting(
        settings(optimizer="sgd", **given)
    )


def test_a_net_that_underfits_without_regularization_is_told_so() -> None:
    assert underfitting(settings()).endswith(
        "no regularizer is strong: another learning rate, or more epochs"
    )


def test_a_healthy_net_is_left_alone() -> None:
    assert diagnose(0.93, 0.90, 0.95, settings()).advice.endswith("nothing needs to change")
    assert "no unregularized baseline" in diagnose(0.93, 0.90, None, settings()).advice


def test_settings_that_are_missing_are_not_named() -> None:
    assert overfitting({"regularization.dropout": 0.0, "model.kind": "vgg"}).endswith(
        ": switch on regularization.dropout (now 0)"
    )
    assert overfitting({"training.optimizer.weight_decay": None}).endswith("or more images")


def test_every_regularizer_has_its_dial() -> None:
    parts = {path for path in off_values() if path.startswith("augmentation.")}
    not_dials = parts - {"augmentation.strength"} | {"regularization.ema_decay"}
    assert {dial.path for dial in DIALS} == off_values().keys() - not_dials
    assert all(off_values()[dial.path] == 0 for dial in DIALS)
    assert all(dial.most >= dial.typical for dial in DIALS if dial.most)
