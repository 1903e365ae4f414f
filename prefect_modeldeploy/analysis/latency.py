"""Latency from histograms (F6): is the share of the requests that are slower than x larger on the canary?

The thresholds x are fixed *before* they are used: given by the user (an SLO), or the p50, p90 and p99 of the history,
or, where there is no history, the quantiles of the baseline's first windows, gathered until they hold 200 requests.
The windows gathered for this are not judged, so a threshold never depends on a window that it judges.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from prefect_modeldeploy.analysis.codec import Reader, Writer
from prefect_modeldeploy.analysis.comparison import FLOOR, Comparison, Growth, Limits
from prefect_modeldeploy.analysis.evalue import Tally, log_sum
from prefect_modeldeploy.analysis.tracker import Reading, Tracker
from prefect_modeldeploy.measurements import Histogram, Window, bucket_of, bucket_upper_edge

ENOUGH = 200
"""Requests of the baseline from which thresholds are taken when there is no history."""

_COARSE = 8  # buckets that are gathered as one while there are no thresholds: 17 % wide, to save space


class LatencyTracker(Tracker):
    """Exceedances of a few thresholds, each with its own comparison.

    Harm is the average of their e-processes; safety is the smallest, because all of them must be safe.

    Args:
        quantiles: Which quantiles of the baseline become the thresholds.
        thresholds: Seconds; given, they take the place of the quantiles.
        factor: Slowness that is tolerated: the canary is compared at factor * x with the baseline at x.
    """

    def __init__(
        self,
        quantiles: Sequence[float],
        thresholds: Sequence[float],
        factor: float,
        limits: Limits,
        history: Sequence[Histogram],
    ) -> None:
        self._quantiles, self._factor, self._limits = tuple(quantiles), factor, limits
        self._given = bool(thresholds)
        self._gathered: dict[int, int] = {}
        self._buckets: list[int] = []
        self._parts: list[Comparison] = []
        if thresholds:
            self._fix([bucket_of(x) for x in thresholds], history)
        elif history:
            past = sum(history, Histogram()).buckets
            self._fix([_bucket_at(past, q) for q in self._quantiles], history)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds in seconds; empty while there are none."""
        return tuple(bucket_upper_edge(bucket) for bucket in self._buckets)

    def observe(self, window: Window) -> None:
        """Count one window; without a histogram on both arms it changes nothing."""
        canary, baseline = window.canary.latency, window.baseline.latency
        if baseline is None or canary is None:
            return
        if not self._parts:
            self._gather(baseline)
            return
        shift = self._shift
        for bucket, part in zip(self._buckets, self._parts, strict=True):
            part.observe(_slower(canary, bucket + shift), _slower(baseline, bucket), window.seconds)

    @property
    def _shift(self) -> int:
        return bucket_of(self._factor * 1e-6) if self._factor > 1.0 else 0

    def _gather(self, baseline: Histogram) -> None:
        for bucket, n in baseline.buckets.items():
            coarse = bucket // _COARSE
            self._gathered[coarse] = self._gathered.get(coarse, 0) + n
        if sum(self._gathered.values()) >= ENOUGH:
            self._fix([(_bucket_at(self._gathered, q) + 1) * _COARSE - 1 for q in self._quantiles], ())
            self._gathered = {}

    def _fix(self, buckets: Sequence[int], history: Sequence[Histogram]) -> None:
        self._buckets = sorted(buckets)
        self._parts = [
            Comparison(self._limits._replace(floor=floor), [_slower(h, bucket) for h in history])
            for bucket, floor in zip(self._buckets, self._floors, strict=False)
        ]

    @property
    def _floors(self) -> Iterator[float]:
        """What no margin is capped below: 1 % are slower than the p99, whatever a short baseline shows."""
        if self._given:
            return repeat(FLOOR)
        return iter([1.0 - q for q in sorted(self._quantiles)])

    @property
    def log_harm(self) -> float:
        """Log of the average evidence of the thresholds."""
        if not self._parts:
            return 0.0
        return log_sum([part.harm.log_wealth for part in self._parts]) - log_sum([0.0] * len(self._parts))

    @property
    def log_safe(self) -> float:
        """Log evidence of the least proven threshold."""
        return min((part.safe.log_wealth for part in self._parts), default=0.0)

    @property
    def reading(self) -> Reading | None:
        """Share slower than the threshold that speaks most against the canary."""
        worst = self._worst
        return Reading(*self._parts[worst].seen) if worst is not None and self._parts[worst].observed else None

    @property
    def what(self) -> str:
        """Which threshold `reading` is about."""
        worst = self._worst
        return "" if worst is None else f"slower than {self.thresholds[worst] * 1000.0:.3g} ms"

    @property
    def _worst(self) -> int | None:
        return max(range(len(self._parts)), key=lambda part: self._parts[part].harm.log_wealth, default=None)

    def growth(self, canary: float, baseline: float) -> Growth:
        """The fastest threshold's growth of harm, the slowest one's growth of safety."""
        each = [part.growth(canary, baseline) for part in self._parts]
        return Growth(max((g.harm for g in each), default=0.0), min((g.safe for g in each), default=0.0))

    def write(self, writer: Writer) -> None:
        """Save everything that changes."""
        writer.counts((len(self._buckets), *self._buckets, len(self._gathered)))
        for bucket in sorted(self._gathered):
            writer.counts((bucket, self._gathered[bucket]))
        for part in self._parts:
            part.write(writer)

    def read(self, reader: Reader) -> None:
        """Take over what `write` saved."""
        self._fix(reader.counts(reader.count()), ())
        pairs = [(reader.count(), reader.count()) for _ in range(reader.count())]
        self._gathered = dict(pairs)
        for part in self._parts:
            part.read(reader)


def _bucket_at(counts: Mapping[int, int], q: float) -> int:
    """The bucket that holds the q-quantile."""
    rank, seen, bucket = math.ceil(q * sum(counts.values())), 0, 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            break
    return bucket


def _slower(histogram: Histogram, bucket: int) -> Tally:
    requests = events = 0
    for at, n in histogram.buckets.items():
        requests += n
        if at > bucket:
            events += n
    return Tally(requests, events)
