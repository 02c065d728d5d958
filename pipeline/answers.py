"""What a trained net said of each selection image: kept, so that nets can be compared in pairs."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Judged = Literal["accuracy", "balanced_accuracy", "loss", "brier"]

_JUDGED: dict[str, Judged] = {
    "validation/balanced_accuracy": "balanced_accuracy",
    "validation/loss": "loss",
    "validation/brier": "brier",
    "validation/ece": "brier",
}


def judged_by(metric: str) -> Judged:
    """What finalists of a search by this metric are compared by: the same on the selection images,
    where it is a mean over them. Two are not: in place of macro F1 it is the accuracy, and in place
    of the calibration error the Brier score, which calibration is a part of."""
    return _JUDGED.get(metric, "accuracy")


Gain = tuple[float, float]
"""By how much something is better, and half the width of the 95 % interval."""


def gain_of(difference: tuple[float, float], judged: Judged) -> Gain:
    """A difference of means, with half the width of its interval, such that positive is better."""
    mean, half = difference
    return (mean if higher_is_better(judged) else -mean), half


def higher_is_better(judged: Judged) -> bool:
    """Whether more of it is better: of accuracies."""
    return judged.endswith("accuracy")


@dataclass(frozen=True, eq=False)
class Answers:
    """One net on N images.

    Args:
        correct: (N,) bool, whether it told each image right.
        scores: (N,) float32: what each image adds to the mean that nets are compared by (see
            `judged_by`): 0 or 1 for the accuracy, nats for the loss.
    """

    correct: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """A few bits an image, where they are compared by accuracy."""
        plain = np.array_equal(self.scores, self.correct)
        scores = "" if plain else _pack(self.scores.astype("<f4").tobytes())
        packed = _pack(np.packbits(self.correct).tobytes())
        return {"num_images": len(self.correct), "correct": packed, "scores": scores}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Answers:
        """What `to_json` made."""
        bits = np.frombuffer(_unpack(data["correct"]), np.uint8)
        correct = np.unpackbits(bits, count=data["num_images"]).astype(np.bool_)
        if not data["scores"]:
            return cls(correct, correct.astype(np.float32))
        return cls(correct, np.frombuffer(_unpack(data["scores"]), "<f4").astype(np.float32))


def answers_of(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], judged: Judged
) -> Answers:
    """The answers of probabilities (N, K) against labels (N,)."""
    correct = probabilities.argmax(axis=1) == labels
    return Answers(correct, _scores(probabilities, labels, correct, judged).astype(np.float32))


def _scores(
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    correct: npt.NDArray[np.bool_],
    judged: Judged,
) -> npt.NDArray[np.float64]:
    if judged == "accuracy":
        return correct.astype(np.float64)
    if judged == "balanced_accuracy":  # the mean of the classes' accuracies, image by image
        sizes = np.bincount(labels, minlength=probabilities.shape[1])
        share = len(labels) / (sizes[labels] * np.count_nonzero(sizes))
        weighted: npt.NDArray[np.float64] = correct * share
        return weighted
    of_label = probabilities[np.arange(len(labels)), labels]
    if judged == "loss":
        losses: npt.NDArray[np.float64] = -np.log(of_label.clip(np.finfo(np.float32).tiny))
        return losses
    brier: npt.NDArray[np.float64] = (probabilities**2).sum(axis=1) - 2 * of_label + 1
    return brier


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
