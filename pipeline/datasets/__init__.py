"""Where images come from: one source per file, and the table of them.

To add a source: a file with its settings class, its line in `DataSettingsUnion`.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from pipeline.datasets.base import DataSettings, ImageSet, Progress, Splits
from pipeline.datasets.cifar import Cifar10Settings, Cifar100Settings
from pipeline.datasets.digits import DigitsSettings
from pipeline.datasets.fashion_mnist import FashionMnistSettings
from pipeline.datasets.image_folder import ImageFolderSettings
from pipeline.datasets.loading import load_splits, load_test

DataSettingsUnion = Annotated[
    Cifar10Settings
    | Cifar100Settings
    | DigitsSettings
    | FashionMnistSettings
    | ImageFolderSettings,
    Field(discriminator="kind"),
]

SOURCES: dict[str, type[DataSettings]] = {
    source.model_fields["kind"].default: source
    for source in get_args(get_args(DataSettingsUnion)[0])
}

__all__ = [
    "SOURCES",
    "DataSettings",
    "DataSettingsUnion",
    "ImageSet",
    "Progress",
    "Splits",
    "load_splits",
    "load_test",
]
