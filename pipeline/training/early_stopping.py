"""Early stopping: end when the metric has stopped improving, and go back to the best weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipeline.settings import Settings
from pipeline.training.metrics import Metric, is_better

if TYPE_CHECKING:
    from torch import Tensor, nn


class EarlyStoppingSettings(Settings):
    """`training.early_stopping:` - a patience as long as the training switches it off."""

    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without improvement after which training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What counts as an improvement, in the metric's unit."""


class EarlyStopping:
    """Watches one metric and keeps a copy of the weights at its best value.

    `min_delta` decides when to stop; the weights that are kept are the best ones, by however
    little.
    """

    def __init__(self, settings: EarlyStoppingSettings, metric: Metric) -> None:
        self.settings, self.metric = settings, metric
        self.best_epoch = 0
        self.best_metrics: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}
        self._waited_from = 0
        self._mark: float | None = None

    def observe(self, epoch: int, metrics: dict[str, float], model: nn.Module) -> None:
        """Take in an epoch's metrics, counted from 1, and the weights that gave them."""
        value = metrics[self.metric]
        if not self.best_epoch or is_better(self.metric, value, self.best_metrics[self.metric]):
            self.best_epoch, self.best_metrics = epoch, dict(metrics)
            self.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if self._mark is None or is_better(self.metric, value, self._mark, self.settings.min_delta):
            self._mark, self._waited_from = value, epoch

    def should_stop(self, epoch: int) -> bool:
        """Whether `patience` epochs have gone by since the last improvement."""
        return epoch - self._waited_from >= self.settings.patience

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back."""
        model.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """What was observed so far; the weights are not copied."""
        return {
            "best_epoch": self.best_epoch,
            "best_metrics": self.best_metrics,
            "best_weights": self.best_weights,
            "waited_from": self._waited_from,
            "mark": self._mark,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; its weights are taken over, wherever they are."""
        self.best_epoch = state["best_epoch"]
        self.best_metrics, self.best_weights = state["best_metrics"], state["best_weights"]
        self._waited_from, self._mark = state["waited_from"], state["mark"]


class LastEpoch(EarlyStopping):
    """Where no images are left to stop by: nothing is stopped early, and the last weights are the
    ones that are kept."""

    def observe(self, epoch: int, metrics: dict[str, float], model: nn.Module) -> None:
        """Take in an epoch, whose weights (averaged, where they are) come before all earlier
        ones."""
        self.best_epoch, self.best_metrics = epoch, dict(metrics)
        self.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def should_stop(self, epoch: int) -> bool:  # noqa: ARG002 - as `EarlyStopping`
        return False
