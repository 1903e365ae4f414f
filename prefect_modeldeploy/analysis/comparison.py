"""Evidence about one yes/no outcome on two arms: failed or not, slower than x or not, wrong or not (F1, F2, F5).

Two portfolios look at the same windows: one bets that the canary is worse, the other that it is not worse by the
margin. What they bet, and what they bet against, is settled before a window is seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.dispersion import LiveDispersion, excess_dispersion, temper
from prefect_modeldeploy.analysis.evalue import (
    Rates,
    Tally,
    log_harm,
    log_safety,
    project,
    relative_entropy,
    shift_odds,
)
from prefect_modeldeploy.analysis.portfolio import Portfolio

HARM_BETS = ((1.25, 0.06), (1.5, 0.13), (2.0, 0.19), (3.0, 0.17), (5.0, 0.12), (10.0, 0.09), (20.0, 0.06), (50.0, 0.04))
"""Odds ratio of the canary to the baseline, and the share that is bet on it."""

_HARM_SHARES = [*(share for _, share in HARM_BETS), 0.08, 0.06]  # adaptive, cash
_SAFETY_SHARES = [0.6, 0.3, 0.1]  # as good as the baseline, adaptive, cash
_ANTE_EVENTS, _ANTE_REQUESTS = 0.5, 50.0
_EDGE = 1e-12

FLOOR = 0.001
"""No margin is capped below this difference: nobody has the traffic to prove less."""


class Limits(NamedTuple):
    """How much worse is tolerated, as differences of rates.

    Args:
        margin: A promoted canary is not worse than the baseline by this much. For rare events it is capped at the
            baseline's own rate (so at most a doubling is tolerated), but never below `floor`.
        tolerated: Only a canary that is worse by more than this is rolled back.
        floor: The cap's lower end: 0.001, or the rate that the baseline is known to have by construction.
    """

    margin: float
    tolerated: float = 0.0
    floor: float = FLOOR

    def capped(self, rate: float) -> "Limits":
        """The limits for events that happen at this rate on the baseline."""
        return self._replace(margin=min(self.margin, max(rate, self.floor)))


class Growth(NamedTuple):
    """How fast the evidence grows, in nats a second, if the rates stay as they look now."""

    harm: float
    safe: float


class Comparison:
    """The evidence about one outcome. `history` are windows of the baseline before the rollout."""

    __slots__ = ("_excess", "_limits", "_live", "_past", "baseline", "canary", "harm", "safe")

    def __init__(self, limits: Limits, history: Sequence[Tally]) -> None:
        self._limits = limits
        self._past = Tally(sum(t.requests for t in history), sum(t.events for t in history))
        self._excess = excess_dispersion(history)
        self._live = None if self._past.requests else LiveDispersion()
        self.canary = self.baseline = Tally(0, 0)
        self.harm, self.safe = Portfolio(_HARM_SHARES), Portfolio(_SAFETY_SHARES)

    @property
    def observed(self) -> bool:
        """True once both arms have been seen in the same window."""
        return self.canary.requests > 0

    @property
    def seen(self) -> tuple[float, float]:
        """The rates on the canary and on the baseline during the rollout."""
        return self.canary.events / self.canary.requests, self.baseline.events / self.baseline.requests

    @property
    def rates(self) -> Rates:
        """Best guess of the rates from what has been seen so far; the history counts for the baseline."""
        q_b = (self._past.events + self.baseline.events + _ANTE_EVENTS) / (
            self._past.requests + self.baseline.requests + _ANTE_REQUESTS
        )
        q_c = (self.canary.events + 2.0 * q_b) / (self.canary.requests + 2.0)
        return Rates(_inside(q_c), _inside(q_b))

    @property
    def limits(self) -> Limits:
        """The limits that apply to the next window."""
        requests = self._past.requests + self.baseline.requests
        return self._limits.capped((self._past.events + self.baseline.events) / requests if requests else 0.0)

    @property
    def excess(self) -> float:
        """Excess dispersion, from the history or, without one, from the baseline so far."""
        if self._live is None:
            return self._excess
        return self._live.excess(self.baseline, self.canary.requests + self.baseline.requests)

    def observe(self, canary: Tally, baseline: Tally, seconds: float) -> None:
        """Count one window. Without requests on both arms it says nothing, and changes nothing."""
        if not (canary.requests and baseline.requests):
            return
        guess, (margin, tolerated, _) = self.rates, self.limits
        phi = temper(canary.requests, baseline.requests, self.excess)
        start = _inside(guess.baseline + tolerated)
        bets = [Rates(_inside(shift_odds(start, ratio)), guess.baseline) for ratio, _ in HARM_BETS]
        harm = [log_harm(canary, baseline, bet, tolerated) / phi for bet in (*bets, guess)]
        as_good = Rates(guess.baseline, guess.baseline)
        safe = [log_safety(canary, baseline, bet, margin) / phi for bet in (as_good, guess)]
        self.harm.settle([*harm, 0.0], seconds)
        self.safe.settle([*safe, 0.0], seconds)
        self.canary, self.baseline = _add(self.canary, canary), _add(self.baseline, baseline)
        if self._live:
            self._live.add(baseline, seconds)

    def growth(self, canary: float, baseline: float) -> Growth:
        """Growth of the evidence at so many requests a second on each arm, if the rates are what they look like."""
        if canary <= 0.0 or baseline <= 0.0:
            return Growth(0.0, 0.0)
        phi = temper(canary, baseline, self.excess)
        best = growth(canary, baseline, self.rates, self.limits)
        return Growth(best.harm / phi, best.safe / phi)

    def write(self, writer: Writer) -> None:
        """Save everything that changes, and what the history taught."""
        writer.counts((*self._past, *self.canary, *self.baseline))
        self.harm.write(writer)
        self.safe.write(writer)
        if self._live:
            self._live.write(writer)
        else:
            writer.double(self._excess)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        counts = reader.counts(6)
        self._past, self.canary, self.baseline = Tally(*counts[:2]), Tally(*counts[2:4]), Tally(*counts[4:])
        self.harm.read(reader)
        self.safe.read(reader)
        self._live = None if self._past.requests else LiveDispersion()
        if self._live:
            self._live.read(reader)
        else:
            self._excess = reader.double()


def growth(n_c: float, n_b: float, rates: Rates, limits: Limits) -> Growth:
    """Expected log payoff (F11) of the best bets on `n_c` and `n_b` independent requests at these rates."""
    harm = safe = 0.0
    if rates.canary > rates.baseline + limits.tolerated:
        harm = _divergence(n_c, n_b, rates, limits.tolerated)
    if rates.canary < rates.baseline + limits.margin:
        safe = _divergence(n_c, n_b, rates, limits.margin)
    return Growth(harm, safe)


def _divergence(n_c: float, n_b: float, rates: Rates, difference: float) -> float:
    null = project(n_c, n_b, rates, difference)
    return n_c * relative_entropy(rates.canary, null.canary) + n_b * relative_entropy(rates.baseline, null.baseline)


def _inside(rate: float) -> float:
    return min(max(rate, _EDGE), 1.0 - 1e-6)


def _add(one: Tally, other: Tally) -> Tally:
    return Tally(one.requests + other.requests, one.events + other.events)
