"""The `training.optimizer:` section: AdamW and SGD, whose weight decay is always decoupled.

`weight_decay` means one thing for every kind: before each update a weight is multiplied by
1 - learning_rate · weight_decay, past the gradient and its moments
(https://arxiv.org/abs/1711.05101). The L2 penalty that goes through the gradient is
`regularization.l2`. So `adam` and `adamw` are one optimizer, and differ in name alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.update_rules import UpdateRule


class OptimizerSettings(Settings, ABC):
    """What every kind has; `OptimizerUnion` is the type of the section."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Base learning rate, which the schedule multiplies."""
    weight_decay: Annotated[float, Field(ge=0), Off(0.0)] = 0.0
    """Decoupled weight decay, times the learning rate at each update."""
    decay_norm_and_bias: bool = False
    """Whether biases and the parameters of norms decay too."""

    @property
    @abstractmethod
    def structure(self) -> str:
        """Names the code of the update: settings of the same structure can share a step."""

    @abstractmethod
    def build(self, values: Tensor, num_decayed: int, *, in_kernel: bool) -> UpdateRule:
        """The update rule for a vector of parameters; `UpdateRule` has the arguments."""

    def numbers(self) -> dict[str, float]:
        """The hyperparameters that the update reads, for `UpdateRule.reset`."""
        return {k: v for k, v in self.model_dump().items() if type(v) in (int, float)}


class _AdamwSettings(OptimizerSettings):
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the gradient's moving average."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the squared gradient's moving average."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    @property
    def structure(self) -> str:
        return "adamw"

    def build(self, values: Tensor, num_decayed: int, *, in_kernel: bool) -> UpdateRule:
        from pipeline.update_rules import Adamw

        return Adamw(values, num_decayed, in_kernel=in_kernel)


class AdamwSettings(_AdamwSettings):
    kind: Literal["adamw"] = "adamw"
    """Adam with decoupled weight decay."""


class AdamSettings(_AdamwSettings):
    kind: Literal["adam"] = "adam"
    """The same as `adamw`, of which Adam is the case without weight decay."""


class SgdSettings(OptimizerSettings):
    kind: Literal["sgd"] = "sgd"
    """Stochastic gradient descent with momentum, and decoupled weight decay (SGDW)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """What the velocity keeps of itself at each update."""
    nesterov: bool = True
    """Whether the gradient is taken to be where the momentum leads."""

    @property
    def structure(self) -> str:
        return "sgd with Nesterov momentum" if self.nesterov else "sgd"

    def build(self, values: Tensor, num_decayed: int, *, in_kernel: bool) -> UpdateRule:
        from pipeline.update_rules import Sgd

        return Sgd(values, num_decayed, in_kernel=in_kernel, nesterov=self.nesterov)


def _kind(value: Any) -> str | None:
    kind = value.get("kind", "adamw") if isinstance(value, dict) else getattr(value, "kind", None)
    return None if kind is None else str(kind)


OptimizerUnion = Annotated[
    Annotated[AdamwSettings, Tag("adamw")]
    | Annotated[AdamSettings, Tag("adam")]
    | Annotated[SgdSettings, Tag("sgd")],
    Discriminator(_kind),
]
"""The section's type; a mapping without `kind` is `adamw`."""


def parameter_groups(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """A model's trainable parameters as (weights, others): those that decay, and those that don't
    unless `decay_norm_and_bias` says so.

    Weights have at least two dimensions; biases and the parameters of norms have one.
    """
    weights: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (weights if parameter.dim() >= 2 else others).append(parameter)
    return weights, others
