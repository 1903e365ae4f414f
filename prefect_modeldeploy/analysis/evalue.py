"""The e-value of one block of yes/no outcomes from two arms, and the projection that makes it valid (F1).

An e-value is the payoff of a fair bet against a hypothesis: if the hypothesis holds, its expectation is at most 1
whatever the true rates are. Big payoffs are therefore evidence, and the bound survives being looked at all the time
(Ville 1939). The bet is a pair of rates (q_c, q_b) chosen before the block is seen; the payoff is the likelihood of
the block under the bet, divided by its likelihood under the point of the hypothesis that is *nearest* to the bet:

    minimise over the hypothesis   n_c KL(q_c || p_c) + n_b KL(q_b || p_b)

Taking the nearest point is what keeps the expectation at or below 1 for every pair of rates of the hypothesis, exactly
and at every block size (Turner, Ly, Gruenwald, arXiv 2106.02693, for blocks; weighted AM-GM for unequal arms).

Subscripts: c is the canary, b the baseline. Everything is a natural logarithm.
"""

import math
from typing import NamedTuple

_SMALLEST = 1e-15
_STEPS = 200


class Tally(NamedTuple):
    """So many requests, and at how many of them the event happened."""

    requests: int
    events: int


class Rates(NamedTuple):
    """The rate of the event on each arm: a bet, or a point of the hypothesis."""

    canary: float
    baseline: float


def project(n_c: float, n_b: float, bet: Rates, difference: float) -> Rates:
    """Nearest point to the bet on the line p_c = p_b + difference (0 <= difference < 1).

    This is the nearest point of {p_c <= p_b + difference} to a bet above the line, and of {p_c >= p_b + difference} to
    a bet below it. With no difference it is the pooled rate. Else the derivative along the line changes its sign
    exactly once, so Newton's steps are kept inside a bracket; near 0, where the root can be tiny, the bracket is
    halved on the logarithmic scale.
    """
    if difference == 0.0:
        pooled = (n_c * bet.canary + n_b * bet.baseline) / (n_c + n_b)
        return Rates(pooled, pooled)
    q_c, q_b = bet
    low, high = 0.0, 1.0 - difference
    p = min(max((n_c * (q_c - difference) + n_b * q_b) / (n_c + n_b), _SMALLEST), high * (1.0 - 1e-9))
    for _ in range(_STEPS):
        p_c = p + difference
        # The derivative of the objective, times p (which keeps it finite at 0 and does not move the root).
        canary = n_c * ((1.0 - q_c) / (1.0 - p_c) - q_c / p_c)
        baseline = n_b * (1.0 - q_b) / (1.0 - p)
        value = p * (canary + baseline) - n_b * q_b
        if value > 0.0:
            high = p
        else:
            low = p
        slope = (
            canary
            + baseline
            + p * n_c * ((1.0 - q_c) / (1.0 - p_c) ** 2 + q_c / p_c**2)
            + p * n_b * (1.0 - q_b) / (1.0 - p) ** 2
        )
        step = p - value / slope if slope > 0.0 else -1.0
        if low <= step <= high and step > 0.0:
            moved, p = abs(step - p), step
            if moved <= 1e-8 * min(p, 1.0 - difference - p):  # Newton doubles the digits: these are all of them
                break
        else:
            p = math.sqrt(low * high) if low > 0.0 else high * 0.01
        if high < _SMALLEST:
            break
    return Rates(p + difference, p)


def log_e_value(canary: Tally, baseline: Tally, bet: Rates, null: Rates) -> float:
    """Log of the likelihood ratio of the block: the bet against its projection on the hypothesis."""
    (n_c, y_c), (n_b, y_b), (q_c, q_b), (p_c, p_b) = canary, baseline, bet, null
    return (
        y_c * math.log(q_c / p_c)
        + (n_c - y_c) * math.log1p((p_c - q_c) / (1.0 - p_c))
        + y_b * math.log(q_b / p_b)
        + (n_b - y_b) * math.log1p((p_b - q_b) / (1.0 - p_b))
    )


def log_harm(canary: Tally, baseline: Tally, bet: Rates, tolerated: float) -> float:
    """Log e-value against "the canary is no worse": p_c <= p_b + tolerated. A bet on no harm pays 1."""
    if bet.canary <= bet.baseline + tolerated:
        return 0.0
    return log_e_value(canary, baseline, bet, project(canary.requests, baseline.requests, bet, tolerated))


def log_safety(canary: Tally, baseline: Tally, bet: Rates, margin: float) -> float:
    """Log e-value against "the canary is too bad": p_c >= p_b + margin. A bet on too bad pays 1."""
    if bet.canary >= bet.baseline + margin:
        return 0.0
    return log_e_value(canary, baseline, bet, project(canary.requests, baseline.requests, bet, margin))


def relative_entropy(q: float, p: float) -> float:
    """KL(q || p) of two yes/no outcomes: the growth of the log evidence a request, when q is true and p is tested."""
    inside = 0.0 if q == 0.0 else q * math.log(q / p)
    return inside + (0.0 if q == 1.0 else (1.0 - q) * (math.log1p(-q) - math.log1p(-p)))


def log_sum(logs: list[float]) -> float:
    """log(sum(exp(x))) without overflow."""
    top = max(logs)
    return top if math.isinf(top) else top + math.log(sum([math.exp(x - top) for x in logs]))


def shift_odds(rate: float, ratio: float) -> float:
    """The rate whose odds are `ratio` times those of `rate`; like `rate * ratio` for rare events, never above 1."""
    odds = rate / (1.0 - rate) * ratio
    return odds / (1.0 + odds)
