"""The same net in fewer passes over memory: a twin that shares its parameters and its layers, and
calls some of them as one. The net itself stays as it is, and so do the names in its state.

Only an `nn.Sequential` says what follows what: parts elsewhere, as in the blocks of torchvision's
ResNets, stay apart.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator

from torch import nn

from pipeline.kernels.norm import FusedNorm, can_follow, can_fuse


def fused(model: nn.Module) -> nn.Module:
    """A net on a CPU, each of whose BatchNorms is one operation with the 2x2 pooling and the ReLU
    that follow it, in any order: a `FusedNorm`. The twin goes on with the net's weights as they
    change.

    Raises:
        KernelError: the kernels can't be had on this machine.
    """
    if _is_sequential(model):
        return nn.Sequential(*_with_fused_norms(_in_order(model)))
    return _twin(model, {name: child and fused(child) for name, child in model._modules.items()})


def _twin(model: nn.Module, children: dict[str, nn.Module | None]) -> nn.Module:
    """The module with other children; without any, there is nothing to change."""
    if not children:
        return model
    twin = copy.copy(model)
    twin._modules = children  # the copy's dict was still the net's own
    return twin


def _is_sequential(model: nn.Module) -> bool:
    return type(model).forward is nn.Sequential.forward


def _in_order(model: nn.Module) -> Iterator[nn.Module]:
    """What a Sequential calls, one after the other, with what is in others inside it."""
    for child in filter(None, model._modules.values()):
        yield from _in_order(child) if _is_sequential(child) else (fused(child),)


def _with_fused_norms(parts: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The parts, each norm with what it takes along."""
    left = deque(parts)
    while left:
        part, following = left.popleft(), list[nn.Module]()
        if not can_fuse(part):
            yield part
            continue
        while left and can_follow(left[0], following):
            following.append(left.popleft())
        yield FusedNorm(part, *following)
