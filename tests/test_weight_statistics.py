"""Statistics of weights, by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pipeline.training.weight_statistics import LayerStatistics, as_table, weight_statistics


def net() -> nn.Sequential:
    """A filter of four weights, a norm, and a layer of six."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 3.0, -3.0]).view(1, 1, 2, 2))
        model[3].weight.copy_(torch.tensor([[0.0, 0.0009], [-0.0009, 0.001], [0.5, -0.5]]))
        model[3].bias.fill_(100)
    return model


def test_each_layer_by_hand() -> None:
    found = weight_statistics(net())
    assert list(found) == ["0", "3"], "biases and norms are left out"
    # mean 0, mean of squares (1 + 1 + 9 + 9) / 4 = 5
    assert found["0"] == LayerStatistics(2.0, pytest.approx(5**0.5), 0.0, 4)
    # 0.001 itself isn't under it in float32: 0.001000000047
    mean_square = (0.0009**2 * 2 + 0.001**2 + 0.5) / 6
    std = (mean_square - (0.001 / 6) ** 2) ** 0.5
    assert found["3"].mean_abs == pytest.approx((0.0009 * 2 + 0.001 + 1) / 6)
    assert found["3"].std == pytest.approx(std)
    assert found["3"].near_zero_share == 0.5
    assert found["3"].num_weights == 6


def test_a_layer_alone_shared_weights_and_a_net_without() -> None:
    lone = nn.Linear(1, 1)
    assert list(weight_statistics(lone)) == ["weight"]
    assert weight_statistics(lone)["weight"].std == 0.0
    assert list(weight_statistics(nn.Sequential(lone, lone))) == ["0"]
    assert weight_statistics(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())) == {}


def test_attention_counts_with_all_its_weights() -> None:
    found = weight_statistics(nn.ModuleDict({"attention": nn.MultiheadAttention(2, 1)}))
    sizes = {layer: row.num_weights for layer, row in found.items()}
    assert sizes == {"attention.in_proj_weight": 12, "attention.out_proj": 4}


def test_the_table_goes_through_json() -> None:
    table = as_table(weight_statistics(net()))
    assert json.loads(json.dumps(table)) == table
    assert table[0] == {
        "layer": "0",
        "mean_abs": 2.0,
        "std": pytest.approx(5**0.5),
        "near_zero_share": 0.0,
        "num_weights": 4,
    }
