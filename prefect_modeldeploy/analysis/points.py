"""Kayenta's classifier, for people who have a number per interval and nothing else (no counts behind it).

Two arrays of points are compared by a Mann-Whitney test: the confidence interval of the shift between them must lie
beyond a tolerance, and the effect must be large enough. The rules are those of kayenta-judge (`MannWhitneyClassifier`,
`MeanInequalityClassifier`, commit a69573be). Where Kayenta adds random noise to two constant arrays, the shift is known
exactly here.

Points throw the counts behind them away: at 12 requests a minute this finds one fivefold regression in forty within
the hour, the judge all of them. Use it only where there are no counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefect_modeldeploy.errors import InvalidInput

Points = NDArray[np.float64]


class Label(StrEnum):
    """How the canary's points compare with the baseline's."""

    PASS = "Pass"  # noqa: S105 - Kayenta's word
    HIGH = "High"
    LOW = "Low"
    NO_DATA = "Nodata"


@dataclass(frozen=True, slots=True)
class Classification:
    """The outcome of `classify`.

    Args:
        label: High and low are failures if the direction that was asked about includes them.
        deviation: Ratio of the means; NaN when the baseline's mean is 0.
        critical: True when a critical metric failed, or has no data: the whole run fails.
        reason: One sentence; empty for an ordinary pass.
    """

    label: Label
    deviation: float
    critical: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class PointsRule:
    """How two arrays of points are compared.

    Args:
        classifier: Mann-Whitney test, or a plain comparison of the means.
        direction: Which deviation is a failure.
        nan_strategy: Points that are not numbers: drop them (an empty array is then no data), or take them for 0.
        tolerance: Part of the estimated shift that its confidence interval must clear.
        confidence: Of the interval, e.g. 0.98.
        effect_size: Ratio of the means, or the probability that a canary's point is above a baseline's.
        effect_bounds: An effect up to the first is low enough, from the second on high enough, to be a failure.
        critical: A failure by `critical_bounds` fails the whole run.
        critical_bounds: Like `effect_bounds`, for critical metrics.
    """

    classifier: Literal["mann_whitney", "mean_inequality"] = "mann_whitney"
    direction: Literal["increase", "decrease", "either"] = "either"
    nan_strategy: Literal["remove", "replace"] = "remove"
    tolerance: float = 0.25
    confidence: float = 0.98
    effect_size: Literal["mean_ratio", "cles"] = "mean_ratio"
    effect_bounds: tuple[float, float] = (1.0, 1.0)
    critical: bool = False
    critical_bounds: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InvalidInput("confidence", self.confidence, "must be between 0 and 1")
        if not self.tolerance >= 0:
            raise InvalidInput("tolerance", self.tolerance, "must not be negative")


def classify(canary: Sequence[float], baseline: Sequence[float], rule: PointsRule) -> Classification:
    """Compare the canary's points with the baseline's."""
    ours, theirs = clean(canary, rule.nan_strategy), clean(baseline, rule.nan_strategy)
    if not (ours.size and theirs.size):
        if rule.nan_strategy == "replace":
            return Classification(Label.PASS, 1.0)
        missing = " and ".join(n for n, points in (("canary", ours), ("baseline", theirs)) if not points.size)
        return Classification(Label.NO_DATA, math.nan, rule.critical, f"no points of the {missing}")
    if ours.size == theirs.size and bool(np.all(np.sort(ours) == np.sort(theirs))):
        return Classification(Label.PASS, 1.0, reason="the points are the same")
    deviation = mean_ratio(ours, theirs)
    if rule.classifier == "mean_inequality":
        return Classification(_mean_inequality(ours, theirs, rule.direction), deviation)
    shift, low, high = shift_interval(ours, theirs, rule.confidence)
    effect = deviation if rule.effect_size == "mean_ratio" else cles(ours, theirs)

    def label(bounds: tuple[float, float]) -> Label:
        cleared = rule.tolerance * abs(shift)
        if rule.direction != "decrease" and low > cleared and not effect < bounds[1]:
            return Label.HIGH
        if rule.direction != "increase" and high < -cleared and not effect > bounds[0]:
            return Label.LOW
        return Label.PASS

    if rule.critical and (worst := label(rule.critical_bounds)) is not Label.PASS:
        return Classification(worst, deviation, True, f"the canary is critically {worst.lower()}")
    found = label(rule.effect_bounds)
    return Classification(found, deviation, False, "" if found is Label.PASS else f"the canary is {found.lower()}")


def clean(points: Sequence[float], nan_strategy: Literal["remove", "replace"]) -> Points:
    """The points without those that are not numbers, or with 0 in their place."""
    array = np.asarray(points, dtype=np.float64)
    return array[~np.isnan(array)] if nan_strategy == "remove" else np.nan_to_num(array, nan=0.0)


def mean_ratio(canary: Points, baseline: Points) -> float:
    """Ratio of the means; 1 if they are equal, NaN when the baseline's is 0."""
    ours, theirs = float(canary.mean()), float(baseline.mean())
    if ours == theirs:
        return 1.0
    return ours / theirs if theirs else math.nan


def cles(canary: Points, baseline: Points) -> float:
    """Common-language effect size: probability that a point of the canary is above one of the baseline."""
    differences = canary[:, None] - baseline[None, :]
    return float((differences > 0).mean() + 0.5 * (differences == 0).mean())


def shift_interval(canary: Points, baseline: Points, confidence: float) -> tuple[float, float, float]:
    """The shift of the canary against the baseline: Hodges and Lehmann's estimate, and its confidence interval.

    The interval holds the shifts that the rank test (normal approximation, corrected for ties and continuity) does not
    reject. Its ends are found by bisection: the test statistic falls as the shift grows.
    """
    least, most = float(canary.min() - baseline.max()), float(canary.max() - baseline.min())
    if least == most:  # two constants: the shift is known
        return least, least, least
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2.0)

    def crossing(level: float, continuity: float) -> float:
        low, high = least, most
        if _rank_z(canary - low, baseline, continuity) <= level:
            return low
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if _rank_z(canary - middle, baseline, continuity) > level else (low, middle)
        return 0.5 * (low + high)

    return crossing(0.0, 0.0), crossing(quantile, 0.5), crossing(-quantile, -0.5)


def _rank_z(canary: Points, baseline: Points, continuity: float) -> float:
    """Standardised Mann-Whitney statistic; infinite when the ranks have no spread."""
    n_c, n_b = canary.size, baseline.size
    pooled = np.concatenate((canary, baseline))
    _, inverse, ties = np.unique(pooled, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2.0)[inverse]
    centred = float(ranks[:n_c].sum()) - n_c * (n_c + 1) / 2.0 - n_c * n_b / 2.0
    total = n_c + n_b
    tied = float((ties.astype(np.float64) ** 3 - ties).sum())
    variance = n_c * n_b / 12.0 * (total + 1.0 - tied / (total * (total - 1.0)))
    if variance <= 0.0:
        return 0.0
    return (centred - continuity) / math.sqrt(variance)


def _mean_inequality(canary: Points, baseline: Points, direction: str) -> Label:
    if direction != "decrease" and canary.mean() > baseline.mean():
        return Label.HIGH
    if direction != "increase" and canary.mean() < baseline.mean():
        return Label.LOW
    return Label.PASS
