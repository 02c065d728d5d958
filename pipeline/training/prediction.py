"""What a net says of images as they are: batch by batch, in eval mode, without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.kernels.images import can_prepare, prepared
from pipeline.training.twins import folded

EVAL_BATCH = {"cpu": 250, "cuda": 2_000}
"""Images of 32x32 that are scored at once; fewer where they are larger. A CPU is faster while its
activations fit into the cache."""


def eval_batch_size(image_size: Sequence[int], device: str = "cpu") -> int:
    """How many images of (H, W) are scored at once: as much memory as `EVAL_BATCH` of 32x32."""
    height, width = image_size
    most = EVAL_BATCH[device]
    return min(most, max(1, most * 32 * 32 // (height * width)))


@torch.no_grad()  # in inference mode, autocast would cast all weights anew for each batch
def predict(
    model: nn.Module, images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype
) -> Tensor:
    """Logits (N, K) float32 of un-augmented images (N, C, H, W) uint8, in eval mode.

    On a CPU several batches are shown to the net's `folded` twin, which gives the same but for
    rounding. The model is left in the mode it was found in.
    """
    was_training = model.training
    size = eval_batch_size(images.shape[-2:], images.device.type)
    # For a single batch folding costs what it saves; on a GPU it leaves as many passes as before.
    pays = images.device.type == "cpu" and len(images) > size
    net = folded(model.eval()) if pays else model.eval()
    in_kernel = can_prepare(images.shape[1], dtype, images.device)
    logits = []
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        for batch in torch.split(images, size):
            if in_kernel:
                inputs = prepared(batch, mean, std, dtype)
            else:
                inputs = batch.float().div_(255).sub_(mean).div_(std)
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            logits.append(net(inputs).float())
    model.train(was_training)
    return torch.cat(logits)
