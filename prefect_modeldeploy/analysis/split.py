"""Does the router send the share that it was asked to send (F9)? If not, no comparison of the arms can be trusted.

While the asked share s stays the same, the count of canary requests is tested by an e-process: a Beta mixture around
s against the nearest tolerated share. When the share changes (the next step of a rollout) the wealth won or lost so
far is kept and a new mixture starts; half of each step's stake stays in cash, so that many well-behaved steps cost at
most ln 2 each.

Windows that hold the requests which *ended* in them lack those that are still under way: a canary that answers after
five seconds, or hangs, looks as if the router left it out, and would be protected from being judged at all. What the
canary is short of is therefore held against the router only as far as requests under way cannot explain it.
"""

import math

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.evalue import log_sum

ALPHA = 0.001
"""Probability that a router which does what it was asked is ever accused."""

_CONCENTRATION = 100.0
_CASH = math.log(0.5)


class SplitCheck:
    """Evidence that the router does not do what it was asked.

    Args:
        tolerance: Relative error of the smaller arm's share that is tolerated: 0.05 lets 10 % be 9.5 to 10.5 %.
        in_flight_seconds: How long a request of the canary may be under way before it is in a window.
    """

    def __init__(self, tolerance: float, in_flight_seconds: float = 0.0) -> None:
        self._tolerance, self._in_flight = tolerance, in_flight_seconds
        self._share = 0.0
        self._canary = self._baseline = 0
        self._seconds = self._carried = 0.0
        self.failed = False
        """True once the router has been found wrong; it stays true."""

    @property
    def log_evidence(self) -> float:
        """Log of the e-process; `failed` once it has reached log(1/ALPHA)."""
        if not 0.0 < self._share < 1.0:
            return self._carried
        return self._carried + log_sum([_CASH, _CASH + self._log_mixture()])

    @property
    def observed(self) -> tuple[float, float] | None:
        """The share asked and the share seen since it was asked; None before the first request."""
        seen = self._canary + self._baseline
        return (self._share, self._canary / seen) if seen else None

    def observe(self, share: float | None, canary: int, baseline: int, seconds: float) -> None:
        """Count one window's requests. An unknown share, 0 and 1 are not tested: nothing is compared then."""
        if share is None or not 0.0 < share < 1.0:
            return
        if share != self._share:
            self._carried = self.log_evidence
            self._share, self._canary, self._baseline, self._seconds = share, 0, 0, 0.0
        self._canary += canary
        self._baseline += baseline
        self._seconds += seconds
        self.failed = self.failed or self.log_evidence >= -math.log(ALPHA)

    def _log_mixture(self) -> float:
        a, b = _CONCENTRATION * self._share, _CONCENTRATION * (1.0 - self._share)
        n_c, n_b = self._canary + self._under_way, self._baseline
        if not n_c + n_b:
            return 0.0
        slack = self._tolerance * min(self._share, 1.0 - self._share)
        nearest = min(max(n_c / (n_c + n_b), self._share - slack), self._share + slack)
        mixture = _log_beta(a + n_c, b + n_b) - _log_beta(a, b)
        return mixture - n_c * math.log(nearest) - n_b * math.log1p(-nearest)

    @property
    def _under_way(self) -> float:
        """Requests that the canary is short of and may still be answering: at most what it was sent last."""
        due = self._baseline * self._share / (1.0 - self._share)
        last = due * self._in_flight / self._seconds if self._seconds else 0.0
        return min(max(0.0, due - self._canary), last)

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.counts((self._canary, self._baseline, int(self.failed)))
        for value in (self._share, self._seconds, self._carried):
            writer.double(value)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self._canary, self._baseline, failed = reader.counts(3)
        self._share, self._seconds, self._carried = (reader.double() for _ in range(3))
        self.failed = bool(failed)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
