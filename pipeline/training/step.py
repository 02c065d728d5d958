"""One update of the weights: forward, data loss, backward, penalty, clip, update.

A step belongs to no trial. What is searched is in 0-d tensors and small tables on the device, which
`begin` and `begin_epoch` fill in place; the weights and all that the update keeps stay at their
addresses. So one step, compiled or captured once, serves every trial of its structure.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.augmentation.augmentation import NUM_DRAWS, Augmentation
from pipeline.kernels.images import can_prepare, prepared
from pipeline.regularizers.label_smoothing import smoothed_cross_entropy
from pipeline.regularizers.masks import set_rates
from pipeline.regularizers.mixer import Draws, Mixing
from pipeline.regularizers.weight_averaging import WeightAverage
from pipeline.regularizers.weight_penalty import penalty
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData
from pipeline.training.flat_model import FlatModel, flatten
from pipeline.training.recipe import Recipe
from pipeline.training.structure import Structure
from pipeline.training.twins import fused


@dataclass(frozen=True)
class Targets:
    """What a batch is to be recognised as: (N,) int64 labels and, where images were mixed, the
    labels of their partners and each image's own share (N,) in [0, 1]."""

    labels: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None

    def mean(self, score: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean over the batch, 0-d, of a score that takes labels (N,) and gives (N,)."""
        own = score(self.labels)
        if self.partners is None or self.share is None:
            return own.mean()
        return torch.lerp(score(self.partners), own, self.share).mean()


class TrainStep:
    """Everything that changes from update to update, and the update itself.

    A training is `begin`, and for each epoch `begin_epoch` and as many calls as it has batches.
    Sums of an epoch gather on the device, in `sums`: data loss, penalty, correct answers (all
    weighted by image) and gradient norm (by update).

    Args:
        model: a net as `build_model` gives it; it is moved to the data's device, into the layout
            channels_last, and its parameters into one vector.
        data: the images, on the device.
        recipe: one that the step is to serve, for the sizes: batches, updates an epoch.
        structure: the parts that the step has.
        dtype: what autocast uses.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DeviceData,
        recipe: Recipe,
        structure: Structure,
        dtype: torch.dtype,
    ) -> None:
        device = data.mean.device
        self.data, self.structure, self.dtype, self.device = data, structure, dtype, device
        self.batch_size = min(recipe.training.batch_size, len(data.train))
        self.num_batches = len(data.train) // self.batch_size
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.flat = FlatModel(self.model)
        values = self.flat.values
        num_decayed = len(values) if structure.decays_all else self.flat.num_weights
        optimizer = recipe.training.optimizer
        self.rule = optimizer.build(values, num_decayed, in_kernel=device.type == "cpu")
        self.average = WeightAverage(self.flat.floats()) if structure.averages else None
        self.augmentation = Augmentation(
            recipe.augmentation, data.image_shape, device, structure=structure.augmentation
        )
        self.mixing = Mixing(recipe.regularization, device) if structure.mixes else None
        self.augmentation_stream = torch.Generator(device)
        self.mixing_stream = torch.Generator(device)
        self.sums = torch.zeros(4, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._smoothing, self._l1, self._l2, self._clip_norm = torch.zeros(
            4, device=device
        ).unbind()
        # One epoch's tables, a row a batch.
        shape = (self.num_batches, self.batch_size)
        self._epoch = torch.zeros((), dtype=torch.int64, device=device)
        self._learning_rates = torch.zeros(self.num_batches, device=device)
        self._order = torch.zeros(shape, dtype=torch.int64, device=device)
        num_draws = 0 if structure.augmentation.is_nothing else NUM_DRAWS
        self._augmentation_draws = torch.zeros(shape[0], num_draws, shape[1], device=device)
        self._mixing_draws = (
            None if self.mixing is None else self.mixing.draw(shape, self.mixing_stream)
        )
        # What is called in training, and whether its images are made by a kernel: see `fuse`.
        self.net, self._prepares = self.model, False
        # Set by `compile` alone: bound methods of its own would keep a step alive.
        self._forward: Callable[[], tuple[Tensor, Tensor]] | None = None
        self._update: Callable[[tuple[Tensor, ...], Tensor, Tensor], None] | None = None
        set_rates(self.model, recipe.regularization, structure.masks)

    def begin(self, recipe: Recipe, seeds: TrialSeeds) -> None:
        """Take another training, in the same storage, from the weights that the model has.

        Args:
            recipe: of a structure that the step's own covers.
        """
        regularization = recipe.regularization
        set_rates(self.model, regularization, self.structure.masks)
        self.augmentation.update(recipe.augmentation)
        self.augmentation_stream.manual_seed(seeds.augmentation)
        if self.mixing is not None:
            self.mixing.update(regularization)
        self.mixing_stream.manual_seed(seeds.mixing)
        if self.average is not None:
            self.average.reset(regularization.ema_decay)
        self.rule.reset(recipe.training.optimizer.numbers())
        self._smoothing.fill_(regularization.label_smoothing)
        self._l1.fill_(regularization.l1)
        self._l2.fill_(regularization.l2)
        self._clip_norm.fill_(recipe.training.gradient_clip_norm)

    def begin_epoch(self, epoch: int, order: Tensor, learning_rates: Tensor) -> None:
        """Lay out an epoch: its chance is drawn here, so that no update has any but dropout's.

        Args:
            epoch: counted from 1.
            order: (num_batches, batch_size) int64, positions in the training split.
            learning_rates: (num_batches,) float32, of the updates.
        """
        self._epoch.fill_(epoch)
        self._order.copy_(order)
        self._learning_rates.copy_(learning_rates)
        self._augmentation_draws.uniform_(generator=self.augmentation_stream)
        if self.mixing is not None and self._mixing_draws is not None:
            drawn = self.mixing.draw(self._order.shape, self.mixing_stream)
            for table, draws in zip(self._mixing_draws, drawn, strict=True):
                table.copy_(draws)
        self.rewind()

    def rewind(self) -> None:
        """Back to the epoch's first batch; its sums are forgotten."""
        self.position.zero_()
        self.sums.zero_()

    def __call__(self) -> None:
        """Update the weights on the epoch's next batch."""
        data_loss, accuracy = (self._forward or self.forward)()
        gradients = torch.autograd.grad(data_loss, self.flat.parameters, materialize_grads=True)
        (self._update or self.update)(gradients, data_loss.detach(), accuracy)

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Have torch.compile build one graph for all before the backward pass, and one for all
        after it. They are built at the first call."""
        self.rule.in_kernel = False
        build = partial(torch.compile, fullgraph=True, dynamic=False, backend=backend)
        self._forward, self._update = build(self.forward), build(self.update)

    def fuse(self) -> None:
        """Have a norm, the pooling and the ReLU after it run as one operation, with kernels for a
        CPU; on one with AMX, with the convolution before it. And augmentation as one, unless it is
        RandAugment or there are more channels than the kernel takes.

        Raises:
            RuntimeError: it is no CPU, or the kernels can't be had.
        """
        if self.device.type != "cpu":
            raise RuntimeError("the fused kernels are for a CPU")
        self.net = fused(self.model)
        num_channels = self.data.image_shape[0]
        fits = can_prepare(num_channels, self.dtype, self.device)
        self._prepares = fits and not self.augmentation.structure.num_ops

    def forward(self) -> tuple[Tensor, Tensor]:
        """Data loss and accuracy on the next batch, 0-d float32."""
        images, targets = self.batch()
        logits = self.logits(images)
        data_loss = targets.mean(lambda y: smoothed_cross_entropy(logits, y, self._smoothing))
        answers = logits.detach().argmax(dim=1)
        return data_loss, targets.mean(lambda y: (answers == y).float())

    def logits(self, images: Tensor) -> Tensor:
        """The net's answers (N, K) float32 to normalised images (N, C, H, W)."""
        # Each weight is used once a step: a cache of the cast ones would only outlive a capture.
        with torch.autocast(
            self.device.type,
            self.dtype,
            enabled=self.dtype != torch.float32,
            cache_enabled=False,
        ):
            logits: Tensor = self.net(images)
        return logits.float()

    @torch.no_grad()
    def update(self, gradients: tuple[Tensor, ...], data_loss: Tensor, accuracy: Tensor) -> None:
        """Penalty, clipping, the optimizer's update at the schedule's learning rate, the average.

        A number that isn't finite stays in the sums, where the epoch's end finds it: a check of
        each update would wait for the device.
        """
        gradient = flatten(gradients)
        weight_penalty = torch.zeros_like(data_loss)
        if self.structure.penalizes:
            weights = self.flat.values[: self.flat.num_weights]
            weight_penalty, pull = penalty(weights, self._l1, self._l2)
            gradient[: self.flat.num_weights].add_(pull)
        norm = torch.linalg.vector_norm(gradient)
        if self.structure.clips:
            scale = (self._clip_norm / (norm + 1e-6)).clamp(max=1.0)
            gradient.mul_(torch.where(self._clip_norm > 0, scale, 1.0))
        self.rule(gradient, self._learning_rates.index_select(0, self.position)[0])
        if self.average is not None:
            self.average.update()
        self.sums.add_(torch.stack([data_loss, weight_penalty, accuracy, norm]))
        self.position.add_(1)

    def averaged(self) -> AbstractContextManager[None]:
        """The model holds the weights that are to be scored: the average where there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def state_dict(self) -> dict[str, Any]:
        """All but the model's own state, between two epochs; tensors are not copied."""
        return {
            "rule": self.rule.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "augmentation_stream": self.augmentation_stream.get_state(),
            "mixing_stream": self.mixing_stream.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the saved state of a step with the same settings, after `begin`."""
        self.rule.load_state_dict(state["rule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.augmentation_stream.set_state(state["augmentation_stream"])
        self.mixing_stream.set_state(state["mixing_stream"])

    def batch(self) -> tuple[Tensor, Targets]:
        """The augmented, normalised and mixed images (N, C, H, W), float32 or what autocast uses,
        and their targets."""
        split = self.data.train
        indices = self._row(self._order)
        draws = self._row(self._augmentation_draws)
        mean, std = self.data.mean, self.data.std
        if self._prepares:
            changes = self.augmentation.changes(indices, self._epoch, draws)
            dtype = self.dtype if self.mixing is None else torch.float32
            images = prepared(split.images, mean, std, dtype, indices, changes)
        else:
            images = self.augmentation.apply(split.images[indices], indices, self._epoch, draws)
            images = images.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)
        labels = split.labels[indices]
        if self.mixing is None or self._mixing_draws is None:
            return images, Targets(labels)
        rows = Draws(*(self._row(table) for table in self._mixing_draws))
        images, permutation, share = self.mixing.apply(images, rows)
        return images, Targets(labels, labels[permutation], share)

    def _row(self, table: Tensor) -> Tensor:
        """The present batch's row of an epoch's table."""
        return table.index_select(0, self.position).squeeze(0)
