"""Evidence about one share against a fixed limit: how often do two arms disagree on the same request?

There is one number instead of two here, so the payoff is the plain likelihood ratio of a bet against the limit itself,
which is the nearest point of both hypotheses (share <= limit, share >= limit).
"""

import math

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.comparison import HARM_BETS, Growth, Limits
from prefect_modeldeploy.analysis.dispersion import LiveDispersion
from prefect_modeldeploy.analysis.evalue import Tally, relative_entropy, shift_odds
from prefect_modeldeploy.analysis.portfolio import Portfolio

_SAFE_RATIOS = (0.75, 0.5, 0.25, 0.1)
_HARM_SHARES = [*(share for _, share in HARM_BETS), 0.08, 0.06]  # adaptive, cash
_SAFE_SHARES = [0.2, 0.25, 0.2, 0.1, 0.2, 0.05]  # the ratios, adaptive, cash


class Proportion:
    """Harm is a share above `limits.tolerated`, safety one below `limits.margin`."""

    __slots__ = ("_limits", "_live", "harm", "safe", "seen")

    def __init__(self, limits: Limits) -> None:
        self._limits, self._live = limits, LiveDispersion()
        self.seen = Tally(0, 0)
        self.harm, self.safe = Portfolio(_HARM_SHARES), Portfolio(_SAFE_SHARES)

    def observe(self, tally: Tally, seconds: float) -> None:
        """Count one window."""
        if not tally.requests:
            return
        guess, phi = self._guess, 1.0 + self._live.excess(self.seen, self.seen.requests)
        margin, tolerated, _ = self._limits
        above = [shift_odds(tolerated, ratio) for ratio, _ in HARM_BETS] + [max(guess, tolerated)]
        below = [shift_odds(margin, ratio) for ratio in _SAFE_RATIOS] + [min(guess, margin)]
        self.harm.settle([*(_log_ratio(tally, q, tolerated) / phi for q in above), 0.0], seconds)
        self.safe.settle([*(_log_ratio(tally, q, margin) / phi for q in below), 0.0], seconds)
        self.seen = Tally(self.seen.requests + tally.requests, self.seen.events + tally.events)
        self._live.add(tally, seconds)

    @property
    def _guess(self) -> float:
        return (self.seen.events + self._limits.margin) / (self.seen.requests + 1.0)

    def growth(self, per_second: float) -> Growth:
        """Growth of the evidence at so many compared requests a second."""
        margin, tolerated, _ = self._limits
        rate = self._guess
        harm = relative_entropy(rate, tolerated) if rate > tolerated else 0.0
        safe = relative_entropy(rate, margin) if rate < margin else 0.0
        phi = 1.0 + self._live.excess(self.seen, self.seen.requests)
        return Growth(harm * per_second / phi, safe * per_second / phi)

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.counts(self.seen)
        self.harm.write(writer)
        self.safe.write(writer)
        self._live.write(writer)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self.seen = Tally(reader.count(), reader.count())
        self.harm.read(reader)
        self.safe.read(reader)
        self._live.read(reader)


def _log_ratio(tally: Tally, bet: float, limit: float) -> float:
    missed = tally.requests - tally.events
    return tally.events * math.log(bet / limit) + missed * (math.log1p(-bet) - math.log1p(-limit))
