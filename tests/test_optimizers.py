"""Decoupled weight decay, by hand, and which parameters decay."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.optimizers import OptimizerSettings, OptimizerUnion, parameter_groups
from pipeline.update_rules import UpdateRule

LEARNING_RATE, DECAY = 0.1, 0.5
GRADIENTS = (2.0, -1.0)


def settings_of(kind: str, **values: Any) -> OptimizerSettings:
    values = {"learning_rate": LEARNING_RATE, "weight_decay": DECAY} | values
    settings: OptimizerSettings = TypeAdapter(OptimizerUnion).validate_python(
        {"kind": kind, **values}
    )
    return settings


@pytest.fixture(params=[True, False], ids=["kernel", "arithmetic"])
def in_kernel(request: pytest.FixtureRequest) -> bool:
    """By torch's fused kernel where the rule has one, and by arithmetic that can be captured."""
    return bool(request.param)


def rule_of(
    settings: OptimizerSettings, values: Tensor, num_decayed: int, in_kernel: bool = False
) -> UpdateRule:
    rule = settings.build(values, num_decayed, in_kernel=in_kernel)
    rule.reset(settings.numbers())
    return rule


def train(
    settings: OptimizerSettings,
    in_kernel: bool,
    gradients: tuple[float, ...] = GRADIENTS,
    num_decayed: int = 1,
) -> list[float]:
    """Two parameters at 1, the first of which decays, after updates with the given gradients."""
    values = torch.ones(2)
    rule = rule_of(settings, values, num_decayed, in_kernel)
    for gradient in gradients:
        rule(torch.full((2,), gradient), torch.tensor(settings.learning_rate))
    return values.tolist()


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
def test_two_steps_of_adamw_by_hand(kind: str, in_kernel: bool) -> None:
    values = train(settings_of(kind, beta1=0.8, beta2=0.9), in_kernel)
    assert values == pytest.approx([adamw_by_hand(DECAY), adamw_by_hand(0.0)])


@pytest.mark.parametrize("nesterov", [True, False])
def test_two_steps_of_sgd_by_hand(nesterov: bool, in_kernel: bool) -> None:
    values = train(settings_of("sgd", nesterov=nesterov), in_kernel)
    assert values == pytest.approx([sgdw_by_hand(DECAY, nesterov), sgdw_by_hand(0.0, nesterov)])


def test_sgd_goes_without_momentum(in_kernel: bool) -> None:
    values = train(settings_of("sgd", momentum=0.0, weight_decay=0.0), in_kernel)
    assert values == pytest.approx([1 - LEARNING_RATE * sum(GRADIENTS)] * 2)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_what_is_to_decay_decays_and_nothing_else(kind: str, in_kernel: bool) -> None:
    settings = settings_of(kind)
    shrunk = (1 - LEARNING_RATE * DECAY) ** 2
    still = (0.0, 0.0)
    assert train(settings, in_kernel, still) == pytest.approx([shrunk, 1.0])
    assert train(settings, in_kernel, still, num_decayed=2) == pytest.approx([shrunk, shrunk])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_update_is_torchs(kind: str, in_kernel: bool) -> None:
    chance = torch.Generator().manual_seed(0)
    values, *gradients = torch.randn(6, 50, generator=chance).unbind()
    theirs = nn.Parameter(values.clone())
    settings = settings_of(kind, weight_decay=0.0)
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW([theirs], LEARNING_RATE, weight_decay=0.0)
        if kind == "adamw"
        else torch.optim.SGD([theirs], LEARNING_RATE, momentum=0.9, nesterov=True)
    )
    rule = rule_of(settings, values, 50, in_kernel)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
        rule(gradient.clone(), torch.tensor(LEARNING_RATE))
    torch.testing.assert_close(values, theirs.detach())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_decay_follows_the_scheduled_learning_rate(kind: str, in_kernel: bool) -> None:
    values = torch.ones(1)
    rule_of(settings_of(kind), values, 1, in_kernel)(torch.zeros(1), torch.tensor(0.02))
    assert values.item() == pytest.approx(1 - 0.02 * DECAY)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_rule_that_begins_anew_does_as_a_new_one(kind: str, in_kernel: bool) -> None:
    once, twice = torch.ones(1), torch.ones(1)
    other = settings_of(kind, weight_decay=0.1)
    rule = rule_of(settings_of(kind), twice, 1, in_kernel)
    rule(torch.ones(1), torch.tensor(0.3))
    twice.fill_(1.0)
    rule.reset(other.numbers())
    for values, of in ((once, rule_of(other, once, 1, in_kernel)), (twice, rule)):
        for gradient in GRADIENTS:
            of(torch.tensor([gradient]), torch.tensor(LEARNING_RATE))
        assert values.item() < 1
    assert torch.equal(once, twice)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_rule_goes_on_alike(kind: str, in_kernel: bool) -> None:
    values = [torch.ones(2), torch.ones(2)]
    rules = [rule_of(settings_of(kind), each, 2, in_kernel) for each in values]
    rate = torch.tensor(LEARNING_RATE)
    rules[0](torch.ones(2), rate)
    values[1].copy_(values[0])
    rules[1].load_state_dict(deepcopy(rules[0].state_dict()))
    for rule in rules:
        rule(torch.ones(2), rate)
    assert torch.equal(values[0], values[1])


def test_weights_are_told_from_biases_norms_and_frozen_parameters() -> None:
    net = nn.ModuleDict(
        {"conv": nn.Conv2d(1, 4, 3), "norm": nn.BatchNorm2d(4), "frozen": nn.Linear(4, 4)}
    )
    net["frozen"].requires_grad_(False)
    names = {id(parameter): name for name, parameter in net.named_parameters()}

    def named(parameters: list[Tensor]) -> list[str]:
        return [names[id(parameter)] for parameter in parameters]

    weights, others = parameter_groups(net)
    assert named(weights) == ["conv.weight"]
    assert named(others) == ["conv.bias", "norm.weight", "norm.bias"]


def test_adamw_is_the_kind_when_none_is_given() -> None:
    settings = TypeAdapter(OptimizerUnion).validate_python({"learning_rate": 0.01})
    assert settings.kind == "adamw"


def test_an_unknown_kind_and_another_kinds_setting_are_refused() -> None:
    with pytest.raises(ValidationError, match="'adamw', 'adam', 'sgd'"):
        settings_of("lion")
    with pytest.raises(ValidationError, match="momentum"):
        settings_of("adamw", momentum=0.9)
