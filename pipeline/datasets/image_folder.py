"""A folder of images: `root/train/<class>/*`, and perhaps `root/test/<class>/*`.

Any size, greyscale or colour. They are decoded once (see `image_cache`) and memory-mapped after.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.datasets.base import DataSettings, ImageSet, Progress
from pipeline.datasets.image_cache import ImageFile, cached_images
from pipeline.datasets.image_decoding import is_colour
from pipeline.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class ImageFolderSettings(DataSettings):
    """Images in a folder per class. The whole height or width is kept, and the middle of the rest.

    Files with other extensions than those of images are ignored, as are hidden ones.
    """

    kind: Literal["image_folder"] = "image_folder"
    image_size: Annotated[int, Field(ge=8, le=1_024)] = 32
    """Height and width that images are resized to, in pixels."""
    channels: Literal["auto", 1, 3] = "auto"
    """1 for greyscale, 3 for colour, "auto" for greyscale when every training image is."""

    def has_test_split(self) -> bool:
        return self._folder("test").is_dir()

    def stamp(self) -> object:
        classes = _class_folders(self._folder("train"), at_least=2)
        files = _list_images(self._folder("train"), classes)
        return (self._folder("train").resolve(), self.image_size, self.channels, files)

    def read(
        self, split: Literal["train", "test"], progress: Progress
    ) -> tuple[ImageSet, tuple[str, ...]]:
        classes = _class_folders(self._folder("train"), at_least=2)
        files = {"train": _list_images(self._folder("train"), classes)}
        if split == "test":  # to list its folders is to read its labels
            test_classes = _class_folders(self._folder("test"), at_least=1)
            _check_test_classes(test_classes, classes, self._folder("test"))
            files["test"] = _list_images(self._folder("test"), test_classes)

        def num_channels() -> int:
            if self.channels == "auto":
                return 3 if any(is_colour(file.path) for file in files["train"]) else 1
            return self.channels

        images = cached_images(
            files[split],
            self.image_size,
            num_channels,
            cache=Path(self.cache).expanduser(),
            # with the training files, as they decide on the channels of the test images
            key=(self._folder(split).resolve(), self.image_size, self.channels, files),
            progress=progress,
        )
        label_of = {name: label for label, name in enumerate(classes)}
        labels = np.array([label_of[file.class_name] for file in files[split]], np.int64)
        return ImageSet(images, labels), tuple(classes)

    def _folder(self, split: Literal["train", "test"]) -> Path:
        return Path(self.root).expanduser() / split


def _class_folders(folder: Path, *, at_least: int) -> list[str]:
    names = sorted(path.name for path in folder.glob("[!.]*/"))
    if len(names) < at_least:
        raise UserError(
            f"{len(names)} class folders in {folder}",
            where="data.root",
            rule=f"images are in {folder}/<class>/, and there are {at_least} classes at least",
            cure=f"place the images of each class in a folder of its own under {folder}",
        )
    for name in names:
        _require_text(name, folder)
    return names


def _require_text(name: str, folder: Path) -> None:
    """A name that is not in UTF-8 could not be kept with the model in the end."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the name of the class folder {name!a} is no text",
            where=str(folder),
            rule="a class is called as its folder, in UTF-8",
            cure="rename that folder, in every split",
        ) from None


def _check_test_classes(test_classes: list[str], classes: list[str], folder: Path) -> None:
    """By the names of the folders, before any image is decoded."""
    unknown = sorted(set(test_classes) - set(classes))
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} is in the test split and not in the training split",
            where=str(folder / unknown[0]),
            rule=f"the classes are {', '.join(classes)}",
            cure="rename or remove that folder, or add training images of the class",
        )


def _list_images(folder: Path, classes: list[str]) -> list[ImageFile]:
    """The image files of a split, by class and name."""
    return [file for name in classes for file in _list_class(folder / name)]


def _list_class(folder: Path) -> list[ImageFile]:
    with os.scandir(folder) as entries:
        files = sorted(
            _image_file(entry, folder.name)
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        )
    if not files:
        raise UserError(
            "the class folder has no images",
            where=str(folder),
            rule=f"image files end in {', '.join(EXTENSIONS)}",
            cure="place images in the folder, or remove it",
        )
    return files


def _image_file(entry: os.DirEntry[str], class_name: str) -> ImageFile:
    try:
        status = entry.stat()
    except OSError as error:  # a link to nowhere, most often
        raise UserError(
            f"cannot read the image: {error.strerror}",
            where=entry.path,
            cure="restore what it links to, or delete it",
        ) from error
    if not stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
        raise UserError(
            "what is called as an image is no file",
            where=entry.path,
            cure="place image files there, or rename it",
        )
    return ImageFile(entry.path, class_name, status.st_size, status.st_mtime_ns)
