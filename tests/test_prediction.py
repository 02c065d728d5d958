"""What a net says of images: the same in whatever batches."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.vgg import VggSettings
from pipeline.training import prediction
from pipeline.training.prediction import EVAL_BATCH, eval_batch_size, predict
from pipeline.training.twins import folded
from tests.trainings import NEEDS_COMPILER, Spy, net, random_data


def test_prediction_is_in_eval_mode_and_leaves_the_mode_as_it_was() -> None:
    spy = Spy(net(rate=0.5))
    images = torch.cat([random_data().train.images] * (EVAL_BATCH["cpu"] // 32 + 1))
    half = torch.full((1, 1, 1, 1), 0.5)
    for mode in (True, False):
        spy.train(mode)
        logits = predict(spy, images, half, half, torch.float32)
        assert spy.training is mode
        assert logits.shape == (len(images), 3)
        torch.testing.assert_close(logits[:32], logits[-32:])
    assert [(m, len(batch)) for m, batch in spy.seen] == [(False, 250), (False, 6)] * 2


@NEEDS_COMPILER
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_changes_no_logit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    images = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8)
    mean, std = torch.tensor([0.3, 0.4, 0.5]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.1])
    how = images, mean, std.view(1, 3, 1, 1), dtype
    monkeypatch.setattr(prediction, "prepared", spy := Mock(side_effect=prediction.prepared))
    by_kernel = predict(model, *how)
    assert spy.called
    monkeypatch.setattr(prediction, "can_prepare", lambda *_: False)
    assert torch.equal(predict(model, *how), by_kernel)


def test_weights_are_cast_once_for_all_batches() -> None:
    class Casts(TorchDispatchMode):
        num_weights = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            is_weight = func is torch.ops.aten._to_copy.default and args[0].shape == (16, 64)
            self.num_weights += is_weight
            return func(*args, **(kwargs or {}))

    images = torch.cat([random_data().train.images] * 24)  # 768: four batches
    half = torch.full((1, 1, 1, 1), 0.5)
    with Casts() as casts:
        predict(net(), images, half, half, torch.bfloat16)
    assert casts.num_weights == 1


def test_images_are_scored_in_batches_that_fit_their_size() -> None:
    assert eval_batch_size((32, 32)) == eval_batch_size((8, 8)) == 250
    assert eval_batch_size((32, 32), "cuda") == 2000
    assert eval_batch_size((224, 224)) == 5  # 256,000 pixels / 50,176
    assert eval_batch_size((4096, 4096)) == 1


def test_several_batches_are_shown_to_the_folded_net(monkeypatch: pytest.MonkeyPatch) -> None:
    model = VggSettings(width=4, head_width=8).build((3, 32, 32), 3).eval()
    images = torch.randint(0, 256, (251, 3, 32, 32), dtype=torch.uint8)
    half, shown = torch.full((1, 3, 1, 1), 0.5), list[nn.Module]()

    def spy(net: nn.Module) -> nn.Module:
        shown.append(net)
        return folded(net)

    monkeypatch.setattr(prediction, "folded", spy)
    one = predict(model, images[:250], half, half, torch.float32)
    assert shown == []
    two = predict(model, images, half, half, torch.float32)
    assert shown == [model]
    torch.testing.assert_close(two[:250], one, rtol=1e-3, atol=1e-4)
