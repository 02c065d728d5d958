"""Decoupled weight decay, by hand, and which parameters decay."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.optimizers import (
    OptimizerSettings,
    OptimizerUnion,
    build_optimizer,
    parameter_groups,
)

LEARNING_RATE, DECAY = 0.1, 0.5
GRADIENTS = (2.0, -1.0)


def settings_of(kind: str, **values: Any) -> OptimizerSettings:
    values = {"learning_rate": LEARNING_RATE, "weight_decay": DECAY} | values
    settings: OptimizerSettings = TypeAdapter(OptimizerUnion).validate_python(
        {"kind": kind, **values}
    )
    return settings


def train(settings: OptimizerSettings, gradients: tuple[float, ...] = GRADIENTS) -> nn.Linear:
    """A 1x1 linear layer, weight and bias at 1, after updates with the given gradients."""
    net = nn.Linear(1, 1)
    nn.init.ones_(net.weight)
    nn.init.ones_(net.bias)
    optimizer = build_optimizer(net, settings)
    for gradient in gradients:
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return net


def adamw_by_hand(decay: float) -> float:
    w, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        w -= LEARNING_RATE * decay * w
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.9**t)
        w -= LEARNING_RATE * m_hat / (v_hat**0.5 + 1e-8)
    return w


def sgdw_by_hand(decay: float, nesterov: bool) -> float:
    w, velocity = 1.0, 0.0
    for g in GRADIENTS:
        w -= LEARNING_RATE * decay * w
        velocity = 0.9 * velocity + g
        w -= LEARNING_RATE * (g + 0.9 * velocity if nesterov else velocity)
    return w


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_two_steps_of_adamw_by_hand(kind: str) -> None:
    net = train(settings_of(kind, beta1=0.8, beta2=0.9))
    assert net.weight.item() == pytest.approx(adamw_by_hand(DECAY))
    assert net.bias.item() == pytest.approx(adamw_by_hand(0.0))


@pytest.mark.parametrize("nesterov", [True, False])
def test_two_steps_of_sgd_by_hand(nesterov: bool) -> None:
    net = train(settings_of("sgd", nesterov=nesterov))
    assert net.weight.item() == pytest.approx(sgdw_by_hand(DECAY, nesterov))
    assert net.bias.item() == pytest.approx(sgdw_by_hand(0.0, nesterov))


def test_sgd_goes_without_momentum() -> None:
    net = train(settings_of("sgd", momentum=0.0, weight_decay=0.0))
    assert net.weight.item() == pytest.approx(1 - LEARNING_RATE * sum(GRADIENTS))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_switch_makes_biases_decay(kind: str) -> None:
    net = train(settings_of(kind, decay_norm_and_bias=True), gradients=(0.0, 0.0))
    shrunk = (1 - LEARNING_RATE * DECAY) ** 2
    assert [p.item() for p in net.parameters()] == pytest.approx([shrunk, shrunk])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_decay_follows_the_scheduled_learning_rate(kind: str) -> None:
    net = nn.Linear(1, 1)
    nn.init.ones_(net.weight)
    optimizer = build_optimizer(net, settings_of(kind))
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert net.weight.item() == pytest.approx(1 - 0.02 * DECAY)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_weight_without_gradient_stays(kind: str) -> None:
    net = nn.Linear(1, 1)
    before = net.weight.clone()
    build_optimizer(net, settings_of(kind)).step()
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_optimizer_goes_on_alike(kind: str) -> None:
    def step(net: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    nets = [nn.Linear(2, 2), nn.Linear(2, 2)]
    optimizers = [build_optimizer(net, settings_of(kind)) for net in nets]
    step(nets[0], optimizers[0])
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    for net, optimizer in zip(nets, optimizers, strict=True):
        step(net, optimizer)
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict(), rtol=0, atol=0)


def test_weights_decay_and_biases_norms_and_frozen_parameters_do_not() -> None:
    net = nn.ModuleDict(
        {"conv": nn.Conv2d(1, 4, 3), "norm": nn.BatchNorm2d(4), "frozen": nn.Linear(4, 4)}
    )
    net["frozen"].requires_grad_(False)
    names = {id(parameter): name for name, parameter in net.named_parameters()}

    def named(parameters: list[Tensor]) -> list[str]:
        return [names[id(parameter)] for parameter in parameters]

    decayed, undecayed = parameter_groups(net)
    assert named(decayed) == ["conv.weight"]
    assert named(undecayed) == ["conv.bias", "norm.weight", "norm.bias"]
    decayed, undecayed = parameter_groups(net, decay_norm_and_bias=True)
    assert len(decayed) == 4
    assert undecayed == []


def test_adamw_is_the_kind_when_none_is_given() -> None:
    settings = TypeAdapter(OptimizerUnion).validate_python({"learning_rate": 0.01})
    assert settings.kind == "adamw"


def test_an_unknown_kind_and_another_kinds_setting_are_refused() -> None:
    with pytest.raises(ValidationError, match="'adamw', 'adam', 'sgd'"):
        settings_of("lion")
    with pytest.raises(ValidationError, match="momentum"):
        settings_of("adamw", momentum=0.9)
