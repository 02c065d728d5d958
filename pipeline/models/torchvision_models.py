"""Any classifier of torchvision, by name, with a head for our classes."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from pipeline.errors import UserError
from pipeline.models.base import ImageShape, ModelSettings
from pipeline.regularizers.dropout import dropout

if TYPE_CHECKING:
    from torch import nn

WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
PREFIX = "torchvision/"


def _known(kind: str) -> str:
    # Imported only now: torchvision takes seconds, and most space files do not name it.
    from torchvision import models

    names = models.list_models(module=models)
    name = kind.removeprefix(PREFIX)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(PREFIX + n for n in near)}?" if near else ""
        raise ValueError(f"torchvision has no classifier {name!r}{hint}")
    return kind


class TorchvisionSettings(ModelSettings):
    """The net's own dropout and stochastic depth are switched off: what regularizes is ours."""

    regularizers: ClassVar[frozenset[str]] = frozenset({"dropout"})

    kind: Annotated[str, Field(pattern=r"^torchvision/\w+$"), AfterValidator(_known)]
    """`torchvision/<name>`, such as `torchvision/resnet18`."""
    pretrained: bool = False
    """Start from torchvision's ImageNet weights, downloaded on first use."""

    @property
    def name(self) -> str:
        return self.kind.removeprefix(PREFIX)

    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Dropout comes right before the last layer; a grey image is repeated to three channels.

        Raises:
            UserError: the net does not take such images, or its weights cannot be had.
        """
        from torch import nn

        from pipeline.models.layers import GreyToColour

        net = self._net()
        _switch_off_noise(net)
        _replace_head(net, num_classes)
        model = nn.Sequential(GreyToColour(), net) if image_shape[0] == 1 else net
        self._check_input(model, image_shape)
        return model

    def _net(self) -> nn.Module:
        from torchvision import models

        options: dict[str, Any] = {"weights": _weights(self.name) if self.pretrained else None}
        if self.name in WITH_AUXILIARY_HEADS and not self.pretrained:
            options |= {"aux_logits": False, "init_weights": True}
        net: nn.Module = models.get_model(self.name, **options)
        if self.name in WITH_AUXILIARY_HEADS:  # in training they would give a tuple
            setattr(net, "aux_logits", False)  # noqa: B010 - a plain attribute of these two classes
            for head in ("aux1", "aux2", "AuxLogits"):
                if hasattr(net, head):
                    setattr(net, head, None)
        return net

    def _check_input(self, model: nn.Module, image_shape: ImageShape) -> None:
        import torch

        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, *image_shape))
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"{self.kind} does not take {'x'.join(map(str, image_shape))} images: {error}",
                where="model.kind",
                cure="choose larger images or another net; vgg and resnet take 8x8 and up",
            ) from error
        model.train()


def _switch_off_noise(net: nn.Module) -> None:
    from torch import nn
    from torchvision.ops import StochasticDepth

    for module in net.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


def _replace_head(net: nn.Module, num_classes: int) -> None:
    """Exchange the last layer, which is linear or (SqueezeNet) a 1x1 convolution."""
    from torch import nn

    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    name, last = layers.popitem()
    head = (
        nn.Linear(last.in_features, num_classes)
        if isinstance(last, nn.Linear)
        else nn.Conv2d(last.in_channels, num_classes, kernel_size=1)
    )
    net.set_submodule(name, nn.Sequential(dropout(), head))


def _weights(name: str) -> Any:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    try:
        # Fetched as data first: torchvision itself unpickles the file without that restriction.
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download the weights of torchvision/{name}: {error}",
            where="model.pretrained",
            cure=f"put {weights.url} into $TORCH_HOME/hub/checkpoints, or set pretrained: false",
        ) from error
    return weights
