"""The `training.optimizer:` section: AdamW and SGD, whose weight decay is always decoupled.

`weight_decay` means one thing for every kind: before each update a weight is multiplied by
1 - learning_rate · weight_decay, past the gradient and its moments
(https://arxiv.org/abs/1711.05101). The L2 penalty that goes through the gradient is
`regularization.l2`. So `adam` and `adamw` are one optimizer, and differ in name alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class OptimizerSettings(Settings):
    """What every kind has; `OptimizerUnion` is the type of the section."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Base learning rate, which the schedule multiplies."""
    weight_decay: Annotated[float, Field(ge=0), Off(0.0)] = 0.0
    """Decoupled weight decay, times the learning rate at each update."""
    decay_norm_and_bias: bool = False
    """Whether biases and the parameters of norms decay too."""

    def build(self, decayed: list[Tensor], undecayed: list[Tensor]) -> Optimizer:
        raise NotImplementedError


class _AdamwSettings(OptimizerSettings):
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the gradient's moving average."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the squared gradient's moving average."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    def build(self, decayed: list[Tensor], undecayed: list[Tensor]) -> Optimizer:
        from torch.optim import AdamW

        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
        betas = (self.beta1, self.beta2)
        return AdamW(groups, lr=self.learning_rate, betas=betas, eps=self.eps, fused=True)


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

    def build(self, decayed: list[Tensor], undecayed: list[Tensor]) -> Optimizer:
        from torch.optim import SGD

        # torch's own weight_decay is coupled: it would go through the momentum.
        groups = [
            {"params": decayed, "decoupled_weight_decay": self.weight_decay},
            {"params": undecayed, "decoupled_weight_decay": 0.0},
        ]
        nesterov = self.nesterov and self.momentum > 0
        sgd = SGD(
            groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov, fused=True
        )
        sgd.register_step_pre_hook(_decay_weights)
        return sgd


def _decay_weights(optimizer: Optimizer, *_: Any) -> None:
    import torch

    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if weights and group["decoupled_weight_decay"] > 0:
            with torch.no_grad():
                torch._foreach_mul_(weights, 1 - group["lr"] * group["decoupled_weight_decay"])


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


def parameter_groups(
    model: nn.Module, decay_norm_and_bias: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """A model's trainable parameters as (decayed, undecayed).

    Weights have at least two dimensions; biases and the parameters of norms have one and do not
    decay, unless asked for.
    """
    decayed: list[Tensor] = []
    undecayed: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = decay_norm_and_bias or parameter.dim() >= 2
            (decayed if decays else undecayed).append(parameter)
    return decayed, undecayed


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """The optimizer of a model that is already on its device, with torch's fused update.

    Group 0 decays and group 1 does not; both start at the base learning rate.
    """
    return settings.build(*parameter_groups(model, settings.decay_norm_and_bias))
