"""Images as a net takes them, on a CPU: from bytes to normalized values in one pass over each."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.augmentation.changes import Changes
from pipeline.augmentation.colour import grey_weights
from pipeline.kernels.library import library, missing
from pipeline.kernels.norm import DTYPES, addresses, room

MOST_CHANNELS = 4


def can_prepare(num_channels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is a kernel for such images, to become values of this dtype."""
    fits = num_channels <= MOST_CHANNELS and dtype in DTYPES and device.type == "cpu"
    return fits and not missing()


NOTHING = Changes()


def prepared(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    indices: Tensor | None = None,
    changes: Changes = NOTHING,
) -> Tensor:
    """Moved, recoloured, blanked and normalized, in this order; clamped to [0, 1] before that.

    Args:
        images: (M, C, H, W) uint8, C at most 4.
        mean, std: C values float32 each, of images in [0, 1].
        dtype: float32 or bfloat16; the arithmetic is float32.
        indices: (N,) int64, which images are taken; all in order, if left out.
        changes: of the N images.

    Returns:
        (N, C, H, W), channels_last.

    Raises:
        KernelError: the kernels can't be had on this machine.
    """
    _, *size = images.shape
    count = len(images) if indices is None else len(indices)
    result = room((count, *size), dtype)
    given = (images, indices, changes.maps, changes.colours, changes.erased, mean, std)
    held = [None if tensor is None else tensor.contiguous() for tensor in given]
    grey = torch.tensor(grey_weights(size[0]))
    library().prepare_images(
        *addresses(*held, grey, result),
        count,
        *size,
        dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return result
