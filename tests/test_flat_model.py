"""A net whose parameters lie in one vector is the same net."""

from __future__ import annotations

from copy import deepcopy

import torch

from pipeline.models import build_model
from pipeline.models.vgg import VggSettings
from pipeline.regularizers import RegularizationSettings
from pipeline.training.flat_model import FlatModel, flatten


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(VggSettings(width=8), RegularizationSettings(), (3, 8, 8), 3)
    return model.to(memory_format=torch.channels_last)


def test_the_net_computes_what_it_did_before() -> None:
    plain, flat = net(), FlatModel(net())
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(plain(images), flat.model(images))
    for (name, one), other in zip(plain.named_parameters(), flat.model.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.stride() == other.stride(), name


def test_the_vector_is_the_parameters_weights_first() -> None:
    flat = FlatModel(net())
    count = sum(p.numel() for p in flat.model.parameters())
    weights = sum(p.numel() for p in flat.model.parameters() if p.dim() > 1)
    assert (len(flat.values), flat.num_weights) == (count, weights)
    flat.values.zero_()
    flat.values[: flat.num_weights] = 1
    assert all((p == float(p.dim() > 1)).all() for p in flat.model.parameters())


def test_a_gradient_lies_where_its_parameter_does() -> None:
    flat = FlatModel(net())
    before = deepcopy(list(flat.model.parameters()))
    loss = flat.model(torch.randn(4, 3, 8, 8)).square().sum()
    gradients = torch.autograd.grad(loss, flat.parameters)
    flat.values.sub_(flatten(gradients), alpha=0.1)
    moved = dict(zip(map(id, flat.parameters), gradients, strict=True))
    for old, parameter in zip(before, flat.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, old - 0.1 * moved[id(parameter)])


def test_loading_weights_keeps_them_in_the_vector() -> None:
    flat, other = FlatModel(net()), net()
    torch.nn.init.constant_(next(other.parameters()), 7.0)
    flat.model.load_state_dict(other.state_dict())
    assert (flat.values == 7).sum() == next(other.parameters()).numel()


def test_running_statistics_belong_to_the_model_and_rates_do_not() -> None:
    flat = FlatModel(net())
    assert len(flat.floats()) == 1 + 2 * 6  # the vector, six means, six variances
