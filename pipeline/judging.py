"""A finished net on the selection images, at which the search's own workers do not look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.answers import Answers, Judged, answers_of
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.metrics import classification_metrics
from pipeline.training.prediction import predict


@dataclass(frozen=True)
class Judge:
    """Scores nets on the selection images.

    Args:
        selection: the images, on the nets' device.
        data: whose mean and deviation the nets are used to.
        judged: what nets are compared by.
    """

    selection: DeviceSplit
    data: DeviceData
    judged: Judged

    def logits(self, model: nn.Module, dtype: torch.dtype) -> Tensor:
        """(N, K) float32, in eval mode."""
        model.to(self.data.mean.device).to(memory_format=torch.channels_last)
        return predict(model, self.selection.images, self.data.mean, self.data.std, dtype)

    def answers(self, logits: Tensor) -> Answers:
        """What these logits (N, K) say of each image."""
        probabilities = logits.double().softmax(dim=1).cpu().numpy()
        labels = self.selection.labels.cpu().numpy().astype(np.int64)
        return answers_of(probabilities, labels, self.judged)

    def metrics(self, logits: Tensor) -> dict[str, float]:
        """All scores on these images, as `selection/<name>`."""
        scores = classification_metrics(logits, self.selection.labels)
        return {f"selection/{name}": value for name, value in scores.items()}
