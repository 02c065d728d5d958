"""The splits of a source: drawn by the seed, kept in a file, and mapped into memory from there.

All processes of a machine that map one file share its pages: the images are in memory once, however
many workers train on them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets.base import DataSettings, Images, ImageSet, Labels, Progress, Splits
from pipeline.datasets.split_cache import keep, kept_file, load_kept
from pipeline.datasets.stratify import Indices, Partition, partition, subset
from pipeline.seeding import generator

_CHUNK = 4096  # images hashed or averaged at a time: bounds the copies made of a large data set
_VERSION = 1  # of how splits are drawn: those that another one has kept are not taken


def load_splits(
    settings: DataSettings,
    seed: int,
    progress: Progress | None = None,
    known: Path | None = None,
) -> Splits:
    """Train, validation and selection images, drawn by `seed` alone, class by class.

    `train_images` does not change who is in validation and selection.

    Args:
        known: a file that may have them, as another process found (`Splits.file`). Where it has
            what these settings draw, the source's files aren't looked at again.

    Raises:
        UserError: the data set is missing or damaged, a class has too few images, or there are
            fewer training images than `train_images`.
    """
    drawn_by = repr((_VERSION, seed, settings))
    if known is not None and (kept := load_kept(known, drawn_by)) is not None:
        return kept
    folder = Path(settings.cache).expanduser()
    key = _key(settings, seed)
    kept = None if key is None else load_kept(kept_file(folder, key), drawn_by)
    if kept is not None:
        return kept
    splits = _draw(settings, seed, progress or _silent)
    drawn_from = _key(settings, seed)  # again, as the files may have been downloaded only now
    if drawn_from is None or key not in (None, drawn_from):  # or changed while they were read
        return splits
    return keep(folder, drawn_from, drawn_by, splits)


def _key(settings: DataSettings, seed: int) -> object:
    """Everything that the splits depend on; None where they are not to be kept."""
    stamp = settings.stamp()
    if stamp is None:
        return None
    drawn_by = (settings.validation_fraction, settings.selection_fraction, settings.test_fraction)
    source = (type(settings).__name__, settings.has_test_split(), stamp)
    return (_VERSION, seed, *drawn_by, settings.train_images, source)


def _draw(settings: DataSettings, seed: int, progress: Progress) -> Splits:
    pool, class_names = settings.read("train", progress)
    parts = _partition(settings, pool.labels, class_names, seed)
    train = parts.train
    if settings.train_images is not None:
        train = subset(train, settings.train_images, class_names)
    train_set = pool.take(_sorted(train))
    mean, std = channel_moments(train_set.images)
    return Splits(
        train=train_set,
        validation=pool.take(_sorted(parts.validation)),
        selection=pool.take(_sorted(parts.selection)),
        class_names=class_names,
        digest=_digest(pool, _sorted(parts.train + parts.validation + parts.selection)),
        source=str(type(settings).model_fields["kind"].default),
        channel_mean=mean,
        channel_std=std,
    )


def channel_moments(
    images: Images,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each channel, as `Splits` has them, of (N, C, H, W) uint8."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].reshape(-1), minlength=256)
    levels = np.arange(256)
    pixels = counts[0].sum()
    mean = counts @ levels / pixels
    std = np.sqrt(np.maximum(counts @ levels**2 / pixels - mean**2, 1.0))
    return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)


def load_test(settings: DataSettings, seed: int, progress: Progress | None = None) -> ImageSet:
    """The test images: the source's own, or the ones that `load_splits` left out under this seed.

    For `pipeline.evaluation` alone: whatever else looked at them would choose by them.

    Raises:
        UserError: as `load_splits`.
    """
    if settings.has_test_split():
        test, _ = settings.read("test", progress or _silent)
        return test.take(np.arange(len(test)))
    everything, class_names = settings.read("train", progress or _silent)
    parts = _partition(settings, everything.labels, class_names, seed)
    return everything.take(_sorted(parts.test))


def _partition(
    settings: DataSettings, labels: Labels, class_names: tuple[str, ...], seed: int
) -> Partition:
    return partition(
        labels,
        class_names,
        test_fraction=0.0 if settings.has_test_split() else settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        selection_fraction=settings.selection_fraction,
        rng=generator(seed, "split"),
    )


def _sorted(by_class: list[Indices]) -> Indices:
    return np.sort(np.concatenate(by_class))


def _digest(data: ImageSet, indices: Indices) -> str:
    sha256 = hashlib.sha256(repr(data.images.shape[1:]).encode())
    for start in range(0, len(indices), _CHUNK):
        sha256.update(data.images[indices[start : start + _CHUNK]].data)
    sha256.update(data.labels[indices].data)
    return sha256.hexdigest()[:16]


def _silent(*_: Any) -> None:
    """The progress of those who do not want to know."""
