"""Where in MLflow a study's figures are, who has read the test split, and the report logged there.

MLflow may be away: then there are no ids, and nothing else of the report is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial

from pipeline.errors import UserError, redact
from pipeline.readings import Reading, recorded_readings
from pipeline.registration import CHAMPION
from pipeline.registry import NUM_NETS, version_of_another_study
from pipeline.study.ledger import Ledger
from pipeline.tracking import connect
from pipeline.tracking.finding import find_runs
from pipeline.tracking.runs import study_identity, trials_identity

ARTIFACT = "report.html"
NO_RUN = "-"


@dataclass(frozen=True)
class ModelReading:
    """A reading of the test split, of a version of the study's registered model."""

    version: str
    aliases: str
    reading: Reading


@dataclass(frozen=True)
class Version:
    """A version of the study's registered model.

    Attributes:
        aliases: those that point at it.
        run: whose output it is.
        num_nets: how many nets' probabilities it averages.
    """

    number: str
    aliases: tuple[str, ...]
    run: str
    num_nets: int


@dataclass(frozen=True)
class Sources:
    """What MLflow has of a study.

    Attributes:
        away: why MLflow could not be asked; empty where it could.
        study: the run of the study; empty where there is none.
        trials: number -> run.
        followups: kind -> run.
        trainings: kind -> number of a training -> run.
        versions: of the registered model, those that come from this study.
        other_champion: another study's version that has the alias of the champion; else empty.
    """

    client: MlflowClient | None = None
    away: str = ""
    study: str = ""
    trials: Mapping[int, str] = field(default_factory=dict)
    followups: Mapping[str, str] = field(default_factory=dict)
    trainings: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    versions: tuple[Version, ...] = ()
    readings: tuple[ModelReading, ...] = ()
    other_champion: str = ""

    def of_trial(self, number: int) -> str:
        """The run of a trial of the search."""
        return self.trials.get(number, NO_RUN)

    def of_training(self, kind: str, number: int) -> str:
        """The run of a training of a follow-up."""
        return self.trainings.get(kind, {}).get(number, NO_RUN)

    def of_trainings(self, kind: str, trainings: Iterable[FrozenTrial]) -> str:
        """The runs of trainings of a follow-up, as a table shows them."""
        runs = (self.of_training(kind, training.number) for training in trainings)
        return " ".join(dict.fromkeys(runs)) or NO_RUN

    def with_alias(self, alias: str) -> Version | None:
        """The version that an alias points at, if that is one of this study's."""
        return next((one for one in self.versions if alias in one.aliases), None)

    def of_followup(self, kind: str) -> str:
        return self.followups.get(kind, "")


def find_sources(ledger: Ledger, followups: Mapping[str, Ledger]) -> Sources:
    """The runs of a study and of its follow-ups, and the readings of its registered model."""
    try:
        return _find(connect(create=False), ledger, followups)
    except UserError as error:
        return Sources(away=error.what)
    except (MlflowException, OSError) as error:
        return Sources(away=redact(str(error)).partition("\n")[0])


def log_report(sources: Sources, html: str) -> str:
    """Log the report on the study's run; why it could not be, else empty."""
    if sources.away or sources.client is None:
        return sources.away or "MLflow was not asked"
    if not sources.study:
        return "MLflow has no run of the study; `regsearch sync` makes it"
    try:
        sources.client.log_text(sources.study, html, ARTIFACT)
    except (MlflowException, OSError) as error:
        return redact(str(error)).partition("\n")[0]
    return ""


def _find(client: MlflowClient, ledger: Ledger, followups: Mapping[str, Ledger]) -> Sources:
    experiment = client.get_experiment_by_name(ledger.config.study.name)
    if experiment is None:
        return Sources(client)
    place = str(experiment.experiment_id)
    study = _run(client, place, study_identity(ledger.uuid))
    if not study:
        return Sources(client)
    found = {
        kind: _run(client, place, study_identity(followup.uuid, kind, study))
        for kind, followup in followups.items()
    }
    trials = _trials(client, place, study)
    trainings = {kind: _trials(client, place, run) for kind, run in found.items() if run}
    runs = {*trials.values(), *(run for of_kind in trainings.values() for run in of_kind.values())}
    name = ledger.config.registry.model_name
    versions, readings = _registered(client, name, runs)
    other = version_of_another_study(client, name, CHAMPION, place)
    return Sources(client, "", study, trials, found, trainings, versions, readings, other)


def _run(client: MlflowClient, experiment: str, identity: Mapping[str, str]) -> str:
    runs = find_runs(client, experiment, identity)
    return str(runs[0].info.run_id) if runs else ""


def _trials(client: MlflowClient, experiment: str, parent: str) -> dict[int, str]:
    """By number; of several runs of a trial the oldest, as everywhere."""
    found: dict[int, str] = {}
    for run in find_runs(client, experiment, trials_identity(parent)):
        number = run.data.tags.get("regsearch.trial", "")
        if number.isdecimal():
            found.setdefault(int(number), str(run.info.run_id))
    return found


def _registered(
    client: MlflowClient, name: str, runs: set[str]
) -> tuple[tuple[Version, ...], tuple[ModelReading, ...]]:
    """The versions of a model that these runs have, and the readings on record of them."""
    versions = [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id in runs]
    aliases = dict(client.get_registered_model(name).aliases) if versions else {}
    told = tuple(_version(version, aliases) for version in versions)
    readings = [
        ModelReading(one.number, ", ".join(one.aliases) or "-", reading)
        for one, version in zip(told, versions, strict=True)
        for reading in recorded_readings(client, version)
    ]
    return told, tuple(sorted(readings, key=lambda one: one.reading.when))


def _version(version: ModelVersion, aliases: Mapping[str, object]) -> Version:
    number = str(version.version)
    own = tuple(sorted(name for name, v in aliases.items() if str(v) == number))
    return Version(number, own, str(version.run_id), int(version.tags.get(NUM_NETS, "1")))
