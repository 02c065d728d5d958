"""What a net says of images: the same in whatever batches, and with its BatchNorms folded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import ModelSettings
from pipeline.models.resnet import ResnetSettings
from pipeline.models.torchvision_models import TorchvisionSettings
from pipeline.models.vgg import VggSettings
from pipeline.training import prediction
from pipeline.training.prediction import EVAL_BATCH, eval_batch_size, folded, predict
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


def used(model: nn.Module) -> nn.Module:
    """A net in eval mode, whose norms have seen images that are not normalized."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(16, 3, 32, 32) * 2 + 1)
    return model.eval()


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_several_batches_are_shown_to_the_folded_net(monkeypatch: pytest.MonkeyPatch) -> None:
    model = used(VggSettings(width=4, head_width=8).build((3, 32, 32), 3))
    images = torch.randint(0, 256, (251, 3, 32, 32), dtype=torch.uint8)
    half, shown = torch.full((1, 3, 1, 1), 0.5), list[nn.Module]()

    def spy(net: nn.Module) -> nn.Module:
        shown.append(net)
        return folded(net)

    monkeypatch.setattr(prediction, "folded", spy)
    one = predict(model, images[:250], half, half, torch.float32)
    assert shown == []
    two = predict(model, images, half, half, torch.float32)
    assert shown[0] is model  # and its children in turn
    torch.testing.assert_close(two[:250], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "num_left"),
    [
        (VggSettings(width=4, head_width=8), 0),
        (ResnetSettings(width=4, depth=1), 0),
        (TorchvisionSettings(kind="torchvision/mobilenet_v3_small"), 0),
        # the pairs of its blocks are no Sequential's; the three shortcuts' are
        (TorchvisionSettings(kind="torchvision/resnet18"), 17),
    ],
    ids=lambda value: value.kind if isinstance(value, ModelSettings) else "",
)
def test_folding_leaves_out_norms_and_changes_no_logits(
    settings: ModelSettings, num_left: int
) -> None:
    torch.manual_seed(0)
    model = used(settings.build((3, 32, 32), 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, num_before = torch.randn(8, 3, 32, 32) * 2 + 1, num_norms(model)
    assert num_before > num_left
    with torch.inference_mode():
        twin = folded(model)
        assert num_norms(twin) == num_left
        torch.testing.assert_close(twin(images), model(images), rtol=1e-3, atol=1e-4)
    assert num_norms(model) == num_before
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_folded_norm_is_in_the_weights() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        conv.weight.fill_(3.0)
        norm.weight.fill_(4.0)
        norm.bias.fill_(5.0)
    norm.running_mean, norm.running_var = torch.tensor([1.0]), torch.tensor([4.0])
    twin = folded(nn.Sequential(conv, norm).eval())
    # (3 x - 1) / 2 * 4 + 5 is 6 x + 3
    weights = {name: value.item() for name, value in twin.state_dict().items()}
    assert weights == {"0.weight": 6.0, "0.bias": 3.0}


class Backwards(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for module in reversed(self):
            x = module(x)
        return x


def test_only_what_follows_a_convolution_at_once_is_folded() -> None:
    def parts() -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    relu = nn.ReLU()
    conv, norm = parts()
    apart = nn.Sequential(relu, conv, relu, norm)  # the same ReLU twice: one child of two names
    for model in (apart, Backwards(*parts()), nn.Sequential(*parts()[::-1])):
        used(model)
        assert num_norms(folded(model)) == 1
        images = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(folded(model)(images), model(images), rtol=0, atol=0)
