"""The `augmentation:` section as its user meets it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.augmentation import AugmentationSettings
from pipeline.settings import scalar_fields


def test_settings_refuse_what_is_out_of_range() -> None:
    for wrong in ({"strength": 1.5}, {"horizontal_flip": "vertical"}, {"randaugment_num_ops": 1.5}):
        with pytest.raises(ValidationError):
            AugmentationSettings(**wrong)  # type: ignore[arg-type]


def test_every_setting_has_an_off_mark() -> None:
    marked = {path for path, field in scalar_fields(AugmentationSettings) if field.off is not None}
    assert marked == set(AugmentationSettings.model_fields)


def test_silent_parts_names_what_was_asked_for_but_does_nothing() -> None:
    asked = AugmentationSettings(rotation_degrees=30.0, hue=0.0, horizontal_flip="none")
    assert asked.silent_parts() == ["rotation_degrees"]
    assert AugmentationSettings().silent_parts() == []
    assert AugmentationSettings(strength=0.1, rotation_degrees=30.0).silent_parts() == []
