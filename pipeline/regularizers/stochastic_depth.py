"""Stochastic depth: an image skips whole residual branches (https://arxiv.org/abs/1603.09382)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from pipeline.regularizers.masks import RandomMask


class StochasticDepthSettings(Settings):
    stochastic_depth: Annotated[float, Field(ge=0, lt=1), Off(0.0)] = 0.0
    """Chance that an image skips the last residual block; it grows linearly with depth."""


def stochastic_depth(block: int, num_blocks: int) -> RandomMask:
    """A layer for the residual branch (N, ...) of block 1 <= `block` <= `num_blocks`.

    The paper's linear decay rule: block l of L is skipped with l / L of the rate. Branches that
    are kept are scaled up in training, where the paper scales them down in testing.
    """
    from pipeline.regularizers.masks import RandomMask

    return RandomMask("stochastic_depth", drawn_dims=1, share=block / num_blocks)
