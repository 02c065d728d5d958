"""What decides the code of a training step: trainings of one structure can share a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.augmentation.augmentation import Structure as AugmentationStructure
from pipeline.training.recipe import Recipe

MASKS = ("dropout", "spatial_dropout", "stochastic_depth")


@dataclass(frozen=True)
class Structure:
    """The parts that a step has. With a part's strength at 0 it changes nothing: to the last bit,
    but for a crop or flip beside a part that resamples, where a side of the images is no power of
    2: that differs by rounding.

    Attributes:
        update: names the optimizer's rule.
        decays_all: whether biases and norms decay too.
        augmentation: the augmentation's parts.
        masks: the kinds of dropout that are drawn.
        mixes, penalizes, clips, averages: whether there is mixing of images, a penalty on the
            weights, clipping of gradients, an average of the weights.
    """

    update: str
    decays_all: bool
    augmentation: AugmentationStructure
    masks: frozenset[str]
    mixes: bool
    penalizes: bool
    clips: bool
    averages: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Structure:
        """The parts that a recipe needs."""
        how, settings = recipe.training, recipe.regularization
        return cls(
            update=how.optimizer.structure,
            decays_all=how.optimizer.decay_norm_and_bias,
            augmentation=AugmentationStructure.of(recipe.augmentation),
            masks=frozenset(name for name in MASKS if getattr(settings, name) > 0),
            mixes=settings.mixup_alpha > 0 or settings.cutmix_alpha > 0,
            penalizes=settings.l1 > 0 or settings.l2 > 0,
            clips=how.gradient_clip_norm > 0,
            averages=settings.ema_decay > 0,
        )

    def widened(self, others: Iterable[Structure]) -> Structure:
        """This structure with the others' parts too, so that trials of a study share their step.

        What cannot be had beside one another (the optimizer's rule, the way of flipping) stays.
        """
        wide = self
        for other in others:
            wide = replace(
                wide,
                augmentation=wide.augmentation.widened(other.augmentation),
                masks=wide.masks | other.masks,
                mixes=wide.mixes or other.mixes,
                penalizes=wide.penalizes or other.penalizes,
                clips=wide.clips or other.clips,
                averages=wide.averages or other.averages,
            )
        return wide
