"""Counters become windows: differences between samples, each of them counted in exactly one window.

A difference belongs to the window that holds its later sample. Counters are looked at series by series, as only there a
reset can be told: a value below the one before started again at zero. A series whose target was seen before (another
series of the same `job` and `instance`) begins at zero, as the first failure of a running server does; the first sample
of a target that nobody saw is only where its counting starts. A predecessor older than `LOOKBACK_SECONDS` is none.
What a difference is depends on the samples alone, so whoever reads them again finds the same.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prefect_modeldeploy.measurements import bucket_of
from prefect_modeldeploy.traffic.windows import ArmCounts

LOOKBACK_SECONDS = 300.0
"""As long may a target be silent before its counters are taken for new ones."""

_TARGET = ("job", "instance")


@dataclass(frozen=True, slots=True)
class Series:
    """One counter: labels, and samples as (seconds since the epoch, value), oldest first."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float]]

    @property
    def target(self) -> tuple[str, ...]:
        """Which server it was read from."""
        return tuple(self.labels.get(name, "") for name in _TARGET)


@dataclass(frozen=True, slots=True)
class ArmSeries:
    """The counters of one arm.

    Args:
        requests: Of requests that count.
        failures: Of those of them that failed.
        buckets: Cumulative ones of a latency histogram, with the label `le` in seconds.
    """

    requests: Sequence[Series]
    failures: Sequence[Series] = ()
    buckets: Sequence[Series] = ()

    @property
    def last(self) -> float:
        """When the arm was last seen; -inf if it never was."""
        return max((series.samples[-1][0] for series in self.requests if series.samples), default=-math.inf)


@dataclass(slots=True)
class _Slice:
    requests: float = 0.0
    failures: float = 0.0
    cumulative: dict[float, float] = field(default_factory=lambda: defaultdict(float))


def counts_of(arm: ArmSeries, begin: float, end: float, width: float) -> dict[int, ArmCounts]:
    """What an arm experienced in (begin, end], by slice: number i is (i * width, (i + 1) * width].

    Args:
        arm: Its counters, from `LOOKBACK_SECONDS` before `begin` on.
        begin: Seconds since the epoch.
        end: Seconds since the epoch.
        width: Length of a slice in seconds.
    """
    seen = _times_by_target(arm.requests)
    slices: dict[int, _Slice] = defaultdict(_Slice)
    for at, _, added in _differences(arm.requests, seen, begin, end):
        slices[_slice_of(at, width)].requests += added
    for at, _, added in _differences(arm.failures, seen, begin, end):
        slices[_slice_of(at, width)].failures += added
    for at, series, added in _differences(arm.buckets, seen, begin, end):
        slices[_slice_of(at, width)].cumulative[float(series.labels.get("le", "inf"))] += added
    return {i: _counts(one, i * width, width) for i, one in slices.items() if one.requests or one.failures}


def _counts(one: _Slice, start: float, width: float) -> ArmCounts:
    failures = round(one.failures)
    return ArmCounts(
        requests=max(round(one.requests), failures),  # a failed request was one, whichever counter moved first
        failures=failures,
        latency=_latency(one.cumulative),
        start=start,
        end=start + width,
    )


def _latency(cumulative: Mapping[float, float]) -> Counter[int]:
    """Each request at its bucket's upper edge, and those above the largest edge at twice that."""
    latency, below, edges = Counter[int](), 0.0, sorted(cumulative)
    for edge in edges:
        count = round(cumulative[edge] - below)
        below = max(below, cumulative[edge])
        finite = edge if math.isfinite(edge) else 2 * max((e for e in edges if math.isfinite(e)), default=1.0)
        if count > 0:
            latency[bucket_of(finite)] += count
    return latency


def _differences(
    many: Sequence[Series], seen: Mapping[tuple[str, ...], list[float]], begin: float, end: float
) -> Iterator[tuple[float, Series, float]]:
    for series in many:
        before: tuple[float, float] | None = None
        for at, value in series.samples:
            if not math.isfinite(value):
                continue
            if before is None or at - before[0] > LOOKBACK_SECONDS:
                added = value if _was_there(seen.get(series.target, []), at) else 0.0
            else:
                added = value - before[1] if value >= before[1] else value
            before = (at, value)
            if begin < at <= end and added:
                yield at, series, added


def _was_there(times: list[float], at: float) -> bool:
    earlier = bisect_left(times, at)
    return earlier > 0 and at - times[earlier - 1] <= LOOKBACK_SECONDS


def _times_by_target(many: Sequence[Series]) -> dict[tuple[str, ...], list[float]]:
    found: dict[tuple[str, ...], set[float]] = defaultdict(set)
    for series in many:
        found[series.target].update(at for at, _ in series.samples)
    return {target: sorted(times) for target, times in found.items()}


def _slice_of(at: float, width: float) -> int:
    return math.ceil(at / width) - 1
