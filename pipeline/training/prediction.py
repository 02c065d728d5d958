"""What a net says of images as they are: batch by batch, in eval mode, without gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

EVAL_BATCH = {"cpu": 250, "cuda": 2_000}
"""Images of 32x32 that are scored at once; fewer where they are larger. A CPU is faster while its
activations fit into the cache."""


def eval_batch_size(image_size: Sequence[int], device: str = "cpu") -> int:
    """How many images of (H, W) are scored at once: as much memory as `EVAL_BATCH` of 32x32."""
    height, width = image_size
    most = EVAL_BATCH[device]
    return min(most, max(1, most * 32 * 32 // (height * width)))


@torch.inference_mode()
def predict(
    model: nn.Module, images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype
) -> Tensor:
    """Logits (N, K) float32 of un-augmented images (N, C, H, W) uint8, in eval mode.

    On a CPU, several batches are shown to the net with its BatchNorms `folded`. The model is left
    in the mode it was found in.
    """
    was_training = model.training
    size = eval_batch_size(images.shape[-2:], images.device.type)
    # For a single batch folding costs what it saves; on a GPU it leaves as many passes as before.
    pays = images.device.type == "cpu" and len(images) > size
    net = folded(model.eval()) if pays else model.eval()
    logits = []
    for batch in torch.split(images, size):
        inputs = batch.float().div_(255).sub_(mean).div_(std)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            logits.append(net(inputs.contiguous(memory_format=torch.channels_last)).float())
    model.train(was_training)
    return torch.cat(logits)


def folded(model: nn.Module) -> nn.Module:
    """The same function of a net in eval mode, in fewer passes: in an `nn.Sequential`, a BatchNorm
    after a convolution becomes part of its weights (https://arxiv.org/abs/1712.05877, section 3.2).

    The net itself stays as it is, and shares all else. Pairs elsewhere, as in the blocks of
    torchvision's ResNets, stay apart: only a Sequential says what follows what.
    """
    twin = copy.copy(model)
    children = {name: child and folded(child) for name, child in model._modules.items()}
    if type(model).forward is nn.Sequential.forward:
        for name, following in pairwise(children):
            conv, norm = children[name], children[following]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                children[name] = fuse_conv_bn_eval(conv, norm)
                children[following] = nn.Identity()
    twin._modules = children  # the copy's dict was still the net's own
    return twin
