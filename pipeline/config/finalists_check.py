"""What of `finalists:` can't be had with the other settings."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.problems import Problem
from pipeline.finalist_settings import FinalistSettings


def check_finalists(settings: FinalistSettings, selection_fraction: float) -> Iterator[Problem]:
    """What is wrong between `finalists:` and the share of the selection images."""
    if settings.champion == "ensemble":
        yield from _needs_finalists(settings, selection_fraction, "champion", "ensemble")
        if settings.seeds < 2:
            yield Problem(
                ("finalists", "seeds"),
                "`finalists.seeds` is 1, but `finalists.champion` is ensemble",
                rule="an ensemble has the nets of at least 2 seeds",
                cure="raise `finalists.seeds`, or set `finalists.champion: best`",
            )
    if settings.refit:
        yield from _needs_finalists(settings, selection_fraction, "refit", "true")


def _needs_finalists(
    settings: FinalistSettings, selection_fraction: float, key: str, value: str
) -> Iterator[Problem]:
    without = ""
    if not settings.count:
        without = "`finalists.count` is 0"
    elif not selection_fraction:
        without = "`data.selection_fraction` is 0"
    if without:
        yield Problem(
            ("finalists", key),
            f"`finalists.{key}` is {value}, but {without}",
            rule="it is made of the finalists' trainings, and judged by the selection images",
            cure=f"give it finalists and selection images, or leave `finalists.{key}` out",
        )
