"""The JSON Schema takes what the program takes, and refuses most of what it refuses."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pipeline.config.schema import space_schema
from pipeline.config.space_check import searchable_paths
from pipeline.config.space_file import load_space
from pipeline.config.yaml_file import read_yaml

TESTS = Path(__file__).parent
SPACES = sorted((TESTS.parent / "search_spaces").glob("*.yaml"))
PLAIN = {"study": {"name": "s"}, "data": {"kind": "digits"}, "model": {"kind": "vgg"}}


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(space_schema()))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_files_that_come_with_regsearch_are_right(path, validator):
    validator.validate(read_yaml(path).data)
    load_space(path)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"kind": "torchvision/resnet18", "pretrained": True}},
        {"training": {"optimizer": {"learning_rate": 1}}},
        {"training": {"optimizer": {"kind": "sgd", "momentum": 0.8}}},
        {"lr_schedule": {"kind": "multi_step", "milestones": [0.1, 0.2]}},
        {"data": {"kind": "image_folder", "channels": 1, "train_images": None}},
        {"study": {"name": "s", "sampler": {"kind": "qmc", "seed": None}}},
        {"search": {"model.width": {"type": "int", "low": 8, "high": 64, "step": 8}}},
        {
            "search": {
                "model.kind": {"type": "categorical", "choices": ["vgg", "resnet"]},
                "model.head_width": {
                    "type": "int",
                    "low": 8,
                    "high": 64,
                    "log": True,
                    "when": {"model.kind": "vgg"},
                },
            }
        },
    ],
    ids=str,
)
def test_what_the_program_takes_the_schema_takes(sections, validator, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps(PLAIN | sections))
    load_space(path)
    validator.validate(read_yaml(path).data)


@pytest.mark.parametrize(
    "name",
    [
        "choices_of_one",
        "choice_is_null",
        "empty_section",
        "float_bound_of_int_entry",
        "float_for_int",
        "list_for_scalar",
        "missing_bound",
        "missing_entry_type",
        "missing_kind",
        "missing_section",
        "missing_study_name",
        "out_of_range",
        "searched_data_key",
        "searched_key_misspelt",
        "study_name_with_slash",
        "too_many_choices",
        "unknown_data",
        "unknown_key_in_entry",
        "unknown_key_in_kind",
        "unknown_key_of_another_kind",
        "unknown_model",
        "unknown_optimizer",
        "unknown_pruner",
        "unknown_section",
        "yes_for_true",
    ],
)
def test_what_an_editor_can_see_is_refused(name, validator):
    assert not validator.is_valid(read_yaml(TESTS / "broken" / f"{name}.yaml").data)


def test_every_searchable_setting_is_completed_with_its_description(validator):
    search = validator.schema["properties"]["search"]
    assert set(search["properties"]) == set(searchable_paths())
    dropout = search["properties"]["regularization.dropout"]
    assert dropout["description"] == "Chance that an input of the classifier is zeroed."
    assert all(entry["description"] for entry in search["properties"].values())


def test_what_is_searchable():
    paths = searchable_paths()
    assert {"model.width", "lr_schedule.kind", "lr_schedule.gamma", "augmentation.hue"} <= {*paths}
    assert not [path for path in paths if path.startswith(("study.", "data.", "registry."))]
    assert "lr_schedule.milestones" not in paths  # a list
    assert len(paths) == len(set(paths))
