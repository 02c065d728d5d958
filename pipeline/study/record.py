"""What a study remembers of itself, so that it can be asked and mended without its space file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import optuna
import yaml
from pydantic import ValidationError

from pipeline import __version__
from pipeline.config import RunConfig
from pipeline.config.space_file import Space
from pipeline.errors import UserError
from pipeline.study.ledger import Ledger
from pipeline.study.spec import require_same_data
from pipeline.study.store import Store

_SETTINGS = "regsearch.settings"
DATA_DIGEST = "regsearch.data_digest"


def versions() -> dict[str, str]:
    """Of everything that a result depends on."""
    own = {"python": platform.python_version(), "regsearch": __version__}  # installed or not
    packages = ("torch", "torchvision", "optuna", "mlflow", "numpy")
    return own | {name: version(name) for name in packages}


def remember(ledger: Ledger, space: Space, dataset: Mapping[str, Any]) -> list[str]:
    """Write down what the study is, at its first start; what a run finds out later, its tags, come
    later.

    Args:
        dataset: what MLflow is told about the images.

    Returns:
        The versions that differ from those of the first start, a line each.
    """
    config = space.config
    settings = yaml.safe_dump(config.resolved(), sort_keys=False)
    ledger.fixed("artifacts", lambda: {"space.yaml": space.text, "settings.yaml": settings})
    ledger.fixed("dataset", lambda: dict(dataset))
    return changed_versions(ledger.fixed("versions", versions))


def changed_versions(then: Mapping[str, str]) -> list[str]:
    """What is of another version now than when a study began, a line each."""
    now = versions()
    return [
        f"{name} was {then.get(name, 'unknown')} when the study began, and is {now[name]}"
        for name in now
        if then.get(name) != now[name]
    ]


def require_known_data(store: Store, study: str, digest: str) -> None:
    """Raise a `UserError` if the images are not those that a study of the store was begun with:
    before anything of it is changed."""
    for known in store.get_all_studies():
        if known.study_name == study and DATA_DIGEST in known.user_attrs:
            require_same_data(known.user_attrs[DATA_DIGEST], digest, study)


def remember_settings(ledger: Ledger) -> None:
    """Write down the settings: before anything else, so that every study can be recalled."""
    ledger.keep("settings", ledger.config.resolved())


def study_names(store: Store) -> list[str]:
    """The studies of a store that regsearch began, by name."""
    return sorted(s.study_name for s in store.get_all_studies() if _SETTINGS in s.user_attrs)


def recall(store: Store, name: str) -> RunConfig:
    """The settings of a study, from its store.

    Raises:
        UserError: the store has no such study, or one that another version began.
    """
    if name not in study_names(store):
        raise UserError(
            f"the store has no study {name!r}",
            where="STUDY",
            rule=f"it has {', '.join(study_names(store)) or 'none'}",
            cure="name one of these, or the store by --storage",
        )
    attrs = optuna.load_study(study_name=name, storage=store).user_attrs
    try:
        return RunConfig.model_validate_json(json.dumps(attrs.get(_SETTINGS)))
    except ValidationError:
        raise UserError(
            f"the study {name!r} does not say what its settings are in a way that is known here",
            where="STUDY",
            rule="a study is read by the version of regsearch that began it, or a later one",
            cure="run its space file again first, or use the version that began it: "
            f"{attrs.get('regsearch.versions', {}).get('regsearch', 'unknown')}",
        ) from None
