"""The search that follows a study's: its entries are changed one at a time, and stay possible."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.run_config import RunConfig
from pipeline.config.search_space import SearchEntry, in_range, same
from pipeline.config.space_check import check_search
from pipeline.errors import UserError
from pipeline.settings import Scalar


class NextSearch:
    """A search that changes.

    Attributes:
        entries: what is searched now.
        fixed: the settings that are searched no more, with their values.
    """

    def __init__(self, config: RunConfig) -> None:
        self.before = _as_written(config)
        self.entries: dict[str, SearchEntry] = dict(config.search)
        self.fixed: dict[str, Scalar] = {}

    @property
    def dropped(self) -> list[str]:
        """What the study searched and this search does not, in the file's order."""
        return [path for path in self.before.search if path not in self.entries]

    @property
    def config(self) -> RunConfig:
        """The settings with this search.

        Raises:
            UserError: the settings do not accept what was fixed.
        """
        return _config(self.before, self.entries, self.fixed)

    def replace(self, path: str, entry: SearchEntry) -> bool:
        """Search a setting over another range; False, and nothing done, if that is impossible."""
        return self._become({**self.entries, path: entry}, self.fixed)

    def fix(self, path: str, value: Scalar) -> bool:
        """Search a setting no more; False, and nothing done, if it can't be fixed there."""
        left = {other: entry for other, entry in self.entries.items() if other != path}
        return self._become(left, {**self.fixed, path: value})

    def accepts(self, path: str, entry: SearchEntry) -> bool:
        """Whether `replace` would do it."""
        return self._possible(settled({**self.entries, path: entry}, self.fixed), self.fixed)

    def _become(self, entries: dict[str, SearchEntry], fixed: dict[str, Scalar]) -> bool:
        entries = settled(entries, fixed)
        if not self._possible(entries, fixed):
            return False
        self.entries, self.fixed = entries, fixed
        return True

    def _possible(self, entries: Mapping[str, SearchEntry], fixed: Mapping[str, Scalar]) -> bool:
        try:
            return next(check_search(_config(self.before, entries, fixed)), None) is None
        except UserError:
            return False


def _as_written(config: RunConfig) -> RunConfig:
    """The same settings, with those parts of the augmentation unset that have their defaults.

    A study recalled from its store has all of them set, and what is set counts as asked for: beside
    a strength of 0 each would be a mistake.
    """
    given = config.augmentation
    bare = type(given).model_validate(given.model_dump(exclude_defaults=True))
    return config.model_copy(update={"augmentation": bare})


def _config(
    before: RunConfig, entries: Mapping[str, SearchEntry], fixed: Mapping[str, Scalar]
) -> RunConfig:
    return before.with_overrides(fixed).model_copy(update={"search": dict(entries)})


def settled(
    entries: Mapping[str, SearchEntry], fixed: Mapping[str, Scalar]
) -> dict[str, SearchEntry]:
    """The entries with conditions (`when`) that can still hold.

    A condition on a setting that was fixed at one of its values holds always, so it goes. Entries
    with a condition that can hold no more go themselves, and with them those that wait for them.
    """
    left = dict(entries)
    while True:
        after = {path: kept for path, e in left.items() if (kept := _settled(e, left, fixed))}
        if after == left:
            return left
        left = after


def _settled(
    entry: SearchEntry, entries: Mapping[str, SearchEntry], fixed: Mapping[str, Scalar]
) -> SearchEntry | None:
    when = {}
    for parent in entry.when:
        values = entry.values_of(parent)
        if parent in entries:
            possible = [value for value in values if in_range(entries[parent], value)]
            if not possible:
                return None
            when[parent] = entry.when[parent] if possible == values else possible
        elif parent not in fixed or not any(same(fixed[parent], value) for value in values):
            return None
    return entry if when == entry.when else entry.model_copy(update={"when": when})
