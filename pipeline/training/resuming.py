"""What a resumed training needs beside its parts' states: the default generators, and a guard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.data import DeviceData
from pipeline.training.recipe import Recipe
from pipeline.training.structure import Structure

LAYOUT = "2"
"""Of a training's state: to be raised when its keys change, so that older states are refused."""


class OtherTrainingError(ValueError):
    """A state is of another training: another net, recipe, device or number of images."""


def identity(
    model: nn.Module, data: DeviceData, recipe: Recipe, structure: Structure
) -> dict[str, str]:
    """What tells a training from those that cannot go on from its state, by name, as text."""
    settings = recipe.model_dump(include=set(Recipe.model_fields))
    weights = {
        f"weight {name}": f"{tuple(value.shape)} {value.dtype}"
        for name, value in model.state_dict().items()
    }
    own = {"layout": LAYOUT, "device": data.mean.device.type, "images": str(len(data.train))}
    parts = {f"step {name}": repr(value) for name, value in asdict(structure).items()}
    parts["step masks"] = repr(sorted(structure.masks))  # a set has no order
    return own | dict(_texts("", settings)) | parts | weights


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """The dotted path and the text of every setting below `path`."""
    if not isinstance(value, dict):
        yield path, repr(value)
        return
    for name, entry in value.items():
        yield from _texts(f"{path}.{name}" if path else name, entry)


def require_same(saved: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Raise `OtherTrainingError` for the first difference between two identities."""
    for name in {**own, **saved}:
        if saved.get(name) != own.get(name):
            raise OtherTrainingError(
                f"the state is of another training: {name} is {saved.get(name, 'absent')}, "
                f"and here {own.get(name, 'absent')}"
            )


def default_streams(device: torch.device) -> dict[str, Tensor]:
    """The states of the default generators of the CPU and of the device, by its type; uint8."""
    streams = {"cpu": torch.get_rng_state()}
    return streams | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_default_streams(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on with the chance that `default_streams` has noted."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
