"""Runs and experiments found, or made once, however many processes look for them at once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError

_MAKER_TAG = "regsearch.maker"
_NUM_LOOKS = 20
_MAX_WAIT_SEC = 0.5
_PAGE = 1000


def find_or_make_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment of that name.

    Raises:
        UserError: it is deleted.
        MlflowException, OSError: MLflow is away, or refuses.
    """
    experiment = client.get_experiment_by_name(name) or _make_experiment(client, name)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"the MLflow experiment `{name}` is deleted",
            where="study.name",
            cure=f"give the study another name, or run "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`",
        )
    return str(experiment.experiment_id)


def _make_experiment(client: MlflowClient, name: str) -> Experiment:
    try:
        return client.get_experiment(client.create_experiment(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        made = client.get_experiment_by_name(name)  # another process was faster
        if made is None:
            raise
        return made


def find_or_make_run(
    client: MlflowClient,
    experiment_id: str,
    identity: Mapping[str, str],
    *,
    maker: str,
    name: str | None = None,
    start_time_ms: int | None = None,
) -> Run:
    """The one run with these tags.

    MLflow has nothing that would refuse a second run. So whoever makes one looks again, and keeps
    it only once it was alone: of two that keep theirs, the later look would have shown both. Of
    several runs all but the first are deleted by who made them; the first waits for that, and
    gives way as well if one stays, since that one may have been alone before it came.

    Args:
        maker: unique to the caller, and the same in each of its calls: so a run whose reply was
            lost is known again.

    Raises:
        MlflowException, OSError: MLflow is away, or refuses.
    """
    runs: list[Run] = []
    for look in range(_NUM_LOOKS):
        runs = find_runs(client, experiment_id, identity)
        if not runs:
            tags = {**identity, _MAKER_TAG: maker}
            client.create_run(experiment_id, start_time_ms, tags, run_name=name)
            continue
        if len(runs) == 1:
            return runs[0]
        own = [run for run in runs if run.data.tags.get(_MAKER_TAG) == maker]
        waits = runs[0] in own and look < _NUM_LOOKS // 2
        for run in own[1:] if waits else own:
            client.delete_run(run.info.run_id)
        time.sleep(random.uniform(0, _MAX_WAIT_SEC))
    if not runs:
        raise MlflowException(f"a run with {identity} was made, and is not found")
    return runs[0]  # a killed process left the others, `reconcile` deletes them


def find_runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """The runs that have all these tags, the oldest first; everybody sees the same order."""
    runs = search_runs(client, experiment_id, tags)
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def search_runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """All runs that have all these tags, however many there are."""
    filters = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    token = None
    while True:
        page = client.search_runs([experiment_id], filters, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
