"""The same net in fewer passes over memory: a twin that shares its parameters and its layers, and
calls some of them as one. The net itself stays as it is, and so do the names in its state.

Only an `nn.Sequential` says what follows what: parts elsewhere, as in the blocks of torchvision's
ResNets, stay apart.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.kernels.conv_norm import FusedConvNorm, can_fuse_convolution
from pipeline.kernels.library import missing
from pipeline.kernels.norm import FusedNorm, can_follow, can_fuse, halves
from pipeline.kernels.winograd import WinogradConv, can_transform


def fused(model: nn.Module) -> nn.Module:
    """For training on a CPU: each BatchNorm is one operation with the 2x2 pooling and the ReLU that
    follow it, in any order: a `FusedNorm`; where the processor has AMX, with the convolution before
    it, too: a `FusedConvNorm`. Other convolutions by 3x3 are a `WinogradConv`, which is another way
    in float32. The twin goes on with the net's weights as they change.

    Layers share their mode with the net's. Modules of other kinds that hold layers are in train
    mode. Hooks on containers are not called; those on convolutions may not be, or be given the
    twin's module in place of the net's.

    Raises:
        KernelError: the kernels can't be had on this machine.
    """
    return _rewritten(model, _with_fused_layers)


def folded(model: nn.Module) -> nn.Module:
    """For scoring on a CPU, of a net in eval mode: a BatchNorm after a convolution becomes part of
    its weights, as they are now (https://arxiv.org/abs/1712.05877, section 3.2); or, where it is
    pooled and there are kernels, a `FusedNorm`, which pools faster than torch. Where the processor
    has AMX, the two are a `FusedConvNorm`, and all this is for what that can't take. Convolutions
    that are left are as in `fused`."""
    return _rewritten(model, _with_folded_norms)


Parts = Iterable[nn.Module]


def _rewritten(model: nn.Module, rewrite: Callable[[Parts], Parts]) -> nn.Module:
    """The net's twin, the parts of each of whose Sequentials were rewritten."""
    if _is_sequential(model):
        parts = (_rewritten(part, rewrite) for part in _in_order(model))
        twin: nn.Module = nn.Sequential(*rewrite(parts))
        twin.training = model.training
        return twin
    children = {n: child and _rewritten(child, rewrite) for n, child in model._modules.items()}
    if not children:
        return WinogradConv.of(model) if can_transform(model) else model
    twin = copy.copy(model)
    twin._modules = children  # the copy's dict was still the net's own
    return twin


def _is_sequential(model: nn.Module) -> bool:
    return type(model).forward is nn.Sequential.forward


def _in_order(model: nn.Module) -> Iterator[nn.Module]:
    """What a Sequential calls, one after the other, with what is in others inside it."""
    for child in filter(None, model._modules.values()):
        yield from _in_order(child) if _is_sequential(child) else (child,)


def _with_fused_layers(parts: Parts) -> Iterator[nn.Module]:
    left = deque(parts)
    while left:
        part, norm = left.popleft(), left[0] if left else None
        if can_fuse(part):
            yield FusedNorm(part, *_following(left))
        elif norm is not None and can_fuse(norm) and can_fuse_convolution(part):
            left.popleft()
            yield FusedConvNorm(part, FusedNorm(norm, *_following(left)))
        else:
            yield part


def _with_folded_norms(parts: Parts) -> Iterator[nn.Module]:
    left = deque(parts)
    while left:
        part, norm = left.popleft(), left[0] if left else None
        if not (isinstance(part, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
            yield part
            continue
        left.popleft()
        following = _following(left)
        if can_fuse(norm) and can_fuse_convolution(part):
            apart = partial(_in_fewer_calls, part, norm, following)
            yield FusedConvNorm(part, FusedNorm(norm, *following), apart)
        else:
            yield from _in_fewer_calls(part, norm, following)


def _in_fewer_calls(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, following: list[nn.Module]
) -> nn.Sequential:
    if any(map(halves, following)) and can_fuse(norm) and not missing():
        return nn.Sequential(conv, FusedNorm(norm, *following))
    return nn.Sequential(fuse_conv_bn_eval(conv, norm), *following)


def _following(left: deque[nn.Module]) -> list[nn.Module]:
    """What a norm takes along of the parts that are left, which it is taken off."""
    following: list[nn.Module] = []
    while left and can_follow(left[0], following):
        following.append(left.popleft())
    return following
