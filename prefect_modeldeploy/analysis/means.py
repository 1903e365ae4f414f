"""Evidence about means: cost or tokens per request (F10).

The difference of two means is nearly normal, so its evidence is a likelihood ratio averaged over effects of the size
that one cares for (a half-normal mixture, Robbins 1970). This is the one part of the analysis that is valid only for
large samples: it waits for 100 requests on each arm, and a unit cost with a wild tail needs more (judge its tail as an
exceedance then). Costs that come in bursts are measured on the history, as for failures.
"""

import math
from collections.abc import Sequence

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.comparison import Growth, Limits
from prefect_modeldeploy.analysis.tracker import Reading, Tracker
from prefect_modeldeploy.measurements import Arm, Moments, Window

ENOUGH = 100
"""Requests on each arm before there is any evidence."""


class MeanTracker(Tracker):
    """Cost per request. The limits are relative: a margin of 0.1 is 10 % more than the baseline."""

    def __init__(self, limits: Limits, history: Sequence[Moments]) -> None:
        self._limits = limits
        self._phi = 1.0 + _excess(history)
        self._canary, self._baseline = Moments(), Moments()

    def observe(self, window: Window) -> None:
        """Count one window; without costs on both arms it changes nothing."""
        canary, baseline = window.canary.cost, window.baseline.cost
        if canary and baseline and canary.count and baseline.count:
            self._canary, self._baseline = self._canary + canary, self._baseline + baseline

    @property
    def log_harm(self) -> float:
        """Log evidence that the canary costs more than is tolerated."""
        return self._evidence(self._limits.tolerated, 1.0)

    @property
    def log_safe(self) -> float:
        """Log evidence that it does not cost more by the margin."""
        return self._evidence(self._limits.margin, -1.0)

    def _evidence(self, more: float, sign: float) -> float:
        found = self._difference(more)
        if found is None:
            return 0.0
        difference, variance, scale = found
        return _half_normal_mixture(sign * difference, variance, scale)

    def _difference(self, more: float) -> tuple[float, float, float] | None:
        """Canary's mean less (1 + more) times the baseline's, its variance, and the effect that is cared for."""
        if min(self._canary.count, self._baseline.count) < ENOUGH:
            return None
        mean_c, mean_b = self._canary.mean or 0.0, self._baseline.mean or 0.0
        factor = 1.0 + more
        variance = self._phi * (_error(self._canary) + factor**2 * _error(self._baseline))
        if variance <= 0.0:
            return None
        return mean_c - factor * mean_b, variance, self._limits.margin * abs(mean_b) or math.sqrt(variance)

    @property
    def reading(self) -> Reading | None:
        """Mean cost of a request on each arm."""
        canary, baseline = self._canary.mean, self._baseline.mean
        return None if canary is None or baseline is None else Reading(canary, baseline)

    def growth(self, canary: float, baseline: float) -> Growth:
        """The evidence grows with the square of the difference over its variance."""
        rates = []
        for more, sign in ((self._limits.tolerated, 1.0), (self._limits.margin, -1.0)):
            found = self._difference(more)
            if found is None or sign * found[0] <= 0.0 or not canary:
                rates.append(0.0)
            else:
                rates.append(found[0] ** 2 / (2.0 * found[1]) * canary / self._canary.count)
        return Growth(*rates)

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.double(self._phi)
        for moments in (self._canary, self._baseline):
            writer.count(moments.count)
            writer.double(moments.total)
            writer.double(moments.squares)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self._phi = reader.double()
        self._canary = Moments(reader.count(), reader.double(), reader.double())
        self._baseline = Moments(reader.count(), reader.double(), reader.double())


def costs(history: Sequence[Arm]) -> list[Moments]:
    """The costs that the windows of a history know."""
    return [arm.cost for arm in history if arm.cost is not None and arm.cost.count]


def _variance(moments: Moments) -> float:
    if moments.count < 2:
        return 0.0
    return max(0.0, moments.squares - moments.total**2 / moments.count) / (moments.count - 1)


def _error(moments: Moments) -> float:
    """Variance of the mean."""
    return _variance(moments) / moments.count


def _excess(history: Sequence[Moments]) -> float:
    """How much more the windows' means vary than the requests within them explain; 0 if they do not."""
    total = sum(history, Moments())
    variance = _variance(total)
    if len(history) < 2 or variance <= 0.0:
        return 0.0
    mean = total.total / total.count
    between = sum((m.total - m.count * mean) ** 2 / m.count for m in history) / (len(history) - 1)
    return max(0.0, between / variance - 1.0)


def _half_normal_mixture(difference: float, variance: float, scale: float) -> float:
    """Log of the likelihood ratio of `difference`, averaged over effects |N(0, scale^2)|, against no effect."""
    spread = variance + scale**2
    z = difference / math.sqrt(variance) * scale / math.sqrt(spread)
    # 2 Phi(z) = erfc(-z / sqrt 2); where it underflows, its asymptotic form keeps the product finite.
    if z > -25.0:
        return 0.5 * z * z + math.log(math.erfc(-z / math.sqrt(2.0))) + 0.5 * math.log(variance / spread)
    return math.log(2.0 / (-z * math.sqrt(2.0 * math.pi))) + 0.5 * math.log(variance / spread)


__all__ = ["ENOUGH", "MeanTracker", "costs"]
