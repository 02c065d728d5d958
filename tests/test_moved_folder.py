"""A folder that was renamed, moved or copied with its study, and files of it that were lost."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from rich.console import Console

from pipeline.datasets import load_splits
from pipeline.doctor import examine
from pipeline.errors import UserError
from pipeline.evaluation import evaluate
from pipeline.outcome import Outcome
from pipeline.places import DEFAULT_STORAGE
from pipeline.progress import LogView
from pipeline.registry import has_files
from pipeline.report.summary import summary
from pipeline.search import Options, run_search
from pipeline.study.ledger import Ledger
from pipeline.study.record import recall
from pipeline.study.storage import open_storage
from pipeline.tracking import connect
from tests.conftest import enter
from tests.spaces import TINY, tiny_space

CHAMPION = "models:/tiny-cnn@champion"


@dataclass(frozen=True)
class Folder:
    path: Path
    patch: pytest.MonkeyPatch

    def run(self, *, text: str = TINY, extend: bool = False) -> tuple[Outcome, str]:
        console = Console(record=True, width=300, file=io.StringIO())
        few = ("study.trials=3", "finalists.count=3", "finalists.seeds=1")
        space = tiny_space(self.path, *few, text=text)
        outcome = run_search(space, Options(num_workers=1, extend=extend), LogView(console))
        console.print(summary(outcome))
        return outcome, console.export_text()

    def wrong(self) -> list[str]:
        return [finding.text for finding in examine(DEFAULT_STORAGE, None, fix=False)]

    def weights(self) -> list[Path]:
        """Of the finalists' trainings: three, where the study has the two baselines' and its own
        trial's."""
        found = sorted(self.path.glob("mlruns/weights/*/*.pt"))
        of_finalists = [p.parent for p in found if (p.parent / "registering.lock").exists()]
        return [path for path in found if path.parent in of_finalists]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> tuple[Path, Outcome]:
    """A study that has run to its end, and what came of it."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(mlflow_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        outcome, _ = Folder(folder, patch).run()
        assert outcome.succeeded
    return folder, outcome


@pytest.fixture
def original(first: tuple[Path, Outcome]) -> Path:
    return first[0]


def at(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """As in a process that was started there: MLflow keeps what it once knew of places."""
    enter(patch, folder)
    utils._artifact_repos_cache.clear()


@pytest.fixture
def copied(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """The original is there, too."""
    folder = tmp_path / "copied"
    shutil.copytree(original, folder)
    at(folder, monkeypatch)
    return Folder(folder, monkeypatch)


def version_now() -> int:
    """The champion's."""
    return int(MlflowClient().get_model_version_by_alias("tiny-cnn", "champion").version)


def places() -> set[str]:
    """The folders in which MLflow looks for artifacts, as far as the store tells."""
    client = connect()
    [experiment] = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id])
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    found = [experiment.artifact_location, model.artifact_location]
    found += [run.info.artifact_uri for run in runs]
    return {place.partition("/mlruns/")[0] for place in found}


def test_the_paths_of_a_copy_are_its_own_and_the_originals_stay(
    original: Path, copied: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places() == {str(copied.path)}
    version = version_now()
    assert evaluate(CHAMPION).model_version == version
    at(original, monkeypatch)
    assert places() == {str(original)}


def test_a_folder_that_was_moved_goes_on(copied: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    connect()
    version = version_now()
    moved = copied.path.rename(copied.path.with_name("moved elsewhere"))
    at(moved, monkeypatch)
    assert places() == {str(moved)}
    outcome, _ = Folder(moved, monkeypatch).run()
    assert outcome.succeeded
    assert evaluate(CHAMPION).model_version == version
    assert not copied.path.exists()


def test_artifacts_that_were_meant_to_lie_elsewhere_stay_there(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is used from another folder: beside it, there are none."""
    (tmp_path / "databases").mkdir()
    shutil.copy(original / "mlflow.db", tmp_path / "databases/mlflow.db")
    enter(monkeypatch, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/databases/mlflow.db")
    assert places() == {str(original)}


def test_a_model_whose_files_are_gone_is_said_to_be_and_registered_again(copied: Folder) -> None:
    connect()
    version = version_now()
    for models in copied.path.glob("mlruns/*/models"):
        shutil.rmtree(models)
    with pytest.raises(UserError, match=f"the files of models:/tiny-cnn/{version} are gone"):
        evaluate(CHAMPION)
    gone = f"tiny: the files of {CHAMPION} are gone; `regsearch sync` makes them anew"
    assert gone in copied.wrong()
    outcome, _ = copied.run()
    assert outcome.succeeded
    assert evaluate(CHAMPION).model_version > version
    assert copied.wrong() == []


def test_what_is_registered_stays_so_without_the_weights_it_was_made_of(copied: Folder) -> None:
    version = version_now()
    for path in copied.path.glob("mlruns/weights/*/*.pt"):
        path.unlink()
    outcome, _ = copied.run()
    assert outcome.succeeded
    assert {entry.problem for entry in outcome.registered} == {""}
    assert evaluate(CHAMPION).model_version == version


def test_a_new_mlflow_gets_the_finalists_and_the_champion(copied: Folder) -> None:
    (copied.path / "mlflow.db").unlink()
    outcome, printed = copied.run()
    assert outcome.succeeded
    assert "MLflow has no run" not in printed
    client = MlflowClient()
    assert has_files(client, client.get_model_version_by_alias("tiny-cnn", "champion"))


def test_lost_nets_that_are_to_be_registered_are_trained_again(
    first: tuple[Path, Outcome], copied: Folder
) -> None:
    """By the same seeds, on the same machine: they say the same of each image."""
    (copied.path / "mlflow.db").unlink()
    lost = copied.weights()
    assert len(lost) == 3
    for path in lost:
        path.unlink()
    assert copied.wrong() == [
        f"tiny: {CHAMPION} is not there; `regsearch sync` registers it",
        "tiny: the weights of 3 trainings of the finalists are gone; `regsearch run` with the "
        "space file trains what it needs again",
    ]
    after, printed = copied.run()
    assert "finalists: 3 trainings with fresh seeds" in printed
    assert after.succeeded
    assert first[1].verdict is not None
    assert after.verdict is not None
    assert after.verdict.scores() == first[1].verdict.scores()
    assert copied.wrong() == []


def test_a_refused_run_changes_nothing_of_the_study(
    copied: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images, and wider bounds that would be taken."""
    wider = TINY.replace("high: 0.7", "high: 0.9")
    store = open_storage(DEFAULT_STORAGE)
    settings = recall(store, "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipeline.search.load_splits",
            lambda *given: replace(load_splits(*given), digest="of other images"),
        )
        with pytest.raises(UserError, match="images have changed"):
            copied.run(text=wider, extend=True)
    assert recall(store, "tiny") == settings
    assert Ledger(settings, store, begin=False).extended == []
    store.close()
    assert copied.run()[0].succeeded
