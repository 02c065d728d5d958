"""The optimizers' updates, on one vector that holds every parameter of a net.

Whatever is searched is a 0-d tensor that `reset` fills in place, so that one captured or compiled
step serves every trial. torch's own fused kernels take betas and eps as floats, which a captured
step would repeat for every trial after the first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


class UpdateRule(ABC):
    """One kind of optimizer, with its state.

    Args:
        values: (P,) float32, the parameters; updated in place.
        num_decayed: the first so many of them decay.
        in_kernel: whether the rule may use a fused kernel that takes floats, where it knows one:
            sooner on the CPU, but neither captured nor compiled.

    Attributes:
        names: of the hyperparameters that `reset` takes.
    """

    names: ClassVar[tuple[str, ...]]

    def __init__(self, values: Tensor, num_decayed: int, *, in_kernel: bool = False) -> None:
        self.values, self.decayed = values, values[:num_decayed]
        self.in_kernel = in_kernel
        self._numbers = dict(
            zip(self.names, values.new_zeros(len(self.names)).unbind(), strict=True)
        )

    @torch.no_grad()
    def __call__(self, gradient: Tensor, learning_rate: Tensor) -> None:
        """One update.

        Args:
            gradient: (P,) float32; it may be overwritten.
            learning_rate: 0-d.
        """
        self.decayed.mul_(1 - learning_rate * self._numbers["weight_decay"])
        self._descend(gradient, learning_rate)

    def reset(self, numbers: Mapping[str, float]) -> None:
        """Begin a training with these hyperparameters, in the same storage."""
        for name, tensor in self._numbers.items():
            tensor.fill_(numbers[name])
        for tensor in self._state().values():
            tensor.zero_()

    def state_dict(self) -> dict[str, Any]:
        """What the next updates depend on; not copied."""
        return self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, in the same storage."""
        for name, tensor in self._state().items():
            tensor.copy_(state[name])

    @abstractmethod
    def _descend(self, gradient: Tensor, learning_rate: Tensor) -> None:
        """The update past the decay."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """By name."""


class Adamw(UpdateRule):
    """AdamW (https://arxiv.org/abs/1711.05101), the moments' bias corrected as in torch."""

    names = ("weight_decay", "beta1", "beta2", "eps")

    def __init__(self, values: Tensor, num_decayed: int, *, in_kernel: bool = False) -> None:
        super().__init__(values, num_decayed, in_kernel=in_kernel)
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)
        self._num_updates = values.new_zeros(())

    def _descend(self, gradient: Tensor, learning_rate: Tensor) -> None:
        self._num_updates.add_(1)
        if self.in_kernel:
            self._descend_in_kernel(gradient, learning_rate)
            return
        _, beta1, beta2, eps = self._numbers.values()
        self._mean.lerp_(gradient, 1 - beta1)
        self._square.lerp_(gradient.square(), 1 - beta2)
        # The moments' bias is corrected in the scalars: each pass over the vector is a kernel.
        correction = (1 - beta2**self._num_updates).sqrt()
        step_size = learning_rate * correction / (1 - beta1**self._num_updates)
        way = self._mean / self._square.sqrt().add_(eps * correction)
        self.values.addcmul_(way, -step_size)

    def _descend_in_kernel(self, gradient: Tensor, learning_rate: Tensor) -> None:
        _, beta1, beta2, eps = (float(number) for number in self._numbers.values())
        torch._fused_adamw_(
            [self.values],
            [gradient],
            [self._mean],
            [self._square],
            [],
            [self._num_updates],
            lr=float(learning_rate),
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    def _state(self) -> dict[str, Tensor]:
        return {"mean": self._mean, "square": self._square, "num_updates": self._num_updates}


class Sgd(UpdateRule):
    """SGD with momentum, Nesterov's or the plain one, and decoupled decay (SGDW)."""

    names = ("weight_decay", "momentum")

    def __init__(
        self, values: Tensor, num_decayed: int, *, in_kernel: bool = False, nesterov: bool = True
    ) -> None:
        super().__init__(values, num_decayed, in_kernel=in_kernel)
        self._nesterov = nesterov
        self._velocity = torch.zeros_like(values)

    def _descend(self, gradient: Tensor, learning_rate: Tensor) -> None:
        momentum = self._numbers["momentum"]
        self._velocity.mul_(momentum).add_(gradient)
        way = self._velocity
        if self._nesterov:
            way = torch.addcmul(gradient, self._velocity, momentum)
        self.values.addcmul_(way, -learning_rate)

    def _state(self) -> dict[str, Tensor]:
        return {"velocity": self._velocity}
