"""MixUp and CutMix: each image is mixed with another of its batch.

The loss of a mixed image is `lam * loss(own label) + (1 - lam) * loss(partner's label)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.regularizers.mixing import MixingSettings


class Draws(NamedTuple):
    """The chance of a batch of N images, or of several in a row: (..., N) each, but for one bool.

    Attributes:
        permutation: int64, each image's partner within its batch.
        use_cutmix: (...), whether this batch is CutMix's rather than MixUp's.
        lam: the weight drawn for the image itself.
        centre_y, centre_x: where a box is, over the image's side.
    """

    permutation: Tensor
    use_cutmix: Tensor
    lam: Tensor
    centre_y: Tensor
    centre_x: Tensor


class Mixing:
    """MixUp (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899).

    Both are a blend with the partner by a weight for each pixel: constant in MixUp, 0 inside a box
    and 1 outside in CutMix. Weights and boxes are drawn for each image, partners for the batch.
    With both alphas 0 images come back unchanged. Nothing here waits for the device.

    Args:
        settings: the alphas.
        device: where the images are.
    """

    def __init__(self, settings: MixingSettings, device: torch.device | str) -> None:
        self._alphas = torch.zeros(2, device=device)
        self._cutmix_probability = torch.zeros((), device=device)
        self.update(settings)

    def update(self, settings: MixingSettings) -> None:
        """Takes other settings, in place, so that a captured step goes on with them."""
        mixup, cutmix = settings.mixup_alpha, settings.cutmix_alpha
        self._alphas.copy_(torch.tensor([mixup, cutmix]))
        self._cutmix_probability.fill_((cutmix > 0) / max(1, (mixup > 0) + (cutmix > 0)))

    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Mixes one batch.

        Args:
            images: (N, C, H, W), any floating type, which is kept.
            generator: on the device; the only source of chance.

        Returns:
            The mixed images; (N,) int64, each image's partner; (N,) float32 in [0, 1], the weight
            of each image's own label, which in CutMix is the share of its pixels that are left.
        """
        return self.apply(images, self.draw((len(images),), generator))

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Draws:
        """All the chance of batches, for `apply`: of the shape (..., N)."""
        device = self._alphas.device
        order, *centre = torch.rand(3, *shape, generator=generator, device=device)
        coin = torch.rand(shape[:-1], generator=generator, device=device)
        use_cutmix = coin < self._cutmix_probability
        alpha = torch.where(use_cutmix, self._alphas[1], self._alphas[0])
        lam = symmetric_beta(alpha[..., None].expand(*shape), generator)
        return Draws(order.argsort(dim=-1), use_cutmix, lam, centre[0], centre[1])

    def apply(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """The arithmetic of a call on one batch, apart from its chance."""
        permutation, use_cutmix, lam, *centre = draws
        height, width = images.shape[2:]
        kept = outside_box(lam, centre, (height, width))
        lam = torch.where(use_cutmix, kept.mean(dim=(1, 2)), lam)
        weight = torch.where(use_cutmix, kept, lam[:, None, None])[:, None].to(images.dtype)
        return torch.lerp(images[permutation], images, weight), permutation, lam


def symmetric_beta(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), the shape of `alpha`; 1 where alpha is 0.

    torch.distributions takes no generator. A Gamma(a) is a Gamma(a + 1) times U^(1 / a); in
    logarithms, their ratio survives alphas so small that both would be 0.
    """
    both = torch.stack([alpha, alpha])
    uniform = torch.rand(both.shape, generator=generator, device=alpha.device)
    gamma: Tensor = torch._standard_gamma(both + 1, generator)
    log_gamma = gamma.log() + (1 - uniform).log() / both
    return torch.where(alpha > 0, (log_gamma[0] - log_gamma[1]).sigmoid(), 1.0)


def outside_box(lam: Tensor, centre: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
    """1 outside a box of about (1 - lam) of the area, 0 inside, (N, H, W) float32.

    Args:
        lam: (N,) in [0, 1].
        centre: (N,) twice, y and x over the image's side; what hangs over the edge is cut off.
        image_size: (H, W).
    """
    outside = []
    for position, side in zip(centre, image_size, strict=True):
        half = (side * (1 - lam).sqrt() / 2).floor()[:, None]
        distance = torch.arange(side, device=lam.device) - (position * side).floor()[:, None]
        outside.append((distance < -half) | (distance >= half))
    return (outside[0][:, :, None] | outside[1][:, None, :]).float()
