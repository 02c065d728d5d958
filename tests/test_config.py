"""`RunConfig`: what overrides do to a file's settings; whatever a file says is taken or told."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.problems import MAX_SHOWN
from pipeline.config.run_config import RunConfig, off_values
from pipeline.config.space_file import load_space
from pipeline.errors import UserError, UserErrors
from tests.spaces import TINY, tiny_config

PLAIN = {"study": {"name": "s"}, "data": {"kind": "digits"}, "model": {"kind": "vgg"}}


def config(**sections):
    return RunConfig.model_validate(copy.deepcopy(PLAIN | sections))


STEP = {"lr_schedule": {"kind": "step", "gamma": 0.3, "step_epochs": 4, "warmup_epochs": 1.0}}


def test_another_kind_drops_the_keys_it_does_not_have():
    cosine = config(**STEP).with_overrides({"lr_schedule.kind": "cosine"}).lr_schedule
    assert cosine.kind == "cosine"
    assert cosine.warmup_epochs == 1.0
    assert not hasattr(cosine, "gamma")


def test_another_kind_keeps_the_keys_that_both_have():
    plateau = config(**STEP).with_overrides({"lr_schedule.kind": "plateau"}).lr_schedule
    assert (plateau.kind, plateau.gamma, plateau.warmup_epochs) == ("plateau", 0.3, 1.0)


def test_the_same_kind_drops_nothing():
    same = config(**STEP).with_overrides({"lr_schedule.kind": "step"})
    assert same == config(**STEP)


@pytest.mark.parametrize("kind_first", [True, False])
def test_the_order_of_overrides_does_not_matter(kind_first):
    overrides = [("lr_schedule.kind", "plateau"), ("lr_schedule.patience_epochs", 7)]
    changed = config(**STEP).with_overrides(dict(overrides if kind_first else overrides[::-1]))
    assert (changed.lr_schedule.kind, changed.lr_schedule.patience_epochs) == ("plateau", 7)


def test_a_key_that_the_new_kind_lacks_is_refused_when_it_is_asked_for():
    with pytest.raises(UserError, match="gamma"):
        config(**STEP).with_overrides({"lr_schedule.kind": "cosine", "lr_schedule.gamma": 0.5})


def test_a_section_that_the_file_leaves_out_can_be_overridden():
    changed = config().with_overrides(
        {
            "training.optimizer.weight_decay": 0.1,
            "lr_schedule.final_fraction": 0.5,
            "regularization.dropout": 0.2,
            "training.early_stopping.patience": 3,
        }
    )
    assert changed.training.optimizer.kind == "adamw"
    assert changed.training.optimizer.weight_decay == 0.1
    assert (changed.lr_schedule.kind, changed.lr_schedule.final_fraction) == ("cosine", 0.5)
    assert changed.regularization.dropout == 0.2
    assert changed.training.early_stopping.patience == 3
    assert changed.training.epochs == config().training.epochs


def test_the_kind_of_a_section_that_the_file_leaves_out_can_be_overridden():
    changed = config().with_overrides({"training.optimizer.kind": "sgd"})
    assert (changed.training.optimizer.kind, changed.training.optimizer.momentum) == ("sgd", 0.9)


def test_the_kind_that_a_section_has_by_default_drops_its_keys_too():
    adamw = config(training={"optimizer": {"beta1": 0.8, "learning_rate": 0.1}})
    sgd = adamw.with_overrides({"training.optimizer.kind": "sgd"}).training.optimizer
    assert (sgd.kind, sgd.learning_rate) == ("sgd", 0.1)


def test_from_a_torchvision_model_to_one_of_ours():
    given = config(model={"kind": "torchvision/resnet18", "pretrained": True})
    assert given.with_overrides({"model.kind": "vgg"}).model == config().model
    other = given.with_overrides({"model.kind": "torchvision/resnet34"}).model
    assert (other.name, other.pretrained) == ("resnet34", True)


def test_overrides_leave_the_settings_themselves_alone():
    given = config(**STEP)
    before = given.model_dump_json()
    given.with_overrides({"lr_schedule.kind": "cosine", "model.width": 8})
    assert given.model_dump_json() == before


def test_an_override_is_checked_like_a_file():
    with pytest.raises(UserError, match=r"`regularization\.dropout` is 1\.0"):
        config().with_overrides({"regularization.dropout": 1.0})
    with pytest.raises(UserError, match="no place in a `vgg` model"):
        config().with_overrides({"regularization.stochastic_depth": 0.1})


SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "lr_schedule": st.sampled_from(
            [
                STEP["lr_schedule"],
                {"kind": "multi_step", "milestones": [0.2, 0.9]},
                {"kind": "one_cycle", "rise_fraction": 0.1},
                {"kind": "plateau", "min_delta": 0.0},
            ]
        ),
        "model": st.sampled_from([{"kind": "vgg", "norm": "layer"}, {"kind": "resnet"}]),
        "regularization": st.fixed_dictionaries({"dropout": st.floats(0, 0.9)}),
        "augmentation": st.fixed_dictionaries({"strength": st.floats(0, 1)}),
        "training": st.fixed_dictionaries(
            {"epochs": st.integers(10, 50)},
            optional={"optimizer": st.sampled_from([{"kind": "sgd"}, {"eps": 1e-7}])},
        ),
    },
)
PROPERTY = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PROPERTY
@given(SECTIONS)
def test_overriding_all_values_by_themselves_changes_nothing(sections):
    given = config(**sections)
    assert given.with_overrides(given.values()) == given
    assert given.with_overrides({}) == given


@PROPERTY
@given(SECTIONS, SECTIONS)
def test_the_values_of_another_config_make_it_that_config(sections, others):
    one, other = config(**sections), config(**others)
    assert one.with_overrides(other.values()) == other


def test_the_off_values_switch_every_regularizer_off():
    off = off_values()
    assert off["augmentation.strength"] == 0
    assert off["training.optimizer.weight_decay"] == 0
    assert off["augmentation.horizontal_flip"] == "none"
    assert {path for path in config().values() if path.startswith("regularization.")} <= set(off)
    noisy = config(regularization={"dropout": 0.5, "l1": 1.0, "ema_decay": 0.9})
    assert noisy.with_overrides(off).regularization == config().regularization


def load(tmp_path, data, *assignments):
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps(data, ensure_ascii=False))
    return load_space(path, assignments).config


def test_an_assignment_takes_lists_and_mappings_as_yaml_does(tmp_path):
    loaded = load(
        tmp_path,
        PLAIN,
        "study.metrics=[validation/accuracy,validation/ece]",
        "study.constraints={validation/ece: 0.05, generalization_gap: 0.1}",
        "training.optimizer={kind: sgd, learning_rate: 1e-1}",
    )
    assert loaded.study.objectives == ("validation/accuracy", "validation/ece")
    assert loaded.study.constraints == {"validation/ece": 0.05, "generalization_gap": 0.1}
    optimizer = loaded.training.optimizer
    assert (optimizer.kind, optimizer.learning_rate) == ("sgd", 0.1)


def test_a_pruner_is_asked_for_a_chance_to_prune(tmp_path):
    """By the longest of its trainings; a file that leaves it to the default is right."""
    assert load(tmp_path, PLAIN, "training.epochs=2").study.pruner.warmup_epochs == 5
    eight = "study.pruner={kind: median, warmup_epochs: 8}"
    assert load(tmp_path, PLAIN, "training.epochs=9", eight)
    with pytest.raises(UserError, match=r"`study\.pruner\.warmup_epochs` is 8, but"):
        load(tmp_path, PLAIN, "training.epochs=8", eight)
    longer = {"search": {"training.epochs": {"type": "int", "low": 4, "high": 9}}}
    assert load(tmp_path, PLAIN | longer, "training.epochs=8", eight)


def test_assignments_count_as_if_they_stood_in_the_file(tmp_path):
    loaded = load(
        tmp_path,
        PLAIN | {"training": {"epochs": 7}},
        "training.batch_size=32",
        "training.optimizer.learning_rate=1e-4",
        "training.epochs=8",
        "study.name=ab",
        "study.pruner.kind=none",
        "training.optimizer.decay_norm_and_bias=true",
    )
    assert (loaded.training.epochs, loaded.training.batch_size) == (8, 32)
    assert loaded.training.optimizer.learning_rate == 1e-4
    assert loaded.training.optimizer.decay_norm_and_bias is True
    assert (loaded.study.name, loaded.study.pruner.kind) == ("ab", "none")


WHOLE = PLAIN | {
    "study": {
        "name": "s",
        "sampler": {"kind": "tpe"},
        "pruner": {"kind": "threshold", "lower": 0.1},
    },
    "training": {"epochs": 9, "optimizer": {"kind": "sgd", "momentum": 0.5}},
    "lr_schedule": {"kind": "multi_step", "milestones": [0.5, 0.7]},
    "regularization": {"dropout": 0.5},
    "augmentation": {"strength": 0.5, "hue": 0.1},
    "search": {
        "regularization.dropout": {"type": "float", "low": 0.0, "high": 0.5},
        "lr_schedule.kind": {"type": "categorical", "choices": ["multi_step", "step"]},
        "lr_schedule.step_epochs": {
            "type": "int",
            "low": 1,
            "high": 4,
            "when": {"lr_schedule.kind": ["step"]},
        },
    },
    "registry": {"model_name": "m"},
}
RUBBISH = st.sampled_from(
    [
        *(None, True, 0, -1, 3, 10**17, 0.5, 1e300, "", "x", "vgg", "kind", "10"),
        *([], [1], [[1]], {}, {"kind": "vgg"}, {"kind": None}, {"kind": []}),
        *({"type": "float"}, {"x": {"type": "int"}}),
    ]
)


def places(data, place=()):
    yield place
    for key, value in data.items() if isinstance(data, dict) else ():
        yield from places(value, (*place, key))


@settings(PROPERTY, max_examples=400)
@given(st.sampled_from(list(places(WHOLE))[1:]), RUBBISH, st.sampled_from(["set", "add", "drop"]))
def test_whatever_is_changed_in_a_file_is_taken_or_told(tmp_path, place, rubbish, how):
    data = copy.deepcopy(WHOLE)
    *sections, key = place
    owner = data
    for section in sections:
        owner = owner[section]
    if how == "drop":
        del owner[key]
    else:
        owner[f"{key}x" if how == "add" else key] = rubbish
    try:
        load(tmp_path, data)
    except UserError as error:
        errors = error.errors if isinstance(error, UserErrors) else (error,)
        assert len(errors) <= MAX_SHOWN
        for each in errors:
            assert each.where.endswith("space.yaml:1")
            assert all((each.what, each.rule, each.cure)), each
            assert "nput should" not in str(each)


def test_the_whole_file_of_the_test_above_is_right(tmp_path):
    assert load(tmp_path, WHOLE).search.keys() == WHOLE["search"].keys()


def test_a_file_is_checked_without_torch():
    """Which takes seconds to import: a mistake is to be told at once."""
    slow = "{'torch', 'optuna', 'mlflow'}"
    code = f"import sys, pipeline.config.space_file; print(sorted({slow} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_assignment_to_a_kind_drops_the_old_kinds_keys(tmp_path: Path) -> None:
    text = TINY.replace("learning_rate: 3e-3", "learning_rate: 3e-3, beta2: 0.99")
    config = tiny_config(tmp_path, "training.optimizer.kind=sgd", text=text)
    assert config.training.optimizer.kind == "sgd"
    assert config.training.optimizer.learning_rate == 3e-3


def test_what_a_search_may_need_includes_what_belongs_to_one_kind_of_model_alone(
    tmp_path: Path,
) -> None:
    text = """
study: {name: both}
data: {kind: digits}
model: {kind: vgg, width: 8}
search:
  model.kind: {type: categorical, choices: [vgg, resnet]}
  regularization.stochastic_depth: {type: float, low: 0.0, high: 0.3, when: {model.kind: resnet}}
  regularization.ema_decay: {type: categorical, choices: [0.9, 0.0]}
  training.gradient_clip_norm: {type: float, low: 0.0, high: 2.0}
  augmentation.strength: {type: float, low: 0.0, high: 0.5}
"""
    needs = tiny_config(tmp_path, text=text).strongest()
    assert needs.regularization.stochastic_depth == 0.3
    assert needs.regularization.ema_decay == 0.9
    assert needs.training.gradient_clip_norm == 2.0
    assert needs.augmentation.strength == 0.5
    assert needs.regularization.dropout == 0.0
