"""Splitting and subsetting class by class, so that every part has the classes in proportion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Indices = npt.NDArray[np.intp]


class Partition(NamedTuple):
    """Indices into a source's images: for each split, a shuffled array for each class."""

    test: list[Indices]
    validation: list[Indices]
    selection: list[Indices]
    train: list[Indices]


def partition(
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    *,
    test_fraction: float,
    validation_fraction: float,
    selection_fraction: float,
    rng: np.random.Generator,
) -> Partition:
    """Shares out each class: `test_fraction` of it, then the other two fractions of what remains.

    Raises:
        UserError: a class is too small to have an image in each part.
    """
    parts = Partition([], [], [], [])
    for label, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels == label))
        num_test = _share(len(members), test_fraction)
        rest = len(members) - num_test
        num_validation = _share(rest, validation_fraction)
        num_selection = _share(rest, selection_fraction)
        if num_validation + num_selection >= rest:
            raise UserError(
                f"class {name!r} has {len(members)} images, too few to split",
                where="data",
                rule="every class needs an image in each split: train, validation, selection "
                "(unless `selection_fraction` is 0), and test if the source has none of its own",
                cure=f"add images of {name!r}, leave the class out, or lower the fractions",
            )
        cuts = np.cumsum([num_test, num_validation, num_selection])
        for part, indices in zip(parts, np.split(members, cuts), strict=True):
            part.append(indices)
    return parts


def _share(size: int, fraction: float) -> int:
    """`fraction` of `size` to the nearest image, and at least one unless the fraction is 0."""
    return 0 if fraction == 0 else max(1, round(size * fraction))


def subset(by_class: list[Indices], size: int, class_names: Sequence[str]) -> list[Indices]:
    """The first of each class, `size` in all; a smaller subset is part of a larger one.

    Raises:
        UserError: there are fewer than `size`, or so small a subset would lack a class.
    """
    available = sum(map(len, by_class))
    if size > available:
        raise UserError(
            f"`train_images` is {size}, but there are {available} training images",
            where="data.train_images",
            rule=f"1 to {available}",
            cure=f"ask for {available} at most, or leave `train_images` out to train on all",
        )
    counts = _apportion(size, np.array([len(members) for members in by_class]))
    if not counts.all():
        missing = class_names[int(counts.argmin())]
        raise UserError(
            f"`train_images` is {size}: none would be of class {missing!r}",
            where="data.train_images",
            rule="with the classes in proportion, each has at least one training image",
            cure="raise `train_images`",
        )
    return [members[:count] for members, count in zip(by_class, counts, strict=True)]


def _apportion(total: int, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`total` shared out in proportion to `sizes`, each within one (largest remainders)."""
    counts, remainders = np.divmod(total * sizes, sizes.sum())
    counts[np.argsort(-remainders, kind="stable")[: total - counts.sum()]] += 1
    return counts
