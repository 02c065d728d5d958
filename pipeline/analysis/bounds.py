"""The bounds doctor: what a study's trials say of the ranges that it searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from pipeline.analysis.importance import LEVEL, Importance, importances, losses, usable
from pipeline.analysis.ranges import cut, position, widen
from pipeline.config import RunConfig
from pipeline.config.run_config import off_values
from pipeline.config.search_space import CategoricalEntry, Choice, SearchEntry, same
from pipeline.errors import UserError
from pipeline.settings import Scalar
from pipeline.training.metrics import direction
from pipeline.words import spell

MIN_TRIALS, MIN_TO_DROP = 10, 30
OUTER, OUTER_TOP = 0.1, 1 / 3
"""Where the best trial and the median of the best must lie to be at an edge. The median's part is
the larger: where other settings matter too, the best of sixty random trials spread that far."""
RUINOUS_PART, MAX_CUT, WORST, MIN_BAD = 0.2, 0.5, 0.4, 4
CHANCE = 0.005
"""So rarely may a part be ruinous by chance where the importance, which looks at the best trials
alone, does not tell: a sampler that soon avoids a part leaves little of it to compare."""


@dataclass(frozen=True)
class Advice:
    """What to do with one entry of the search.

    Attributes:
        new: the entry to search next; None where it is dropped.
        fixed: the value of a dropped setting; None where it needs none.
        text: what was found.
    """

    path: str
    entry: SearchEntry
    importance: Importance
    new: SearchEntry | None
    text: str
    fixed: Scalar | None = None

    @property
    def changed(self) -> bool:
        return self.new != self.entry


@dataclass(frozen=True)
class _Drawn:
    """The trials that have a setting, the best first, as (its value, standing of 0 to 1)."""

    trials: list[FrozenTrial]
    standing: list[float]
    values: list[Scalar]


def examine(config: RunConfig, trials: Sequence[FrozenTrial]) -> list[Advice]:
    """Advice on every entry, the most important first.

    Raises:
        UserError: fewer than ten trials were drawn and finished.
    """
    finished = usable(trials)
    if len(finished) < MIN_TRIALS:
        raise UserError(
            f"the study {config.study.name!r} has {len(finished)} finished trials that a sampler "
            "drew",
            where="STUDY",
            rule=f"bounds are judged from {MIN_TRIALS} such trials on; baselines don't count",
            cure="run the study on, with a higher --trials",
        )
    way = direction(config.study.metric)
    ranking = importances(finished, way, list(config.search))
    loss = losses(finished, way)
    order = sorted(range(len(finished)), key=lambda i: loss[i])
    ranked = [finished[i] for i in order]
    advice = [_entry(config, ranked, importance) for importance in ranking]
    return _without_orphans(config, _keep_one(advice))


def _entry(config: RunConfig, ranked: list[FrozenTrial], importance: Importance) -> Advice:
    path, entry = importance.path, config.search[importance.path]
    places = [i for i, t in enumerate(ranked) if path in t.params]
    drawn = _Drawn(
        [ranked[i] for i in places],
        [i / len(ranked) for i in places],
        [ranked[i].params[path] for i in places],
    )
    same_entry = Advice(path, entry, importance, entry, "")
    if isinstance(entry, CategoricalEntry):
        if importance.matters:
            return _choices(config, same_entry, entry, drawn)
        return _irrelevant(config, same_entry, drawn)
    cut_off = _ruinous(same_entry, drawn)
    if importance.matters:
        return _edge(config, cut_off, drawn)
    return cut_off if cut_off.changed else _irrelevant(config, same_entry, drawn)


def _irrelevant(config: RunConfig, advice: Advice, drawn: _Drawn) -> Advice:
    if len(drawn.values) < MIN_TO_DROP:
        return replace(advice, text="too few trials to tell")
    if advice.importance.p_value < LEVEL:
        return replace(advice, text="may matter: more trials would tell")
    off = off_values().get(advice.path)
    value = drawn.values[0] if off is None else off
    try:
        config.with_overrides({advice.path: value})
    except UserError:  # it belongs to another kind than the file's own
        return replace(advice, text="does not matter, but can't be fixed outside of its condition")
    text = f"does not matter: fixed at {spell(value)}" + (", off" if off is not None else "")
    return replace(advice, new=None, fixed=value, text=text)


def _choices(config: RunConfig, advice: Advice, entry: CategoricalEntry, drawn: _Drawn) -> Advice:
    """Drop what is never in the upper half; the recipe's own choice stays, as a baseline has it."""
    own = config.values().get(advice.path)
    bad = [c for c in entry.choices if not same(c, own) and _never_good(c, drawn)]
    kept = [c for c in entry.choices if c not in bad]
    if not bad or len(kept) < 2:
        return advice
    text = f"never in the upper half: {', '.join(map(spell, bad))}"
    return replace(advice, new=entry.model_copy(update={"choices": kept}), text=text)


def _never_good(choice: Choice, drawn: _Drawn) -> bool:
    pairs = zip(drawn.values, drawn.standing, strict=True)
    standings = [s for value, s in pairs if same(value, choice)]
    return len(standings) >= MIN_BAD and min(standings) >= 0.5


def _ruinous(advice: Advice, drawn: _Drawn) -> Advice:
    """Cut an outer part off of which every trial is among the worst."""
    entry = advice.new
    assert entry is not None
    assert not isinstance(entry, CategoricalEntry)
    for side in ("lower", "upper"):
        towards = 1 if side == "lower" else -1
        outward = sorted(
            zip(drawn.values, drawn.standing, strict=True), key=lambda v: towards * float(v[0])
        )
        bad = next((i for i, (_, s) in enumerate(outward) if s < 1 - WORST), len(outward))
        good = [value for value, s in outward[bad:]]
        bad_values = [v for v, _ in outward[:bad] if v not in good]  # ints and steps have ties
        # At most half of the range: the rest may be bad because of what was drawn beside it.
        bad_values = [v for v in bad_values if _depth(advice.entry, side, v) <= MAX_CUT]
        if len(bad_values) < MIN_BAD or not good:
            continue
        if not advice.importance.matters and _chance(len(bad_values), drawn.standing) > CHANCE:
            continue
        if _depth(advice.entry, side, bad_values[-1]) >= RUINOUS_PART:
            new = cut(entry, side, bad_values[-1], good[0])
            if new != entry:
                entry, text = new, f"its {side} part is ruinous ({len(bad_values)} trials)"
                advice = replace(advice, new=new, text="; ".join(filter(None, (advice.text, text))))
    return advice


def _depth(entry: SearchEntry, side: str, value: Scalar) -> float:
    """How far from an edge a value lies, in widths of the range."""
    return position(entry, value) if side == "lower" else 1 - position(entry, value)


def _chance(num_bad: int, standing: list[float]) -> float:
    """The probability that so many trials taken at random are all among the worst."""
    worst = sum(s >= 1 - WORST for s in standing)
    return math.comb(worst, num_bad) / math.comb(len(standing), num_bad)


def _edge(config: RunConfig, advice: Advice, drawn: _Drawn) -> Advice:
    """Widen the range where the best trials lie at its edge."""
    top = sorted(position(advice.entry, v) for v in drawn.values[: _num_top(len(drawn.values))])
    best, median = position(advice.entry, drawn.values[0]), top[len(top) // 2]
    for side in ("lower", "upper"):
        best_far, far = (x if side == "lower" else 1 - x for x in (best, median))
        if best_far > OUTER or far > OUTER_TOP:
            continue
        assert advice.new is not None
        new = widen(config, advice.entry, advice.path, advice.new, side, drawn.trials[0].params)
        text = f"the best trials lie at its {side} edge"
        if new == advice.new:
            off = off_values().get(advice.path)
            is_off = not isinstance(new, CategoricalEntry) and side == "lower" and new.low == off
            text += ": the best value is off" if is_off else ", and the setting takes no more"
        advice = replace(advice, new=new, text="; ".join(filter(None, (advice.text, text))))
    return advice


def _num_top(count: int) -> int:
    return max(5, math.ceil(0.2 * count))


def _keep_one(advice: list[Advice]) -> list[Advice]:
    """A study needs something to search: the most important setting stays."""
    if advice and all(a.new is None for a in advice):
        text = "none matters clearly; this one most"
        advice[0] = replace(advice[0], new=advice[0].entry, fixed=None, text=text)
    return advice


def _without_orphans(config: RunConfig, advice: list[Advice]) -> list[Advice]:
    """Conditions follow their parents: dropped with one that is fixed, narrowed with choices."""
    now = {a.path: a for a in advice}
    for path in config.space.entries:  # parents come first
        new = now[path].new
        for parent in () if new is None else tuple(new.when):
            above = now[parent]
            assert new is not None
            if (
                above.new is None
                and above.fixed is not None
                and any(same(above.fixed, v) for v in new.values_of(parent))
            ):
                new = new.model_copy(
                    update={"when": {k: v for k, v in new.when.items() if k != parent}}
                )
                now[path] = replace(
                    now[path], new=new, text=now[path].text or f"`{parent}` is fixed"
                )
            elif above.new is None:
                text = f"never active now that `{parent}` is fixed"
                now[path] = replace(now[path], new=None, fixed=None, text=text)
                break
            elif isinstance(above.new, CategoricalEntry):
                left = [v for v in new.values_of(parent) if v in above.new.choices]
                if not left:
                    now[path] = replace(
                        now[path],
                        new=None,
                        fixed=None,
                        text=f"never active without these values of `{parent}`",
                    )
                    break
                if len(left) < len(new.values_of(parent)):
                    new = new.model_copy(update={"when": {**new.when, parent: left}})
                    now[path] = replace(
                        now[path], new=new, text=now[path].text or f"fewer values of `{parent}`"
                    )
    return [now[a.path] for a in advice]
