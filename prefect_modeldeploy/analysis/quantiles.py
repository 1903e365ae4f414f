"""Whole distributions (F7) and single quantiles (F8) under continuous looks.

F7: a band around an empirical distribution that holds at every x and at every sample size at once (Howard and Ramdas
2022, Bernoulli 28, theorem 2). Here it is turned around: how small can alpha be for the bands to exclude a hypothesis?

F8: evidence that one quantile of the canary is above the baseline's, with nothing known about either: whatever the
baseline's quantile x is, either too many of the baseline are below x or too few of the canary.
"""

import functools
import math
from collections.abc import Mapping

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Histogram

FIRST = 50
"""Sample size from which the bands hold."""

_A = 0.85
_STEP, _LARGEST = 0.5, 400.0


def log_p_of_gap(gap: float, n_one: int, n_other: int) -> float:
    """Log of the smallest alpha at which both bands together, half of alpha each, are no wider than `gap`; 0 if none.

    A true distance of d between two distributions is then measured as more than d + gap, or less than d - gap, with
    at most that probability, ever.
    """
    if min(n_one, n_other) < FIRST or gap <= 0.0:
        return 0.0
    logs = [math.log1p(math.log(n / FIRST)) for n in (n_one, n_other)]

    def width(c: float) -> float:
        return _A * (math.sqrt((logs[0] + c) / n_one) + math.sqrt((logs[1] + c) / n_other))

    low, high = 0.0, _LARGEST
    if width(low) >= gap:
        return 0.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if width(middle) <= gap else (low, middle)
    return min(0.0, math.log(2.0) + log_alpha(low))


def band(n: int, alpha: float) -> float:
    """Half-width of the band around the empirical distribution of n values."""
    if n < FIRST:
        return 1.0
    steps = int(_LARGEST / _STEP)
    c = next((i * _STEP for i in range(steps + 1) if log_alpha(i * _STEP) <= math.log(alpha)), _LARGEST)
    return _A * math.sqrt((math.log1p(math.log(n / FIRST)) + c) / n)


def log_alpha(c: float) -> float:
    """Log of the probability that a band with the constant C = c is ever left (c is rounded down: no false proof)."""
    return _table()[max(0, min(int(c / _STEP), int(_LARGEST / _STEP)))]


@functools.cache
def _table() -> tuple[float, ...]:
    return tuple(_solve(index * _STEP) for index in range(int(_LARGEST / _STEP) + 1))


def _solve(c: float) -> float:
    """inf over eta in (1, 2 A^2) of log(4 exp(-g^2 c) (1 + 1/((g^2 - 1) ln eta))), as far as g > 1."""
    best = 0.0
    if c <= 0.0:
        return best
    for step in range(1, 200):
        eta = 1.0 + (2.0 * _A**2 - 1.0) * step / 200.0
        g = math.sqrt(2.0 / eta) * (_A - math.sqrt(2.0 * (eta - 1.0) / c))
        if g > 1.0:
            best = min(best, math.log(4.0) - g * g * c + math.log1p(1.0 / ((g * g - 1.0) * math.log(eta))))
    return best


def calibrate(log_p: float) -> float:
    """Log of an e-process from the log of an anytime-valid p-value (Shafer et al. 2011: the mean of k p^(k-1)).

    No evidence (p = 1) becomes 1/2, p = 0.001 becomes 21.
    """
    strength = -log_p
    if strength < 1e-3:
        return math.log(0.5)
    # exp(s) - 1 - s, over s^2, in logarithms
    return strength + math.log1p(-math.exp(-strength) * (1.0 + strength)) - 2.0 * math.log(strength)


def log_slower(canary: Histogram, baseline: Histogram, quantile: float) -> float:
    """Log evidence that the canary's quantile is above the baseline's (F8), valid at every look at growing histograms.

    Args:
        canary: All latencies of the canary so far.
        baseline: All latencies of the baseline so far.
        quantile: Which quantile, e.g. 0.99.

    Raises:
        InvalidInput: The quantile is not between 0 and 1.
    """
    if not 0.0 < quantile < 1.0:
        raise InvalidInput("quantile", quantile, "must be between 0 and 1, e.g. 0.99")
    n_c, n_b = canary.count, baseline.count
    if not (n_c and n_b):
        return 0.0
    edges = sorted({*canary.buckets, *baseline.buckets})
    below_c, below_b = _below(canary.buckets, edges), _below(baseline.buckets, edges)
    # x within a bucket: at least what is below the bucket for the baseline, at most what is below its end for the
    # canary. Left of the first bucket the baseline has nothing below x, right of the last the canary nothing above.
    return min(
        log_excess(n_c - k_c, n_c, 1.0 - quantile) + log_excess(k_b, n_b, quantile)
        for k_c, k_b in zip([*below_c[1:], n_c], below_b, strict=True)
    )


def _below(counts: Mapping[int, int], edges: list[int]) -> list[int]:
    below, seen = [], 0
    for edge in edges:
        below.append(seen)
        seen += counts.get(edge, 0)
    return below


_CONCENTRATION = 250.0


def log_excess(k: int, n: int, p: float) -> float:
    """Log evidence that an event seen k times in n has a probability above p: a Beta mixture, cut off below p.

    The tail of the Beta is computed as a logarithm by its continued fraction. A floor under it would make evidence out
    of nothing when k/n is far below p: the likelihood there is exp(-10000), and the tail must be as small.
    """
    a, b = p * _CONCENTRATION, (1.0 - p) * _CONCENTRATION
    posterior = log_beta_tail(a + k, b + n - k, p) + _log_beta(a + k, b + n - k)
    prior = log_beta_tail(a, b, p) + _log_beta(a, b)
    return posterior - prior - k * math.log(p) - (n - k) * math.log1p(-p)


def log_beta_tail(a: float, b: float, x: float) -> float:
    """log P(Beta(a, b) > x), accurate however small it is."""
    if x < (a + 1.0) / (a + b + 2.0):
        # The lower tail is the one whose fraction converges fast; it is at most about a half here.
        return math.log1p(-min(math.exp(_log_lower_tail(a, b, x)), 1.0 - 1e-16))
    return _log_lower_tail(b, a, 1.0 - x)


def _log_lower_tail(a: float, b: float, x: float) -> float:
    """log I_x(a, b) for x <= (a+1)/(a+b+2): the continued fraction of DLMF 8.17.22, by Lentz's method."""
    tiny = 1e-290
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 100_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return a * math.log(x) + b * math.log1p(-x) - math.log(a) - _log_beta(a, b) + math.log(fraction)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


__all__ = ["FIRST", "band", "calibrate", "log_beta_tail", "log_excess", "log_p_of_gap", "log_slower"]
