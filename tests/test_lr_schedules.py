"""Every schedule, against torch's own and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs

from pipeline.lr_schedules import LrScheduleUnion, Schedule, build_schedule

NUM_EPOCHS, STEPS_PER_EPOCH = 20, 5
TOTAL_STEPS = NUM_EPOCHS * STEPS_PER_EPOCH
ADAPTER: TypeAdapter[LrScheduleUnion] = TypeAdapter(LrScheduleUnion)
KINDS = ["constant", "step", "multi_step", "cosine", "one_cycle", "plateau"]


def schedule_of(kind: str, **values: Any) -> Schedule:
    settings = ADAPTER.validate_python({"kind": kind, **values})
    return build_schedule(settings, NUM_EPOCHS, STEPS_PER_EPOCH)


def torchs_rates(make: Callable[[torch.optim.Optimizer], torchs.LRScheduler]) -> list[float]:
    """The learning rates of a torch schedule at a base rate of 1, step by step."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(TOTAL_STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < TOTAL_STEPS else None
    return rates


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (
            {"kind": "step", "step_epochs": 6, "gamma": 0.3},
            lambda o: torchs.StepLR(o, 6 * STEPS_PER_EPOCH, gamma=0.3),
        ),
        (
            # 0.55 * 100 is a little more than 55.
            {"kind": "multi_step", "milestones": [0.25, 0.55], "gamma": 0.2},
            lambda o: torchs.MultiStepLR(o, [25, 55], gamma=0.2),
        ),
        (
            {"kind": "cosine", "final_fraction": 0.1},
            lambda o: torchs.CosineAnnealingLR(o, TOTAL_STEPS, eta_min=0.1),
        ),
        ({"kind": "one_cycle"}, lambda o: torchs.OneCycleLR(o, 1.0, TOTAL_STEPS)),
    ],
)
def test_a_schedule_is_torchs(
    ours: dict[str, Any], make: Callable[[torch.optim.Optimizer], torchs.LRScheduler]
) -> None:
    schedule = schedule_of(**ours)
    rates = schedule.multipliers(0, TOTAL_STEPS)
    np.testing.assert_allclose(rates, torchs_rates(make), rtol=1e-9, atol=1e-12)


def test_plateau_is_torchs() -> None:
    losses = [1.0, 0.9, 0.895, 0.91, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, float("nan"), 0.1]
    schedule = schedule_of("plateau", patience_epochs=2, gamma=0.5, min_delta=0.01)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torchs.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0.01, threshold_mode="abs"
    )
    ours, theirs = [], []
    for loss in losses:
        schedule.observe(loss)
        reference.step(loss)
        ours.append(schedule.multipliers(0).item())
        theirs.append(optimizer.param_groups[0]["lr"])
    assert ours == theirs
    assert ours[-1] == 0.125  # three cuts


def test_plateau_goes_on_after_a_restart() -> None:
    losses = [1.0, 1.0, 1.0, 1.0, 1.0]
    whole, first = (schedule_of("plateau", patience_epochs=3) for _ in range(2))
    for loss in losses:
        whole.observe(loss)
    for loss in losses[:3]:
        first.observe(loss)
    resumed = schedule_of("plateau", patience_epochs=3)
    resumed.load_state_dict(first.state_dict())
    for loss in losses[3:]:
        resumed.observe(loss)
    assert resumed.multipliers(0) == whole.multipliers(0) == 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_up_rises_from_near_zero_and_then_leaves_the_schedule_alone(kind: str) -> None:
    plain, warmed = schedule_of(kind).table, schedule_of(kind, warmup_epochs=1.6).table
    np.testing.assert_allclose(warmed[:8] / plain[:8], np.arange(1, 9) / 8)
    np.testing.assert_array_equal(warmed[8:], plain[8:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_epochs", [1, 2, 3, 7])
def test_a_table_has_a_multiplier_for_every_step(kind: str, num_epochs: int) -> None:
    table = build_schedule(ADAPTER.validate_python({"kind": kind}), num_epochs, 1).table
    assert table.shape == (num_epochs,)
    assert table.dtype == np.float64
    assert ((table >= 0) & (table <= 1)).all()


def test_the_only_update_of_one_cycle_is_at_the_peak() -> None:
    assert build_schedule(ADAPTER.validate_python({"kind": "one_cycle"}), 1, 1).table == [1.0]


@pytest.mark.parametrize("num_epochs", [2, 3, 4])
def test_one_cycle_ends_low_however_short_it_is(num_epochs: int) -> None:
    table = build_schedule(ADAPTER.validate_python({"kind": "one_cycle"}), num_epochs, 1).table
    assert table[-1] == pytest.approx(4e-6)
    assert table[0] > 0.03


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plateau"])
def test_only_plateau_listens(kind: str) -> None:
    schedule = schedule_of(kind)
    for _ in range(20):
        schedule.observe(1.0)
    assert schedule.multipliers(0).item() == schedule.table[0]
    assert schedule.state_dict() == {}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"kind": "cosin"}, "'constant', 'step', 'multi_step', 'cosine', 'one_cycle', 'plateau'"),
        ({"kind": "multi_step", "milestones": [0.5, 0.5]}, "must increase"),
        ({"kind": "multi_step", "milestones": [0.5, 1.0]}, "less than 1"),
        ({"kind": "multi_step", "milestones": []}, "at least 1 item"),
        ({"kind": "step", "gamma": 0.0}, "greater than 0"),
        ({"kind": "cosine", "gamma": 0.1}, "gamma"),
        ({"kind": "cosine", "warmup_epochs": -1}, "greater than or equal to 0"),
    ],
)
def test_a_mistake_is_refused_with_its_rule(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ADAPTER.validate_python(values)
