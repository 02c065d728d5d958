"""A model as files: a graph and weights that need neither regsearch nor pickles to be loaded."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.settings import Settings

_EXAMPLE_IMAGES = 2  # torch.export takes a batch of one for a constant
_REQUIREMENTS = ("mlflow", "torch", "numpy")
_EXPORTER = "torch.export._trace"
_ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


class ModelInfo(Settings):
    """What a model must carry to be used and to be judged; saved with it as MLflow metadata."""

    class_names: tuple[str, ...]
    """What the columns of its output stand for."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of its images."""
    mean: tuple[float, ...]
    """Mean of each channel of the training images, in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel of the training images, in [0, 1]."""
    metrics: dict[str, float]
    """What the search measured, by the metrics' names."""
    data: dict[str, Any]
    """The settings of its data, as JSON has them."""
    data_digest: str
    """Digest of the images that the search saw."""
    seed: int
    """The study's seed, which drew the splits."""
    num_nets: int = 1
    """So many nets' probabilities are averaged."""


@dataclass(frozen=True)
class LoadedModel:
    """A saved model: its module, on the CPU, does as `InferenceModel`."""

    module: nn.Module
    info: ModelInfo
    model_id: str
    run_id: str


class InferenceModel(nn.Module):
    """Float32 images (N, C, H, W) in [0, 1] -> normalized -> class probabilities (N, K).

    Args:
        model: maps normalized images to logits; it is copied, so neither its mode nor its device
            changes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.model = (
            copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
        )
        self.register_buffer("mean", torch.tensor(info.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(info.std).view(1, -1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((images - self.mean) / self.std)
        return logits.softmax(dim=1)


def load_ahead() -> None:
    """Load what `save` needs of torch, which takes two seconds, while there is nothing else to do.

    Not in a thread: two that import torch's modules at once may each get half of one.
    """
    with suppress(ImportError):  # another torch may have it elsewhere, and finds it in time
        import_module(_EXPORTER)


def save(model: InferenceModel, info: ModelInfo, path: Path, meta: Model) -> None:
    """Writes an MLflow model folder; `meta` says which run and logged model it belongs to.

    Raises:
        RuntimeError: what was saved does not answer as the model does.
    """
    float32 = np.dtype(np.float32)
    meta.metadata = info.model_dump(mode="json")
    mlflow.pytorch.save_model(
        model,
        path,
        mlflow_model=meta,
        serialization_format="pt2",
        signature=ModelSignature(
            Schema([TensorSpec(float32, (-1, *info.image_shape))]),
            Schema([TensorSpec(float32, (-1, len(info.class_names)))]),
        ),
        input_example=np.zeros((_EXAMPLE_IMAGES, *info.image_shape), np.float32),
        pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIREMENTS],
    )
    # The graph stays on the device it was exported on: without this, MLflow asks for cuda:0 where
    # there is one, and refuses the model.
    meta.flavors["python_function"]["config"]["device"] = "cpu"
    meta.save(str(path / "MLmodel"))
    _check(model, info, path)


def load(path: Path) -> LoadedModel:
    """A saved model and what it carries, from a local folder; nothing in it is executed.

    Raises:
        UserError: the folder holds no model that `save` wrote, or one that brings code.
    """
    try:
        meta = Model.load(str(path))
        _refuse_code(path, meta.flavors.get("pytorch", {}))
        info = ModelInfo.model_validate_json(json.dumps(meta.metadata))
        with _without_pickle(), warnings.catch_warnings():
            # torch 2.11 warns that it reads the weights in place, and leaves them as they are.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            module = mlflow.pytorch.load_model(str(path))
    except (MlflowException, ValidationError) as error:
        raise UserError(
            f"this model cannot be loaded safely: {error}",
            rule="a pt2 graph with its metadata; code and pickles are never executed",
            cure="evaluate a model that `regsearch run` registered",
        ) from None
    return LoadedModel(module, info, str(meta.model_id), str(meta.run_id))


def _refuse_code(path: Path, flavor: Mapping[str, Any]) -> None:
    """MLflow would put `code` on the import path, and import what a pickled model names."""
    files = {file.name for file in (path / "data").glob("*")}
    if flavor.get("model_data") != "data" or flavor.get("code") or files != {"model.pt2"}:
        raise MlflowException("it is more, or less, than a pt2 graph")


@contextmanager
def _without_pickle() -> Iterator[None]:
    """MLflow checks a pt2 archive for pickles only where this variable forbids them."""
    before = os.environ.get(_ALLOW_PICKLE)
    os.environ[_ALLOW_PICKLE] = "false"
    try:
        yield
    finally:
        del os.environ[_ALLOW_PICKLE]
        if before is not None:
            os.environ[_ALLOW_PICKLE] = before


def _check(model: InferenceModel, info: ModelInfo, path: Path) -> None:
    """Batch sizes that the export did not see: a graph can silently be bound to the one it saw."""
    exported = load(path).module
    for size in (1, 3):
        images = torch.rand(size, *info.image_shape, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            if not torch.allclose(exported(images), model(images), atol=1e-5):
                raise RuntimeError(f"the exported model answers differently to {size} images")


def _public_version(package: str) -> str:
    return installed_version(package).partition("+")[0]
