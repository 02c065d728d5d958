"""Image files decoded once into one uint8 array on disk, and memory-mapped from then on.

The array's file is named by what it was made from (names, sizes and times of the image files, and
the settings) and by the SHA-256 of its pixels, so that neither an edited image nor a rotten cache
is missed: either way it is decoded anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import prod
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from pipeline.datasets.base import Images, Progress
from pipeline.datasets.image_decoding import decode
from pipeline.errors import UserError

_CHUNK = 256  # images that a process decodes at a time
_MAX_PROCESSES = 16


class ImageFile(NamedTuple):
    path: str
    class_name: str
    size_bytes: int
    mtime_ns: int


def cached_images(
    files: Sequence[ImageFile],
    size: int,
    num_channels: Callable[[], int],
    *,
    cache: Path,
    key: object,
    progress: Progress,
) -> Images:
    """The images in the order of `files`, uint8, (N, C, size, size), mapped, copy-on-write.

    Args:
        num_channels: asked only when there is something to decode.
        key: everything that the pixels depend on; its `repr` names them in the cache.

    Raises:
        UserError: an image cannot be decoded, or the cache cannot be written.
    """
    name = cache_name(key)
    for path in cache.glob(f"{name}-*.npy"):
        images = load_array(path)
        if images is not None:
            return images
        path.unlink(missing_ok=True)
    shape = (len(files), num_channels(), size, size)
    with kept_array(cache, shape):
        path = write_array(cache, name, shape, _decode_all(files, shape[1], size, progress))
        return np.load(path, mmap_mode="c")  # type: ignore[no-any-return]


def cache_name(key: object) -> str:
    """What a key's files are called, without their endings."""
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


@contextmanager
def kept_array(cache: Path, shape: tuple[int, ...]) -> Iterator[None]:
    """Raises a `UserError` where what is written inside the `with` can't be."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the image cache: {error}",
            where=str(cache),
            rule=f"it takes {prod(shape) / 1e6:.1f} MB",
            cure="make room there, or set `data.cache` to another folder",
        ) from error


def load_array(path: Path) -> Images | None:
    """The array that was written to a file, mapped, copy-on-write; None if it is not, or not any
    more, what its name says."""
    try:
        images: Images = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    intact = path.stem.endswith(hashlib.sha256(images.data).hexdigest()[:16])
    return images if intact else None


def write_array(cache: Path, name: str, shape: tuple[int, ...], chunks: Iterable[Images]) -> Path:
    """Appends the chunks to a file that gets its name, with its digest, when it is complete."""
    cache.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with TemporaryDirectory(dir=cache, prefix=".decode-") as folder:
        part = Path(folder, "images.npy")
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                sha256.update(chunk.data)
                file.write(chunk.data)
        return part.replace(cache / f"{name}-{sha256.hexdigest()[:16]}.npy")


def _decode_all(
    files: Sequence[ImageFile], channels: int, size: int, progress: Progress
) -> Iterator[Images]:
    """Chunks of images, uint8, (_CHUNK, channels, size, size), in order."""
    paths = [file.path for file in files]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    done = 0
    for images in _map(partial(_decode_chunk, channels=channels, size=size), chunks):
        yield images
        done += len(images)
        progress("decoding images", done, len(files))


def _decode_chunk(paths: list[str], channels: int, size: int) -> Images:
    return np.stack([decode(path, channels, size) for path in paths])


def _map(function: Callable[[list[str]], Images], chunks: Sequence[list[str]]) -> Iterator[Images]:
    """`map` over processes: on small images, threads fighting for the lock are slower than one."""
    if len(chunks) == 1:
        yield from map(function, chunks)
        return
    with ProcessPoolExecutor(
        min(len(chunks), os.cpu_count() or 1, _MAX_PROCESSES),
        mp_context=get_context("spawn"),  # a fork would copy locks that other threads hold
        initializer=signal,
        initargs=(SIGINT, SIG_IGN),  # the parent alone answers Ctrl-C
    ) as pool:
        yield from pool.map(function, chunks)
