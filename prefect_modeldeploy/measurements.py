"""What the arms of an endpoint experienced: counts and latency histograms, by arm and by window.

The gateway fills these, the analysis reads them; neither needs to know the other.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Self

from prefect_modeldeploy.errors import InvalidInput

RESOLUTION = 1.02
"""Ratio of a histogram bucket's upper edge to its lower edge: latencies are known to 2 %."""

_LOG_RESOLUTION = math.log(RESOLUTION)


def bucket_of(seconds: float) -> int:
    """Number of the bucket that holds a latency: bucket i covers [1.02^i, 1.02^(i+1)) microseconds."""
    microseconds = seconds * 1e6
    return 0 if microseconds <= 1.0 else int(math.log(microseconds) / _LOG_RESOLUTION)


def bucket_upper_edge(bucket: int) -> float:
    """Upper edge of a bucket, in seconds."""
    return float(RESOLUTION ** (bucket + 1)) / 1e6


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies in logarithmic buckets of 2 % width, stored sparsely: `{bucket: count}`."""

    buckets: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def from_seconds(cls, latencies: Iterable[float]) -> Self:
        """Build a histogram of latencies in seconds."""
        counts: dict[int, int] = {}
        for latency in latencies:
            bucket = bucket_of(latency)
            counts[bucket] = counts.get(bucket, 0) + 1
        return cls(counts)

    @property
    def count(self) -> int:
        """How many latencies it holds."""
        return sum(self.buckets.values())

    def slower_than(self, seconds: float) -> int:
        """How many latencies were above `seconds`, the threshold being rounded up to its bucket's upper edge."""
        edge = bucket_of(seconds)
        return sum(n for bucket, n in self.buckets.items() if bucket > edge)

    def quantile(self, q: float) -> float | None:
        """The q-quantile in seconds (upper edge of its bucket, so at most 2 % too high); None when empty."""
        total = self.count
        if not total:
            return None
        rank, seen = max(1, math.ceil(q * total)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return bucket_upper_edge(bucket)
        raise AssertionError("unreachable: the counts add up to the total")

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = dict(self.buckets)
        for bucket, n in other.buckets.items():
            counts[bucket] = counts.get(bucket, 0) + n
        return Histogram(counts)


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm experienced during one window.

    Args:
        requests: Requests that count: answered, or failed by the arm. First attempts, not retries.
        failures: Those of them that failed: 5xx, timeout, reset by the arm (the one table in the docs).
        latency: Time of each counted request, from the first byte of the head to the last byte of the answer.
    """

    requests: int
    failures: int
    latency: Histogram | None = None

    def __post_init__(self) -> None:
        if self.requests < 0:
            raise InvalidInput("requests", self.requests, "a count cannot be negative")
        if not 0 <= self.failures <= self.requests:
            raise InvalidInput("failures", self.failures, f"must be between 0 and requests={self.requests}")

    def __add__(self, other: "Arm") -> "Arm":
        parts = [latency for latency in (self.latency, other.latency) if latency is not None]
        return Arm(
            self.requests + other.requests,
            self.failures + other.failures,
            reduce(Histogram.__add__, parts) if parts else None,
        )


@dataclass(frozen=True, slots=True)
class Window:
    """What both arms experienced in the same stretch of time.

    Args:
        id: Unique id; a judge counts windows with the same id once.
        canary: The new version.
        baseline: The stable version, at the same time.
        seconds: Length of the window.
        share: Share of the requests that the router was asked to send to the canary, 0 to 1; None if unknown.
    """

    id: str
    canary: Arm
    baseline: Arm
    seconds: float
    share: float | None = None
