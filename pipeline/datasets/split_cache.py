"""Splits that were drawn once: one uint8 array of images, memory-mapped, and a file of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.datasets.base import ImageSet, Splits
from pipeline.datasets.image_cache import cache_name, kept_array, load_array, write_array


def kept_file(folder: Path, key: object) -> Path:
    """Where splits are kept under this key."""
    return folder / f"{cache_name(key)}.npz"


def load_kept(path: Path, drawn_by: str) -> Splits | None:
    """The splits that were kept in this file; None if they were not, are damaged, or were drawn
    otherwise.

    Their images are views of one mapped file. They can be written to, which changes the process's
    own copy alone.
    """
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            known = dict(file)
        if known["drawn_by"] != drawn_by:
            return None
        images = load_array(path.parent / str(known["images"]))
    except Exception:  # noqa: BLE001 - a damaged archive can fail in any way, and is made anew
        return None
    if images is None:
        return None
    cuts = np.cumsum(known["sizes"])[:-1]
    train, validation, selection = map(
        ImageSet, np.split(images, cuts), np.split(known["labels"], cuts)
    )
    return Splits(
        train=train,
        validation=validation,
        selection=selection,
        class_names=tuple(known["class_names"].tolist()),
        digest=str(known["digest"]),
        source=str(known["source"]),
        channel_mean=known["channel_mean"],
        channel_std=known["channel_std"],
        file=path,
    )


def keep(folder: Path, key: object, drawn_by: str, splits: Splits) -> Splits:
    """Keep splits under a key, whose `repr` names them; the same, as `load_kept` has them from its
    `kept_file`.

    Raises:
        UserError: the folder cannot be written to.
    """
    file = kept_file(folder, key)
    sets = (splits.train, splits.validation, splits.selection)
    shape = (sum(map(len, sets)), *splits.image_shape)
    with kept_array(folder, shape):
        path = write_array(folder, file.stem, shape, (part.images for part in sets))
        with TemporaryDirectory(dir=folder, prefix=".splits-") as temporary:
            rest = Path(temporary, "rest.npz")
            np.savez(
                rest,
                drawn_by=np.array(drawn_by),
                images=np.array(path.name),  # whose name has its digest
                labels=np.concatenate([part.labels for part in sets]),
                sizes=np.array([len(part) for part in sets]),
                class_names=np.array(splits.class_names),
                digest=np.array(splits.digest),
                source=np.array(splits.source),
                channel_mean=splits.channel_mean,
                channel_std=splits.channel_std,
            )
            rest.replace(file)
    images = np.load(path, mmap_mode="c")
    cuts = np.cumsum([len(part) for part in sets])[:-1]
    train, validation, selection = np.split(images, cuts)
    return replace(
        splits,
        train=replace(splits.train, images=train),
        validation=replace(splits.validation, images=validation),
        selection=replace(splits.selection, images=selection),
        file=file,
    )
