"""Alternating flips: every image is seen both ways within two epochs.

From airbench (Keller Jordan, 2024, https://arxiv.org/abs/2404.00498): an image's first flip is
random, and from then on it alternates.
"""

from __future__ import annotations

from torch import Tensor


def alternating(indices: Tensor, epoch: int | Tensor, share: Tensor) -> Tensor:
    """Which images are mirrored in this epoch, (N,) bool.

    The first flip and whether an image takes part are hashes of its index: the same for every
    trial, and in need of neither state nor a generator.

    Args:
        indices: (N,) int64, positions in the training split.
        epoch: a count of epochs, as an int or a 0-d int64 tensor.
        share: 0-d in [0, 1], the share of the images that alternate; the others stay as they are.
    """
    bits = _hash(indices)
    takes_part = (bits >> 8) < share * 2**24
    return takes_part & ((bits + epoch) % 2 == 1)


def _hash(values: Tensor) -> Tensor:
    """32 well-mixed bits of each integer (multiply and shift, in int64 without overflow)."""
    for _ in range(2):
        values = ((values >> 16) ^ values) * 0x45D9F3B & 0xFFFFFFFF
    return (values >> 16) ^ values
