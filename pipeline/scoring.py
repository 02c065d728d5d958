"""Nets on the selection images when a champion is made: the search's, an ensemble's, a refit's."""

from __future__ import annotations

from dataclasses import replace

from optuna.trial import FrozenTrial

from pipeline.answers import judged_by
from pipeline.champion import Champion, Refit
from pipeline.config import RunConfig
from pipeline.decision import with_baselines
from pipeline.errors import redact
from pipeline.finalists import Finalist, Verdict, finalist_name
from pipeline.judging import Judge
from pipeline.nets import Nets, NotKeptError, all_nets_of, load_nets, nets_of
from pipeline.study.carried import CARRIED_FROM, is_carried
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.precision import resolve_precision
from pipeline.weights import WeightStore

ONE_NET = "an ensemble is made of the finalists' nets; this is one net until they are trained"

CARRIED = (
    "trial {} ({} in its own study) has the best value, but only its own study has its weights; "
    "finalists (`finalists.count`) are trained again"
)


class Scorer:
    """Scores nets of a study from the weights that were kept.

    Args:
        config: the study's settings, with the precision that was measured.
        data: the images that the nets were trained on, on the device.
        selection: the selection images, on the same device.
    """

    def __init__(
        self, config: RunConfig, ledger: Ledger, data: DeviceData, selection: DeviceSplit
    ) -> None:
        self.config, self.ledger, self.data = config, ledger, data
        self.judge = Judge(selection, data, judged_by(config.study.metric))

    def of_the_search(self) -> Verdict | None:
        """The champion of the search and the baselines, scored from the weights that it kept: what
        there is without finalists. None while no trial is complete."""
        best = self.ledger.ranked_own()[:1]
        if not best:
            return None
        notes: list[str] = []
        first = self.ledger.ranked()[0]
        if is_carried(first):
            notes.append(CARRIED.format(first.number, first.user_attrs[CARRIED_FROM]))
        found = tuple(self._scored(trial, notes) for trial in with_baselines(self.ledger, best))
        return Verdict(found, self.judge.judged, False, tuple(notes))

    def baselines(self) -> tuple[Finalist, ...]:
        """The baselines alone: what can be registered while no trial may win."""
        return tuple(self._scored(trial, []) for trial in with_baselines(self.ledger, ()))

    def _scored(self, trial: FrozenTrial, notes: list[str]) -> Finalist:
        """With one net, the search's; without its answers where its weights can't be had."""
        name, judged = finalist_name(trial), self.judge.judged
        if not len(self.judge.selection):
            return Finalist(name, trial, (), (), judged)
        try:
            nets = self.as_one(Nets(name, (trial,), None, None, judged))
        except Exception as error:  # noqa: BLE001 - a study's result is not lost with one model
            notes.append(f"{name} can't be scored: {reason_of(error)}")
            return Finalist(name, trial, (), (), judged)
        return Finalist(name, trial, (), (nets.answers,) if nets.answers else (), judged)

    def champion(self, verdict: Verdict, followup: FollowUp | None) -> Champion:
        """What is to be registered of the winner.

        Args:
            followup: the finalists' trainings, of a verdict on them.
        """
        metric = self.config.study.metric
        best = nets_of(verdict.winner, followup, metric)
        if self.config.finalists.champion == "best":
            return Champion(best)
        if followup is None:
            return Champion(best, notes=(ONE_NET,))
        try:
            together = self.as_one(all_nets_of(verdict.winner, followup, metric))
        except Exception as error:  # noqa: BLE001 - a study's result is not lost with one net
            return Champion(best, notes=(f"there is no ensemble: {reason_of(error)}",))
        return Champion(together, together.gain_over(verdict.winner.scores.mean(axis=0)))

    def refit(
        self,
        champion: Champion,
        trials: tuple[FrozenTrial, ...],
        followup: FollowUp | None,
        num_epochs: int,
    ) -> Champion:
        """The champion with its refit beside it.

        Args:
            trials: its complete trainings, of this follow-up, as many as the champion has nets.
        """
        winner = champion.winner
        try:
            nets = self.as_one(replace(winner, trials=trials, followup=followup, answers=None))
            without = (winner if winner.answers else self.as_one(winner)).answers
        except Exception as error:  # noqa: BLE001 - a study's result is not lost with one net
            return replace(champion, notes=(*champion.notes, f"no refit: {reason_of(error)}"))
        gain = None if without is None else nets.gain_over(without.scores)
        return champion if gain is None else replace(champion, refit=Refit(nets, num_epochs, gain))

    def as_one(self, nets: Nets) -> Nets:
        """The same nets, with what they say together of the selection images."""
        config, model = load_nets(nets, self.config, self.data, weights_of(nets, self.ledger))
        dtype = resolve_precision(config.training.precision, self.data.mean.device)
        return replace(nets, answers=self.judge.answers(self.judge.logits(model, dtype)))


def weights_of(nets: Nets, ledger: Ledger) -> WeightStore:
    """Where the weights of a study's nets are."""
    return WeightStore((nets.followup or ledger).uuid)


def reason_of(error: Exception) -> str:
    """An error in one line, without secrets."""
    if isinstance(error, NotKeptError):
        return str(error)
    return redact(f"{type(error).__name__}: {error}").splitlines()[0]
