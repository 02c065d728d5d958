"""Masks, penalties, smoothing and averaging, against hand-computed numbers and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.regularizers import RegularizationSettings
from pipeline.regularizers.dropout import dropout, spatial_dropout
from pipeline.regularizers.label_smoothing import smoothed_cross_entropy
from pipeline.regularizers.masks import RandomMask, set_rates
from pipeline.regularizers.stochastic_depth import stochastic_depth
from pipeline.regularizers.weight_averaging import WeightAverage
from pipeline.regularizers.weight_penalty import penalty
from pipeline.settings import scalar_fields

MASKS = {
    "dropout": dropout,
    "spatial_dropout": spatial_dropout,
    "stochastic_depth": lambda: stochastic_depth(2, 2),
}


@pytest.fixture(params=list(MASKS))
def mask(request: pytest.FixtureRequest) -> RandomMask:
    torch.manual_seed(0)
    return MASKS[request.param]()


def test_everything_is_off_by_default() -> None:
    settings = RegularizationSettings()
    for name, field in scalar_fields(RegularizationSettings):
        assert field.off is not None, name
        assert getattr(settings, name) == field.off.value, name


def test_a_mask_is_the_identity_at_rate_zero_and_in_eval_mode(mask: RandomMask) -> None:
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(mask(x), x)
    mask.set_rate(0.5)
    assert not torch.equal(mask(x), x)
    assert torch.equal(mask.eval()(x), x)


def test_a_mask_keeps_the_expectation_and_scales_what_it_keeps(mask: RandomMask) -> None:
    mask.set_rate(0.2)
    y = mask(torch.ones(400, 100, 2, 2))
    assert torch.isclose(y[y > 0], torch.tensor(1.25)).all()
    # 400 samples of which a fifth is dropped: the mean has a standard deviation of 0.025.
    assert y.mean().item() == pytest.approx(1.0, abs=0.1)


def test_a_seed_repeats_the_masks_and_they_go_on_changing(mask: RandomMask) -> None:
    mask.set_rate(0.5)
    x = torch.ones(64, 8, 2, 2)
    torch.manual_seed(3)
    first, second = mask(x), mask(x)
    torch.manual_seed(3)
    assert torch.equal(mask(x), first)
    assert not torch.equal(first, second)


def test_a_mask_keeps_the_dtype_and_can_be_rare_in_bfloat16() -> None:
    mask = dropout()
    mask.set_rate(0.001)  # bfloat16 random numbers would be 0, and dropped, once in 256
    y = mask(torch.ones(1000, 1000, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert (y == 0).float().mean().item() == pytest.approx(0.001, rel=0.2)


def test_spatial_dropout_drops_whole_channels_and_stochastic_depth_whole_samples() -> None:
    x = torch.ones(50, 20, 3, 3)
    channels, samples = spatial_dropout(), stochastic_depth(1, 1)
    for mask in (channels, samples):
        mask.set_rate(0.5)
    per_channel = (channels(x) == 0).float().mean(dim=(2, 3))
    assert set(per_channel.unique().tolist()) == {0.0, 1.0}
    assert 0 < per_channel[0].mean() < 1
    per_sample = (samples(x) == 0).float().mean(dim=(1, 2, 3))
    assert set(per_sample.unique().tolist()) == {0.0, 1.0}


def test_set_rates_gives_every_mask_its_own_and_deeper_blocks_more() -> None:
    masks = [dropout(), spatial_dropout(), *(stochastic_depth(block, 4) for block in (1, 2, 3, 4))]
    settings = RegularizationSettings(dropout=0.3, stochastic_depth=0.4)
    set_rates(nn.Sequential(*masks), settings)
    rates = [mask.rate.item() for mask in masks]
    assert rates == pytest.approx([0.3, 0.0, 0.1, 0.2, 0.3, 0.4])
    assert [mask.enabled for mask in masks] == [True, False, True, True, True, True]


def test_a_rate_of_one_is_refused(mask: RandomMask) -> None:
    with pytest.raises(ValueError, match="outside"):
        mask.set_rate(1.0)


def test_one_compiled_graph_serves_every_rate(mask: RandomMask) -> None:
    graphs = []

    def count_graphs(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(mask, backend=count_graphs)
    for rate in (0.1, 0.5, 0.9):
        mask.set_rate(rate)
        compiled(torch.ones(8, 4, 2, 2))
    assert len(graphs) == 1


def test_the_penalty_and_its_gradient_are_those_computed_by_hand() -> None:
    weights = torch.tensor([1.0, -2.0, 0.0, 3.0])
    value, gradient = penalty(weights, torch.tensor(0.1), torch.tensor(0.01))
    assert value.item() == pytest.approx(0.1 * 6 + 0.01 / 2 * 14)
    torch.testing.assert_close(gradient, torch.tensor([0.11, -0.12, 0.0, 0.13]))


def test_a_mask_that_is_drawn_at_a_rate_of_zero_changes_nothing() -> None:
    model, x = nn.Sequential(RandomMask("dropout")), torch.randn(64)
    set_rates(model, RegularizationSettings(), enabled={"dropout"})
    before = torch.get_rng_state()
    assert torch.equal(model(x), x)
    assert not torch.equal(torch.get_rng_state(), before), "no mask was drawn"


def test_smoothed_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4 and 1/4
    loss = smoothed_cross_entropy(logits, torch.tensor([0]), torch.tensor(0.2))
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert loss.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_cross_entropy_is_torchs(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(32, 7, requires_grad=True), torch.randint(7, (32,))
    ours = smoothed_cross_entropy(logits, labels, torch.tensor(smoothing))
    torchs = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(ours, torchs)
    (our_gradient,) = torch.autograd.grad(ours.sum(), logits)
    (torchs_gradient,) = torch.autograd.grad(torchs.sum(), logits)
    torch.testing.assert_close(our_gradient, torchs_gradient)


def states(value: float) -> list[torch.Tensor]:
    return [torch.full((2,), value), torch.full((), 2 * value)]


def follow(average: WeightAverage, tensors: list[torch.Tensor], *values: float) -> None:
    """Let the tensors take these values one after another, and the average follow."""
    for value in values:
        torch._foreach_copy_(tensors, states(value))
        average.update()


def averaged(average: WeightAverage, tensors: list[torch.Tensor]) -> list[float]:
    with average.applied():
        return [tensor.mean().item() for tensor in tensors]


def test_the_average_follows_its_warm_up_and_then_its_decay() -> None:
    average = WeightAverage(tensors := states(0.0))
    average.reset(0.15)
    # decay 1 / 10, and then 0.15, where the warm-up would have 2 / 11
    follow(average, tensors, 1.0, 2.0)
    expected = 0.15 * 0.9 + 0.85 * 2
    assert averaged(average, tensors) == pytest.approx([expected, 2 * expected])


def test_without_decay_the_average_is_the_weights_to_the_last_bit() -> None:
    average = WeightAverage(tensors := states(0.3))
    average.reset(0.0)
    follow(average, tensors, 0.1, 0.7)
    assert averaged(average, tensors) == [tensor.mean().item() for tensor in states(0.7)]


def test_the_average_is_applied_only_inside_the_block() -> None:
    average = WeightAverage(tensors := states(0.0))
    torch._foreach_copy_(tensors, states(1.0))

    def fail_inside() -> None:
        with average.applied():
            assert [tensor.mean().item() for tensor in tensors] == [0.0, 0.0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert [tensor.mean().item() for tensor in tensors] == [1.0, 2.0]


def test_an_average_that_begins_anew_forgets_what_it_was() -> None:
    average = WeightAverage(tensors := states(0.0))
    average.reset(0.9)
    follow(average, tensors, 3.0, 3.0)
    average.reset(0.9)
    follow(average, tensors, 1.0)
    assert averaged(average, tensors) == pytest.approx([0.1 * 3 + 0.9, 2 * (0.1 * 3 + 0.9)])


def test_an_average_that_is_saved_and_loaded_goes_on_alike() -> None:
    averages = []
    for restored in (False, True):
        average = WeightAverage(tensors := states(0.0))
        average.reset(0.9)
        follow(average, tensors, 1.0)
        if restored:
            state = average.state_dict()
            average = WeightAverage(tensors)
            average.reset(0.9)
            average.load_state_dict(state)
        follow(average, tensors, 5.0)
        averages.append(averaged(average, tensors)[0])
    assert averages == pytest.approx([2 / 11 * 0.9 + 9 / 11 * 5] * 2)
