"""The table of sources, what importing it costs, and the digits."""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from sklearn.datasets import load_digits

from pipeline.datasets import (
    SOURCES,
    DataSettings,
    DataSettingsUnion,
    DigitsSettings,
    load_splits,
    load_test,
)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "digits", "fashion_mnist", "image_folder"])
def test_the_kind_chooses_the_source(kind):
    settings = TypeAdapter(DataSettingsUnion).validate_python({"kind": kind})
    assert type(settings) is SOURCES[kind]
    assert settings.kind == kind


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"validation_fraction": 0.5},
        {"validation_fraction": 0.0},
        {"selection_fraction": -0.1},
        {"test_fraction": 0.0},
        {"train_images": 0},
        {"train_image": 10},
    ],
)
def test_settings_out_of_bounds(source: type[DataSettings], wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        source(**wrong)


def test_importing_the_settings_loads_no_heavy_library():
    heavy = {"torch", "torchvision", "sklearn", "PIL", "scipy"}
    code = f"import sys, pipeline.datasets; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_digits_are_those_that_scikit_learn_loads():
    theirs = load_digits()
    ours, names = DigitsSettings().read("train", lambda *_: None)
    assert np.array_equal(ours.images[:, 0], np.rint(theirs.images * (255 / 16)))
    assert np.array_equal(ours.labels, theirs.target)
    assert names == tuple(str(name) for name in theirs.target_names)


def test_reading_digits_does_not_wait_for_scikit_learn():
    """Each process reads them, and would wait almost two seconds."""
    code = "import sys; from pipeline.datasets import DigitsSettings, load_splits\n"
    code += "load_splits(DigitsSettings(), seed=0); print({'sklearn', 'scipy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_digits():
    splits = load_splits(DigitsSettings(), seed=0)
    assert splits.source == "digits"
    assert splits.image_shape == (1, 8, 8)
    assert splits.class_names == tuple("0123456789")
    sizes = [len(splits.train), len(splits.validation), len(splits.selection)]
    assert sum(sizes) + len(load_test(DigitsSettings(), seed=0)) == 1797
    # 16 grey levels: 8, for one, is 127.5, to the even number
    levels = np.unique(splits.train.images)
    assert levels.min() == 0
    assert levels.max() == 255
    assert {16, 128} < set(levels.tolist())
    for part in (splits.train, splits.validation, splits.selection):
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert part.images.flags.c_contiguous
        assert set(part.labels) == set(range(10))
