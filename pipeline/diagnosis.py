"""Whether a trained net overfits or underfits, and which of its own settings to turn next.

A rule of thumb for a person to start from, not evidence: that is what the search is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.models import ModelSettings, ModelSettingsUnion
from pipeline.settings import Scalar, has_kind, settings_classes
from pipeline.words import spell

OVERFITTING_GAP = 0.20
"""A generalization gap over this is overfitting: one image in five was learned by heart."""
SLIGHT_GAP = 0.05
"""Up to this gap a net is healthy: image classifiers that were trained well have one of a few
points."""
UNDERFITTING_SHORTFALL = 0.10
"""How far the training accuracy may stay below what the unregularized net can fit."""
LITTLE_FIT = 0.50
"""A net that has less than this share of its training images right has learned too little for its
gap to tell anything."""

NEGLIGIBLE = 0.1
"""A regularizer at no more than this share of its typical strength counts as off."""
NAMED = 2
"""At most so many settings are named in a piece of advice."""

Word = Literal["overfitting", "slightly overfitting", "not overfitting", "healthy", "underfitting"]


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a training, in a word, and what to do about it, in a line."""

    word: Word
    advice: str


@dataclass(frozen=True)
class Dial:
    """A setting that regularizes; 0 is off.

    Args:
        typical: the strength at which it is commonly used.
        most: from here on raising it isn't advised; 0 for what is never the first choice.
    """

    path: str
    typical: float
    most: float


DIALS = (
    Dial("augmentation.strength", 1.0, 1.0),
    Dial("training.optimizer.weight_decay", 0.05, 0.5),
    Dial("regularization.dropout", 0.5, 0.7),
    Dial("regularization.mixup_alpha", 0.2, 1.0),
    Dial("regularization.label_smoothing", 0.1, 0.2),
    Dial("regularization.cutmix_alpha", 1.0, 1.0),
    Dial("regularization.spatial_dropout", 0.1, 0.3),
    Dial("regularization.stochastic_depth", 0.2, 0.5),
    # Weight decay does what a penalty does, and is the easier of the two to set.
    Dial("regularization.l2", 5e-4, 0.0),
    Dial("regularization.l1", 1e-5, 0.0),
)
"""In the order in which they are commonly tried. The average of the weights isn't among them, since
it keeps no net from fitting, nor are the parts of the augmentation, which its strength scales."""

SGD_WEIGHT_DECAY = 0.1
"""SGD's typical weight decay over AdamW's: the usual 5e-4, which goes through a gradient with
momentum 0.9, shrinks weights as 5e-3 does where it is decoupled."""

MODELS = [m for m in settings_classes(ModelSettingsUnion) if issubclass(m, ModelSettings)]


def diagnose(
    train_accuracy: float,
    validation_accuracy: float,
    fits: float | None,
    settings: Mapping[str, Scalar | None],
) -> Diagnosis:
    """Tell from its accuracies how a net generalizes, and what to turn in its settings.

    Args:
        train_accuracy: on training images without augmentation, in [0, 1].
        validation_accuracy: in [0, 1].
        fits: the `train_accuracy` of the unregularized baseline, which is what this net can fit in
            these epochs: its own, if it is that. `None` where it is not known: then nothing is
            called underfitting, nor healthy.
        settings: the trial's own, by dotted path, as `RunConfig.values` gives them.
    """
    # Rounded, so that 1 - 0.95 is no more than 0.05.
    gap = round(train_accuracy - validation_accuracy, 9)
    points = f"{100 * gap:.1f} points between training and validation accuracy"
    if gap > SLIGHT_GAP:
        word: Word = "overfitting" if gap > OVERFITTING_GAP else "slightly overfitting"
        return Diagnosis(word, f"{points}: {_raise(settings)}")
    if fits is None:
        return Diagnosis(
            "not overfitting", f"{points}; no unregularized baseline tells yet what can be fit"
        )
    shortfall = round(fits - train_accuracy, 9)
    if shortfall > UNDERFITTING_SHORTFALL:
        below = f"training accuracy is {100 * shortfall:.1f} points below the unregularized net's"
        return Diagnosis("underfitting", f"{below}: {_lower(settings)}")
    if max(fits, train_accuracy) < LITTLE_FIT:
        return Diagnosis(
            "underfitting",
            f"even unregularized the net has only {fits:.1%} of its training images right: more "
            "epochs, another learning rate or a larger net",
        )
    return Diagnosis("healthy", f"{points}: nothing needs to change")


def _raise(settings: Mapping[str, Scalar | None]) -> str:
    """What is off first, in the common order; then what is furthest below its typical strength."""
    dials = [dial for dial in DIALS if _can_be_raised(dial, settings)]
    # The sort is stable, so those that are off keep their order.
    dials.sort(key=lambda dial: max(_strength(dial, settings), NEGLIGIBLE))
    advice = [
        f"{'raise' if settings[dial.path] else 'switch on'} {_now(dial, settings)}"
        for dial in dials[:NAMED]
    ]
    return " or ".join(advice) or "every regularizer is strong: a smaller net, or more images"


def _lower(settings: Mapping[str, Scalar | None]) -> str:
    """What is furthest above its typical strength."""
    dials = [dial for dial in DIALS if _strength(dial, settings) > NEGLIGIBLE]
    dials.sort(key=lambda dial: -_strength(dial, settings))
    advice = " or ".join(_now(dial, settings) for dial in dials[:NAMED])
    if not advice:
        return "no regularizer is strong: another learning rate, or more epochs"
    return f"lower {advice}"


def _can_be_raised(dial: Dial, settings: Mapping[str, Scalar | None]) -> bool:
    value = settings.get(dial.path)
    is_weak = isinstance(value, int | float) and value < _scaled(dial.most, dial, settings)
    return is_weak and _has_place(dial, settings.get("model.kind"))


def _has_place(dial: Dial, model_kind: object) -> bool:
    """Whether the net takes it: a mask is part of a net, and not every kind of net has each."""
    name = dial.path.rpartition(".")[2]
    takers = [model for model in MODELS if name in model.regularizers]
    return not takers or any(has_kind(model, model_kind) for model in takers)


def _strength(dial: Dial, settings: Mapping[str, Scalar | None]) -> float:
    """A setting's value over its typical one; 0 where there is no such setting."""
    value = settings.get(dial.path)
    typical = _scaled(dial.typical, dial, settings)
    return value / typical if isinstance(value, int | float) else 0.0


def _scaled(value: float, dial: Dial, settings: Mapping[str, Scalar | None]) -> float:
    """A value of a dial's as this trial's optimizer takes it."""
    is_sgd = settings.get("training.optimizer.kind") == "sgd"
    return value * SGD_WEIGHT_DECAY if is_sgd and dial.path.endswith("weight_decay") else value


def _now(dial: Dial, settings: Mapping[str, Scalar | None]) -> str:
    return f"{dial.path} (now {spell(settings[dial.path])})"
