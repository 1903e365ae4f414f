"""Trackers of yes/no outcomes: of each arm's own requests, and of requests that both arms answered."""

from collections.abc import Callable, Sequence

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.comparison import Comparison, Growth, Limits
from prefect_modeldeploy.analysis.evalue import Tally
from prefect_modeldeploy.analysis.proportion import Proportion
from prefect_modeldeploy.analysis.tracker import Reading, Tracker
from prefect_modeldeploy.measurements import Arm, Window


class EventTracker(Tracker):
    """One yes/no outcome of requests.

    Args:
        count: Picks the requests and the events out of an arm.
        limits: How much worse is tolerated.
        history: Windows of the baseline before the rollout.
        ceiling: A canary whose share of events is above this is not safe, however bad the baseline is.
    """

    def __init__(
        self, count: Callable[[Arm], Tally], limits: Limits, history: Sequence[Arm], ceiling: float = 1.0
    ) -> None:
        self._count, self._ceiling = count, ceiling
        self._comparison = Comparison(limits, [count(arm) for arm in history])

    def observe(self, window: Window) -> None:
        """Count one window."""
        self._comparison.observe(self._count(window.canary), self._count(window.baseline), window.seconds)

    @property
    def log_harm(self) -> float:
        """Log evidence of harm."""
        return self._comparison.harm.log_wealth

    @property
    def log_safe(self) -> float:
        """Log evidence of safety."""
        evidence = self._comparison.safe.log_wealth
        broken = self._comparison.observed and self._comparison.seen[0] > self._ceiling
        return min(evidence, 0.0) if broken else evidence

    @property
    def reading(self) -> Reading | None:
        """The rates seen so far."""
        return Reading(*self._comparison.seen) if self._comparison.observed else None

    def growth(self, canary: float, baseline: float) -> Growth:
        """Growth of the evidence."""
        return self._comparison.growth(canary, baseline)

    def write(self, writer: Writer) -> None:
        """Save the comparison."""
        self._comparison.write(writer)

    def read(self, reader: Reader) -> None:
        """Restore the comparison."""
        self._comparison.read(reader)


class AgreementTracker(Tracker):
    """How often the arms disagreed on a request that both were asked."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._proportion = Proportion(limits)
        self._seconds = 0.0

    def observe(self, window: Window) -> None:
        """Count one window."""
        quality = window.canary.quality
        if quality is not None:
            self._proportion.observe(Tally(quality.compared, quality.compared - quality.agreed), window.seconds)
        self._seconds += window.seconds

    @property
    def log_harm(self) -> float:
        """Log evidence of a share above the tolerated."""
        return self._proportion.harm.log_wealth

    @property
    def log_safe(self) -> float:
        """Log evidence of a share below the margin."""
        return self._proportion.safe.log_wealth

    @property
    def reading(self) -> Reading | None:
        """The share of disagreement, beside the share that is tolerated."""
        seen = self._proportion.seen
        return Reading(seen.events / seen.requests, self._limits.tolerated) if seen.requests else None

    def growth(self, canary: float, baseline: float) -> Growth:
        """Growth of the evidence, at the pace at which requests were compared so far."""
        return self._proportion.growth(self._proportion.seen.requests / self._seconds if self._seconds else 0.0)

    def write(self, writer: Writer) -> None:
        """Save the share."""
        writer.double(self._seconds)
        self._proportion.write(writer)

    def read(self, reader: Reader) -> None:
        """Restore the share."""
        self._seconds = reader.double()
        self._proportion.read(reader)
