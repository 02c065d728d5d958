"""One update of the weights: forward, data loss, penalty, backward, clip, update.

What is searched enters as a 0-d tensor on the device, so that one step serves every trial.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.augmentation.augmentation import Augmentation
from pipeline.lr_schedules import Schedule
from pipeline.optimizers import build_optimizer, parameter_groups
from pipeline.regularizers.label_smoothing import smoothed_cross_entropy
from pipeline.regularizers.mixer import Mixing
from pipeline.regularizers.weight_averaging import WeightAverage
from pipeline.regularizers.weight_penalty import penalty
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData
from pipeline.training.recipe import Recipe


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

    Sums of an epoch gather on the device, in `sums`: data loss, penalty, correct answers (all
    weighted by image) and gradient norm (by update).
    """

    def __init__(
        self,
        model: nn.Module,
        data: DeviceData,
        recipe: Recipe,
        schedule: Schedule,
        seeds: TrialSeeds,
        dtype: torch.dtype,
    ) -> None:
        device = data.mean.device
        regularization = recipe.regularization
        self.model, self.data, self.recipe, self.schedule = model, data, recipe, schedule
        self.dtype, self.device = dtype, device
        self.optimizer = build_optimizer(model, recipe.training.optimizer)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.decayed, _ = parameter_groups(model)
        self.augmentation = Augmentation(recipe.augmentation, data.image_shape, device)
        self.augmentation_stream = torch.Generator(device).manual_seed(seeds.augmentation)
        mixes = regularization.mixup_alpha > 0 or regularization.cutmix_alpha > 0
        self.mixing = Mixing(regularization, device) if mixes else None
        self.mixing_stream = torch.Generator(device).manual_seed(seeds.mixing)
        decay = regularization.ema_decay
        self.average = WeightAverage(model, decay) if decay > 0 else None
        self.smoothing = torch.tensor(regularization.label_smoothing, device=device)
        self.l1 = torch.tensor(regularization.l1, device=device)
        self.l2 = torch.tensor(regularization.l2, device=device)
        self.has_penalty = regularization.l1 > 0 or regularization.l2 > 0
        self.no_penalty = torch.zeros((), device=device)
        self.sums = torch.zeros(4, device=device)
        self.num_updates = 0

    def __call__(self, indices: Tensor, epoch: int) -> None:
        """Update the weights on one batch of training images, given by position: (N,) int64."""
        images, targets = self._batch(indices, epoch)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(images)
        logits = logits.float()
        data_loss = targets.mean(lambda y: smoothed_cross_entropy(logits, y, self.smoothing))
        weight_penalty = self._penalty()

        self.optimizer.zero_grad(set_to_none=True)
        (data_loss + weight_penalty).backward()  # type: ignore[no-untyped-call]
        norm = self._clip()
        # A number that isn't finite stays in the sums, where the epoch's end finds it: a check of
        # each update would wait for the device.
        answers = logits.argmax(dim=1)
        accuracy = targets.mean(lambda y: (answers == y).float())
        self.sums += torch.stack([data_loss, weight_penalty, accuracy, norm]).detach()
        self._update()

    def averaged(self) -> AbstractContextManager[None]:
        """The model holds the weights that are to be scored: the average where there is one."""
        return nullcontext() if self.average is None else self.average.applied_to(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All but the model's own state, between two epochs; tensors are not copied."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "augmentation_stream": self.augmentation_stream.get_state(),
            "mixing_stream": self.mixing_stream.get_state(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the saved state of a step with the same settings; tensors are taken over."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.augmentation_stream.set_state(state["augmentation_stream"])
        self.mixing_stream.set_state(state["mixing_stream"])
        self.num_updates = state["num_updates"]
        self.sums.zero_()

    def _batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Targets]:
        """The augmented, normalised and mixed images (N, C, H, W) float, and their targets."""
        split = self.data.train
        images = self.augmentation(split.images[indices], indices, epoch, self.augmentation_stream)
        images = (images - self.data.mean) / self.data.std
        images = images.contiguous(memory_format=torch.channels_last)
        labels = split.labels[indices]
        if self.mixing is None:
            return images, Targets(labels)
        images, permutation, share = self.mixing(images, self.mixing_stream)
        return images, Targets(labels, labels[permutation], share)

    def _penalty(self) -> Tensor:
        return penalty(self.decayed, self.l1, self.l2) if self.has_penalty else self.no_penalty

    def _clip(self) -> Tensor:
        """Scale the gradients down where asked; the norm that they had before, 0-d."""
        limit = self.recipe.training.gradient_clip_norm
        if limit:
            return nn.utils.clip_grad_norm_(self.parameters, limit)
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def _update(self) -> None:
        """The optimizer's update at the schedule's learning rate, and the average's."""
        base = self.recipe.training.optimizer.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = base * self.schedule.multiplier(self.num_updates)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self.num_updates += 1
