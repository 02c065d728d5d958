"""How numbers and settings are put into words, on the screen and in files."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.settings import Scalar


def describe(values: Mapping[str, Scalar | None]) -> str:
    """Settings in one line, without the names of their sections where they are clear."""
    return ", ".join(f"{short_name(path)} {spell(value)}" for path, value in values.items())


def short_name(path: str) -> str:
    """The last part of a dotted path; two for parts that say little alone."""
    *_, section, name = path.split(".") if "." in path else ("", path)
    return f"{section}.{name}" if name in ("kind", "strength", "gamma") else name


def spell(value: Scalar | None) -> str:
    """A value with at most three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def is_share(metric: str) -> bool:
    """Whether a metric is a share, which is read in per cent: all but errors of probabilities."""
    return metric.rpartition("/")[2] not in ("loss", "ece", "brier")


def show_metric(metric: str, value: float | None) -> str:
    """A loss, `ece` or `brier` with four decimals, any other metric in per cent."""
    if value is None:
        return "-"
    return f"{value:.2%}" if is_share(metric) else f"{value:.4f}"


def show_mean(metric: str, mean: tuple[float, float] | None) -> str:
    """A metric's value and half the width of its interval: `95.55% ± 1.37`."""
    return "-" if mean is None else f"{show_metric(metric, mean[0])} {plus_minus(metric, mean[1])}"


def gain_unit(metric: str) -> str:
    """In what a gain is told."""
    return f"points of {metric}" if is_share(metric) else metric


def points(metric: str, difference: float) -> str:
    """A signed difference: in points (hundredths) of a share, else as it is."""
    return f"{100 * difference:+.2f}" if is_share(metric) else f"{difference:+.4f}"


def show_gain(metric: str, gain: tuple[float, float] | None) -> str:
    """A difference and half the width of its interval: `+0.60 ± 0.20`."""
    return "-" if gain is None else f"{points(metric, gain[0])} {plus_minus(metric, gain[1])}"


def plus_minus(metric: str, half: float) -> str:
    """Half the width of an interval, in the same unit."""
    return f"± {100 * half:.2f}" if is_share(metric) else f"± {half:.4f}"


def fresh_seeds(number: int) -> str:
    """`1 fresh seed`, `3 fresh seeds`."""
    return f"{number} fresh seed" if number == 1 else f"{number} fresh seeds"
