"""How sure a measured share is."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion, as (low, high) within [0, 1].

    It stays inside [0, 1] and keeps its coverage near 0 and 1, where good classifiers are and the
    textbook interval fails (Brown, Cai & DasGupta 2001, https://doi.org/10.1214/ss/1009213286).

    Raises:
        ValueError: `successes` is not within 0 to `trials`, or there are no trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials have no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
