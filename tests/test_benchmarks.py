"""The benchmarks run on the code of today: what they time is not asserted here."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, overhead
from benchmarks.cases import load_images
from benchmarks.gpu_sharing import _Pack
from benchmarks.gpu_step import candidates, kernels, parts
from benchmarks.gpu_training import study_trainer
from benchmarks.machine import describe


def test_a_worker_without_training_ends_its_trials(capfd: pytest.CaptureFixture[str]) -> None:
    assert overhead._trial_sec(num_workers=1, trials_each=3, epochs=1) > 0
    assert "Error" not in capfd.readouterr().err


def test_the_stores_growth_is_measured_on_trials_that_were_filled_in() -> None:
    row = overhead._grown(5)
    assert row[""] == "5 finished trials"
    assert int(row["ms a trial"]) > 0


def test_a_step_of_the_example_space_is_taken_apart(tmp_path: Path) -> None:
    splits = load_images(None, 24, 8)
    trainer = study_trainer("eager", 8, tmp_path, splits, "cpu")
    structure = trainer.step.structure
    assert structure.mixes  # it has what any trial of the study may need
    assert structure.averages
    found = dict(chain(parts(trainer), candidates(trainer)))
    assert {"batch and augmentation", "AdamW by torch's kernel"} <= set(found)
    assert found["net, forward and backward"] > found["of that, the optimizer's rule"] > 0
    longest, *others = [taken for _, taken, _ in kernels(trainer)]
    assert longest >= max(others) > 0


def test_a_fused_net_keeps_its_trainings_apart() -> None:
    pack = _Pack(count=2, width=4).eval()
    images = torch.rand(3, 6, 32, 32)
    answers = pack(images)
    assert answers.shape == (6, 10)
    changed = images.clone()
    changed[:, 3:] = 0  # the second training's images
    same = torch.isclose(pack(changed), answers).all(dim=1)
    assert same.tolist() == [True, False] * 3


def test_a_machine_that_was_kept_to_less_than_it_has_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "CXX"):
        monkeypatch.delenv(name, raising=False)
    assert "kept to" not in describe()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("CXX", "g++ -mno-avx512f")
    assert describe()["kept to"] == "ONEDNN_MAX_CPU_ISA=AVX2, CXX=g++ -mno-avx512f"


def test_a_part_that_fails_has_a_row_that_says_so(tmp_path: Path) -> None:
    rows = list(gpu._run_part("study", tmp_path / "nowhere", "cpu", True, left_sec=60))
    assert rows[-1]["what"] == "study"
    assert "failed" in rows[-1]["value"]


def test_a_part_for_which_no_time_is_left_is_not_begun(tmp_path: Path) -> None:
    rows = list(gpu._run_part("tests", tmp_path, "cpu", True, left_sec=1.0))
    assert rows == [{"what": "tests", "value": "no time was left"}]


def test_a_part_that_is_too_slow_has_its_rows_so_far_and_one_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own words come first; by then the clock of the second has run out."""
    program = tmp_path / "slow"
    words = json.dumps({"what": "one", "value": "1"})
    program.write_text(f"#!/bin/sh\necho '{words}'\nsleep 60\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setitem(gpu.LIMITS_SEC, "step", 1.0)
    monkeypatch.setattr(gpu, "MIN_SEC", 0.5)
    assert list(gpu._run_part("step", Path(), "cpu", True, left_sec=60)) == [
        {"what": "one", "value": "1"},
        {"what": "step", "value": "not done within 1 s"},
    ]
