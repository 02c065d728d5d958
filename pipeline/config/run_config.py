"""`RunConfig`: all settings of a study, and how a trial's sample changes them.

`RunConfig` assembles the settings classes that the parts below own. There is one way to change a
setting: a dotted path and a value. `--set`, the search, the baselines and the ablations all use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from pipeline.config.finalists_check import check_finalists
from pipeline.config.metrics_check import check_metrics
from pipeline.config.problems import Problem, did_you_mean, explain, nearest_name, raise_all
from pipeline.config.search_space import SearchEntry, SearchSpace
from pipeline.datasets import DataSettingsUnion
from pipeline.errors import UserError
from pipeline.finalist_settings import FinalistSettings
from pipeline.models import ModelSettingsUnion
from pipeline.settings import Scalar, Settings, field_classes, has_kind, scalar_fields
from pipeline.study import StudySettings
from pipeline.training.metrics import BOUNDABLE
from pipeline.training.recipe import Recipe

T = TypeVar("T", bound=Settings)

SECTIONS = (
    "study",
    "data",
    "model",
    "training",
    "lr_schedule",
    "regularization",
    "augmentation",
    "search",
    "finalists",
    "registry",
)


class RegistrySettings(Settings):
    """`registry:` - where the winner is kept."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,99}$")] = "regsearch"
    """The registered model's name in MLflow: letters, digits, `.`, `_`, `-` and spaces, at most
    100 in all, the first one a letter or a digit."""


class RunConfig(Recipe):
    """A whole space file: what is searched, on which images, with which network."""

    study: StudySettings
    """What is sought, how long, and by which rules."""
    data: DataSettingsUnion
    """Where the images come from."""
    model: ModelSettingsUnion
    """The network."""
    search: dict[str, SearchEntry] = Field(default_factory=dict)
    """What is searched: dotted path of a setting -> its type and bounds."""
    finalists: FinalistSettings = FinalistSettings()
    """How the winner is found."""
    registry: RegistrySettings = RegistrySettings()
    """Where the winner is kept."""

    @property
    def space(self) -> SearchSpace:
        return SearchSpace(self.search)

    def with_overrides(self, overrides: Mapping[str, Scalar]) -> RunConfig:
        """The same settings with some of them changed, by dotted path.

        Where a section's `kind` changes, the keys that the new kind doesn't have are dropped,
        unless they are overridden too.

        Raises:
            UserError: when the changed settings are not accepted.
        """
        data = self.model_dump(exclude_unset=True, exclude={"search"}) | {"search": self.search}
        for path, value in overrides.items():
            _spell_out_kind(data, self, path)
            if path.endswith(".kind"):
                change_kind(data, path.removesuffix(".kind"), str(value))
        for path, value in overrides.items():
            assign(data, path, value)
        try:
            config = RunConfig.model_validate(data)
        except ValidationError as error:
            raise_all(UserError(p.what, rule=p.rule) for p in explain(error, data, RunConfig))
        raise_all(UserError(p.what, rule=p.rule, cure=p.cure) for p in config.problems())
        return config

    def strongest(self) -> Recipe:
        """How to train with every searched regularizer switched on: what a trial may need.

        It is not checked, since no trial has all of them: some belong to one kind of model alone.
        """
        recipe: Recipe = self
        for path, off in {**off_values(), "training.gradient_clip_norm": 0.0}.items():
            if path in self.search:
                edges = reversed(self.search[path].edges())
                recipe = _changed(recipe, path.split("."), next(v for v in edges if v != off))
        return recipe

    def problems(self) -> Iterator[Problem]:
        """What is wrong between settings that are right one by one."""
        warmup, epochs = self.lr_schedule.warmup_epochs, self.training.epochs
        if warmup and warmup >= epochs:
            yield Problem(
                ("lr_schedule", "warmup_epochs"),
                f"`lr_schedule.warmup_epochs` is {warmup:g}, but `training.epochs` is {epochs}",
                rule="the warm-up should be shorter than the training",
                cure="shorten the warm-up",
            )
        min_epochs = getattr(self.study.pruner, "min_epochs", 0)
        if min_epochs > epochs:
            yield Problem(
                ("study", "pruner", "min_epochs"),
                f"`study.pruner.min_epochs` is {min_epochs}, but `training.epochs` is {epochs}",
                rule="a trial can't be promised more epochs than the training has",
                cure="lower `study.pruner.min_epochs`",
            )
        yield from self._regularizers_without_place()
        yield from check_metrics(self.study)
        yield from self._unknown_constraints()
        yield from check_finalists(self.finalists, self.data.selection_fraction)
        if self.study.warm_start is not None and self.study.warm_start.study == self.study.name:
            yield Problem(
                ("study", "warm_start", "study"),
                f"`study.warm_start.study` is {self.study.name}, the study's own name",
                rule="a study begins with the trials of another one",
                cure="give this study another `study.name`",
            )

    def _unknown_constraints(self) -> Iterator[Problem]:
        for name in self.study.constraints:
            if name not in BOUNDABLE:
                meant = nearest_name(name, BOUNDABLE)
                yield Problem(
                    ("study", "constraints", name),
                    f"`{name}` is not a metric that can be constrained",
                    rule=f"one of {', '.join(BOUNDABLE)}",
                    cure=did_you_mean([meant]) if meant else "name one of them",
                )

    def _regularizers_without_place(self) -> Iterator[Problem]:
        for name in ("dropout", "spatial_dropout", "stochastic_depth"):
            if getattr(self.regularization, name) and name not in self.model.regularizers:
                yield Problem(
                    ("regularization", name),
                    f"`regularization.{name}` has no place in a `{self.model.kind}` model",
                    rule=f"it takes {', '.join(sorted(self.model.regularizers)) or 'none of them'}",
                    cure=f"delete `regularization.{name}` or choose another model",
                )

    def resolved(self) -> dict[str, Any]:
        """All settings as plain data, defaults included, in the order in which one reads them."""
        data = self.model_dump(mode="json")
        return {section: data[section] for section in SECTIONS}

    def values(self) -> dict[str, Scalar | None]:
        """Every scalar setting by its dotted path, defaults included; the search left out."""
        return flatten({k: v for k, v in self.resolved().items() if k != "search"})


def _changed(settings: T, path: list[str], value: Scalar) -> T:
    """A copy with another value at a path, unchecked; the same where there is no such path."""
    name, *rest = path
    if name not in type(settings).model_fields:
        return settings
    below = _changed(getattr(settings, name), rest, value) if rest else value
    return settings.model_copy(update={name: below})


def off_values() -> dict[str, Scalar]:
    """Every setting that regularizes, with the value that switches it off."""
    return {
        path: scalar.off.value
        for path, scalar in scalar_fields(RunConfig)
        if scalar.off is not None
    }


def assign(data: dict[str, Any], path: str, value: Scalar | None) -> None:
    """Set a dotted path in nested mappings, making those that are not there."""
    *sections, key = path.split(".")
    for section in sections:
        nested = data.get(section)
        if not isinstance(nested, dict):
            nested = data[section] = {}
        data = nested
    data[key] = value


def _spell_out_kind(data: dict[str, Any], settings: Settings, path: str) -> None:
    """Write down the kind of a path's section where the file leaves it to the default."""
    section = path.rpartition(".")[0]
    owner: Any = settings
    for name in section.split("."):
        owner = getattr(owner, name, None)
    if hasattr(owner, "kind"):
        assign(data, f"{section}.kind", owner.kind)


def change_kind(data: dict[str, Any], section: str, kind: str) -> None:
    """Drop the keys of a section that its new kind doesn't have, before the kind is assigned."""
    *parents, name = section.split(".")
    classes: list[type[Settings]] = [RunConfig]
    for parent in (*parents, name):
        classes = [c for owner in classes for c in field_classes(owner, parent)]
    known = {key for c in classes if has_kind(c, kind) for key in c.model_fields}
    for parent in parents:
        data = data.get(parent, {})
    if known and isinstance(data.get(name), dict) and data[name].get("kind") != kind:
        data[name] = {key: value for key, value in data[name].items() if key in known}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
