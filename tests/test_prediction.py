"""What a net says of images: the same in whatever batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.vgg import VggSettings
from pipeline.training import prediction
from pipeline.training.prediction import EVAL_BATCH, eval_batch_size, predict
from pipeline.training.twins import folded
from tests.trainings import Spy, net, random_data


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
