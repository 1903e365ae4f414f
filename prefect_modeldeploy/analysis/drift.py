"""Do two arms predict the same numbers? The whole distributions are compared, by raw samples (F7).

The distance is the largest difference between the two empirical distributions at 15 points, which are quantiles of the
baseline: of the history's samples, or, where there is none, of the first windows that hold 200 values. The windows
gathered for that are not judged.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.comparison import Growth, Limits
from prefect_modeldeploy.analysis.quantiles import calibrate, log_alpha, log_p_of_gap
from prefect_modeldeploy.analysis.tracker import Reading, Tracker
from prefect_modeldeploy.measurements import Arm, Window

ENOUGH = 200
"""Values of the baseline from which the points are taken when there is no history."""

_POINTS = 15
_GATHER = 16  # quantiles that stand for one gathered window, to save space


class DriftTracker(Tracker):
    """Harm is a distance above `limits.tolerated`, safety one below `limits.margin`."""

    def __init__(self, limits: Limits, history: Sequence[Arm]) -> None:
        log_alpha(1.0)  # fills the table now, not in the first window
        self._limits = limits
        self._points: list[float] = []
        self._canary: list[int] = []
        self._baseline: list[int] = []
        self._distance = 0.0
        self._gathered: list[float] = []
        self._gathered_values = 0
        past = sorted(value for arm in history if arm.quality is not None for value in arm.quality.values)
        if past:
            self._fix(past)

    def observe(self, window: Window) -> None:
        """Count one window; without values on the baseline or the canary it changes nothing."""
        canary, baseline = window.canary.quality, window.baseline.quality
        if canary is None or baseline is None:
            return
        if not self._points:
            self._gather(baseline.values)
            return
        self._count(self._canary, canary.values)
        self._count(self._baseline, baseline.values)
        self._distance = _distance(self._canary, self._baseline)

    def _gather(self, values: Sequence[float]) -> None:
        if not values:
            return
        ordered = sorted(values)
        kept = ordered if len(ordered) <= _GATHER else _quantiles(ordered, _GATHER)
        self._gathered_values += len(ordered)
        self._gathered = sorted([*self._gathered, *kept])
        if len(self._gathered) > 4 * _GATHER:
            self._gathered = _quantiles(self._gathered, 2 * _GATHER)
        if self._gathered_values >= ENOUGH:
            self._fix(self._gathered)
            self._gathered = []

    def _fix(self, ordered: Sequence[float]) -> None:
        self._points = sorted(set(_quantiles(ordered, _POINTS)))
        self._canary, self._baseline = ([0] * (len(self._points) + 1) for _ in range(2))

    def _count(self, cells: list[int], values: Sequence[float]) -> None:
        for value in values:
            cells[bisect_left(self._points, value)] += 1

    @property
    def log_harm(self) -> float:
        """Log evidence that the distance is larger than tolerated."""
        return self._evidence(self._distance - self._limits.tolerated)

    @property
    def log_safe(self) -> float:
        """Log evidence that the distance is smaller than the margin."""
        return self._evidence(self._limits.margin - self._distance)

    def _evidence(self, gap: float) -> float:
        n_c, n_b = sum(self._canary), sum(self._baseline)
        return calibrate(log_p_of_gap(gap, n_c, n_b)) if n_c and n_b else 0.0

    @property
    def reading(self) -> Reading | None:
        """The distance between the distributions (as the canary's value; the baseline's own is 0)."""
        return Reading(self._distance, 0.0) if any(self._canary) and any(self._baseline) else None

    def growth(self, canary: float, baseline: float) -> Growth:
        """About 2 gap^2 nats a value, as for the band of a single distribution."""
        seen = sum(self._canary)
        if not (seen and sum(self._baseline) and canary and baseline):
            return Growth(0.0, 0.0)
        slower = canary * baseline / (canary**0.5 + baseline**0.5) ** 2
        harm = max(0.0, self._distance - self._limits.tolerated)
        safe = max(0.0, self._limits.margin - self._distance)
        return Growth(slower * harm**2, slower * safe**2)

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.counts((self._gathered_values, len(self._gathered), len(self._points)))
        for value in (*self._gathered, *self._points):
            writer.double(value)
        writer.counts((*self._canary, *self._baseline))

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self._gathered_values, gathered, points = reader.counts(3)
        self._gathered = [reader.double() for _ in range(gathered)]
        self._points = [reader.double() for _ in range(points)]
        cells = points + 1 if points else 0
        self._canary, self._baseline = reader.counts(cells), reader.counts(cells)
        self._distance = _distance(self._canary, self._baseline)


def _quantiles(ordered: Sequence[float], count: int) -> list[float]:
    """`count` values at equal steps of rank, the ends left out."""
    return [ordered[int((i + 0.5) / count * len(ordered))] for i in range(count)]


def _distance(canary: Sequence[int], baseline: Sequence[int]) -> float:
    """Largest difference of the two empirical distributions at the points."""
    n_c, n_b = sum(canary), sum(baseline)
    if not (n_c and n_b):
        return 0.0
    pairs = zip(accumulate(canary), accumulate(baseline), strict=True)
    return max(abs(k_c / n_c - k_b / n_b) for k_c, k_b in pairs)
