"""All that a report tells, gathered from a study's store, its journal and MLflow's tags.

No data set is loaded, and so no split of one can be read by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.ablation import Ablation, read_ablation
from pipeline.analysis.audit import Audit, audit
from pipeline.analysis.bounds import BoundsReport, examine_bounds
from pipeline.analysis.importance import Importance
from pipeline.analysis.ranking import searched_trials
from pipeline.analysis.views import Views
from pipeline.answers import judged_by
from pipeline.champion import Champion
from pipeline.champion_record import recall_champion
from pipeline.coordinator import standing
from pipeline.decision import verdict, with_baselines
from pipeline.diagnosed import diagnosis_of
from pipeline.diagnosis import Diagnosis
from pipeline.errors import UserError
from pipeline.finalists import KIND, Finalist, Verdict, finalist_name
from pipeline.report.curves import Attempt, Curves, attempts, curves, read_events
from pipeline.report.sources import Sources, find_sources
from pipeline.standing import Standing
from pipeline.study.carried import is_carried
from pipeline.study.followup import FollowUp, open_followups
from pipeline.study.ledger import Ledger
from pipeline.study.store import SCORED
from pipeline.tradeoff import TradeOff, trade_off
from pipeline.transfer import Transfer, read_transfers


@dataclass(frozen=True)
class Evidence:
    """A study as it stands.

    Attributes:
        trials: of the search, in any state, those carried over included.
        verdict: on the finalists; without them on the search's own champion and the baselines, of
            which nothing on the selection images is known then; None while no trial is complete.
        audit: of the study's own trials.
        bounds: None, and why in `no_bounds`, where there are too few trials to judge them by.
        curves, final_curves: of the search's trials, and of the finalists' trainings.
        ablation: None where none was begun.
        trade_off: None in a search by one metric.
        champion: what was registered last, as it was scored then; None where nothing was kept.
        transfers: the conditions under which a finalist was trained with all of its seeds.
        spans: who ran what when, the follow-ups included, by kind: `study`, `finalists` ...
    """

    ledger: Ledger
    followups: Mapping[str, FollowUp]
    standing: Standing
    trials: tuple[FrozenTrial, ...]
    verdict: Verdict | None
    audit: Audit
    importances: Mapping[str, list[Importance]]
    bounds: BoundsReport | None
    no_bounds: str
    curves: Curves
    final_curves: Curves
    spans: Mapping[str, list[Attempt]]
    sources: Sources
    ablation: Ablation | None
    trade_off: TradeOff | None
    transfers: tuple[Transfer, ...]
    champion: Champion | None

    @property
    def metric(self) -> str:
        return self.ledger.config.study.metric

    @property
    def finalists(self) -> FollowUp | None:
        return self.followups.get(KIND)

    @property
    def is_final(self) -> bool:
        """Whether there is a verdict on the selection images."""
        return self.verdict is not None and self.verdict.retrained

    @cached_property
    def own(self) -> list[FrozenTrial]:
        """The study's trials without those of another study."""
        return [trial for trial in self.trials if not is_carried(trial)]

    def recorded(self, name: str) -> Mapping[str, Any]:
        """What the study noted of itself at its start; empty where it didn't get so far."""
        found = self.ledger.study.user_attrs.get(f"regsearch.{name}")
        return found if isinstance(found, dict) else {}

    def scored(self, trial: FrozenTrial) -> Mapping[str, float]:
        """A trial's metrics at its best epoch; empty where it never got to one."""
        found: Mapping[str, float] = trial.user_attrs.get(SCORED, {})
        return found

    def diagnosis(self, trial: FrozenTrial) -> Diagnosis | None:
        """Of a finished trial; None where its accuracies are not on record."""
        return diagnosis_of(self.ledger, trial)


def gather(ledger: Ledger) -> Evidence:
    """Everything, as it is now; nothing of the study is changed."""
    followups = {followup.kind: followup for followup in open_followups(ledger)}
    trials = tuple(ledger.trials())
    own = [trial for trial in trials if not is_carried(trial)]
    bounds, no_bounds = _bounds(ledger, trials)
    events = {kind: read_events(books) for kind, books in {"study": ledger, **followups}.items()}
    final = followups.get(KIND)
    found = _verdict(ledger, final)
    return Evidence(
        ledger=ledger,
        followups=followups,
        standing=standing(ledger),
        trials=trials,
        verdict=found,
        audit=audit(own, ledger.config),
        importances=_importances(ledger, trials) if bounds is None else bounds.importances,
        bounds=bounds,
        no_bounds=no_bounds,
        curves=curves(events["study"], ledger),
        final_curves={} if final is None else curves(events[KIND], final),
        spans={
            kind: attempts(events[kind], books)
            for kind, books in {"study": ledger, **followups}.items()
        },
        sources=find_sources(ledger, followups),
        ablation=_ablation(ledger),
        trade_off=trade_off(ledger, found),
        transfers=tuple(read_transfers(ledger)),
        champion=recall_champion(ledger, followups),
    )


def _bounds(ledger: Ledger, trials: tuple[FrozenTrial, ...]) -> tuple[BoundsReport | None, str]:
    try:
        return examine_bounds(ledger.config, trials), ""
    except UserError as error:
        return None, f"{error.what}; {error.rule}"


def _importances(ledger: Ledger, trials: tuple[FrozenTrial, ...]) -> Mapping[str, list[Importance]]:
    searched = searched_trials(trials)
    return Views(searched, ledger.objectives).importances() if searched else {}


def _ablation(ledger: Ledger) -> Ablation | None:
    try:
        return read_ablation(ledger)
    except UserError:  # what it took apart is no finalist any more
        return None


def _verdict(ledger: Ledger, final: FollowUp | None) -> Verdict | None:
    """On the finalists, once all of them are trained; else what the search alone says."""
    found = None if final is None else verdict(ledger, final)
    if found is not None:
        return found
    best = ledger.ranked_own()[:1]
    if not best:
        return None
    judged = judged_by(ledger.config.study.metric)
    chosen = with_baselines(ledger, best)
    of_search = tuple(Finalist(finalist_name(t), t, (), (), judged) for t in chosen)
    return Verdict(of_search, judged, False)
