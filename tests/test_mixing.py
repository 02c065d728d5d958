"""MixUp and CutMix: the share of the labels is the share of the pixels."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from pipeline.regularizers.mixer import Mixing, MixingSettings, outside_box, symmetric_beta


def batch(num_images: int = 64, side: int = 16) -> Tensor:
    return torch.rand(num_images, 3, side, side, generator=torch.Generator().manual_seed(1))


def numbered(num_images: int, side: int = 16) -> Tensor:
    """Every pixel of an image is the image's number."""
    return torch.arange(num_images).float().view(-1, 1, 1, 1).expand(-1, 3, side, side)


def mix(
    images: Tensor, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    settings = MixingSettings(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
    return Mixing(settings, "cpu")(images, torch.Generator().manual_seed(seed))


def test_alpha_zero_is_the_bit_exact_identity() -> None:
    mixed, _, lam = mix(batch())
    assert torch.equal(mixed, batch())
    assert (lam == 1).all()


def test_mixup_blends_with_the_partner_by_lam() -> None:
    images = batch()
    mixed, partner, lam = mix(images, mixup_alpha=1.0)
    assert partner.sort().values.tolist() == list(range(64))
    weight = lam[:, None, None, None]
    torch.testing.assert_close(mixed, weight * images + (1 - weight) * images[partner])
    assert lam.unique().numel() > 60  # each image draws its own


def test_cutmix_lam_is_exactly_the_share_of_pixels_left() -> None:
    images = numbered(500)
    mixed, partner, lam = mix(images, cutmix_alpha=1.0)
    own, other = mixed == images, mixed == images[partner]
    assert (own | other).all()
    elsewhere = partner != torch.arange(500)
    assert torch.equal(own.float().mean((1, 2, 3))[elsewhere], lam[elsewhere])
    assert lam.min() < 0.3
    assert lam.max() > 0.9


def test_cutmix_replaces_one_rectangle() -> None:
    mixed, partner, _ = mix(numbered(200), cutmix_alpha=1.0)
    pasted = (mixed != numbered(200))[partner != torch.arange(200), 0]
    height, width = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert torch.equal(height * width, pasted.sum((1, 2)))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 0.4), (0.4, 0.4)])
def test_the_mass_of_every_label_is_kept(mixup: float, cutmix: float) -> None:
    images = numbered(64)
    mixed, partner, lam = mix(images, mixup, cutmix)
    number = torch.arange(64.0)
    expected = lam * number + (1 - lam) * number[partner]
    torch.testing.assert_close(mixed.mean((1, 2, 3)), expected)


def test_with_both_on_each_batch_draws_one_of_the_two_evenly() -> None:
    num_cutmix = 0
    for seed in range(400):
        mixed, _, _ = mix(numbered(8, side=8), mixup_alpha=1.0, cutmix_alpha=1.0, seed=seed)
        num_cutmix += int((mixed == mixed.round()).all())
    assert num_cutmix == pytest.approx(200, abs=50)  # 10 is one sigma


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_beta_has_its_moments(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    lam = symmetric_beta(torch.full((40_000,), alpha), generator)
    assert lam.mean().item() == pytest.approx(0.5, abs=0.01)
    assert lam.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_beta_with_alpha_one_is_uniform() -> None:
    lam = symmetric_beta(torch.ones(40_000), torch.Generator().manual_seed(0)).sort().values
    uniform = (torch.arange(40_000) + 0.5) / 40_000
    assert (lam - uniform).abs().max() < 0.01  # Kolmogorov-Smirnov: 0.0068 at 5 %


@pytest.mark.parametrize("alpha", [1e-30, 1e-3, 1e4])
def test_beta_survives_extreme_alphas(alpha: float) -> None:
    lam = symmetric_beta(torch.full((1000,), alpha), torch.Generator().manual_seed(0))
    assert ((lam >= 0) & (lam <= 1)).all()
    if alpha < 1:
        assert (lam > 0.5).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_box_by_hand() -> None:
    # A quarter of 8 x 8 is a box of 4 x 4; around the corner (0, 0) only 2 x 2 of it is inside.
    lam = torch.tensor([0.75, 0.75, 1.0])
    centre = torch.tensor([0.5, 0.0, 0.5]), torch.tensor([0.5, 0.0, 0.5])
    outside = outside_box(lam, centre, (8, 8))
    assert outside.mean((1, 2)).tolist() == [0.75, 60 / 64, 1.0]
    assert outside[0, 2:6, 2:6].sum() == 0
    assert outside[1, :2, :2].sum() == 0


def test_a_seed_gives_the_same_mix_and_update_equals_a_new_one() -> None:
    mixing = Mixing(MixingSettings(mixup_alpha=1.0), "cpu")
    mixing.update(MixingSettings(cutmix_alpha=0.5))
    updated = mixing(batch(), torch.Generator().manual_seed(5))
    for left, right in zip(updated, mix(batch(), cutmix_alpha=0.5, seed=5), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(updated[0], mix(batch(), cutmix_alpha=0.5, seed=6)[0])


@pytest.mark.parametrize("alphas", [(1.0, 0.0), (0.0, 1.0)])
def test_type_and_memory_format_are_kept(alphas: tuple[float, float]) -> None:
    images = batch().to(torch.bfloat16, memory_format=torch.channels_last)
    mixed, _, lam = mix(images, *alphas)
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert lam.dtype == torch.float32


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        MixingSettings(mixup_alpha=-0.1)


def test_one_compiled_graph_serves_every_trial() -> None:
    graphs = CompileCounter()
    mixing = Mixing(MixingSettings(), "cpu")
    step = torch.compile(mixing.apply, backend=graphs, fullgraph=True)
    for mixup, cutmix in ((0.2, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)):
        mixing.update(MixingSettings(mixup_alpha=mixup, cutmix_alpha=cutmix))
        draws = mixing.draw((64,), torch.Generator().manual_seed(2))
        for left, right in zip(step(batch(), draws), mixing.apply(batch(), draws), strict=True):
            assert torch.equal(left, right)
    assert graphs.frame_count == 1
