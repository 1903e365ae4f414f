"""What the arms of an endpoint experienced, by arm and by window: counts, latencies, quality, cost.

The gateway fills these, the analysis reads them; neither needs to know the other.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

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
class Moments:
    """Count, sum and sum of squares of a number that each request has: enough for a mean and its error.

    Args:
        count: How many values.
        total: Their sum, in the unit of the values.
        squares: The sum of their squares.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InvalidInput("count", self.count, "a count cannot be negative")
        if not (math.isfinite(self.total) and math.isfinite(self.squares) and self.squares >= 0):
            raise InvalidInput("squares", (self.total, self.squares), "sums must be finite, squares not negative")

    @classmethod
    def from_values(cls, values: Iterable[float]) -> Self:
        """Sum up single values."""
        listed = list(values)
        return cls(len(listed), math.fsum(listed), math.fsum(value * value for value in listed))

    @property
    def mean(self) -> float | None:
        """The mean; None when empty."""
        return self.total / self.count if self.count else None

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good an arm's answers were, for the requests where that is known.

    Args:
        labelled: Requests whose right answer is known (a golden set, or labels that arrived).
        correct: Those of them that were answered right.
        compared: Requests that were also sent to the other arm (shadowed), which answered.
        agreed: Those of them where this arm gave the same answer, as the comparer sees it. Fill both on the canary.
        values: A sample of the numbers that the arm predicted, at most some hundreds a window.
    """

    labelled: int = 0
    correct: int = 0
    compared: int = 0
    agreed: int = 0
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.labelled:
            raise InvalidInput("correct", self.correct, f"must be between 0 and labelled={self.labelled}")
        if not 0 <= self.agreed <= self.compared:
            raise InvalidInput("agreed", self.agreed, f"must be between 0 and compared={self.compared}")

    def __add__(self, other: "Quality") -> "Quality":
        return Quality(
            self.labelled + other.labelled,
            self.correct + other.correct,
            self.compared + other.compared,
            self.agreed + other.agreed,
            self.values + other.values,
        )


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm experienced during one window.

    Args:
        requests: Requests that count: answered, or failed by the arm. What a proxy sent again counts once.
        failures: Those of them that failed: 5xx, timeout, reset by the arm (the one table in the docs).
        latency: Time of each counted request, from the first byte of the head to the last byte of the answer.
        quality: How good the answers were, where that is known; None if it was not looked at.
        cost: What each request cost (money, tokens, GPU seconds: the same unit on both arms); None if unknown.
    """

    requests: int
    failures: int
    latency: Histogram | None = None
    quality: Quality | None = None
    cost: Moments | None = None

    def __post_init__(self) -> None:
        if self.requests < 0:
            raise InvalidInput("requests", self.requests, "a count cannot be negative")
        if not 0 <= self.failures <= self.requests:
            raise InvalidInput("failures", self.failures, f"must be between 0 and requests={self.requests}")

    def __add__(self, other: "Arm") -> "Arm":
        return Arm(
            self.requests + other.requests,
            self.failures + other.failures,
            _sum_of_known(self.latency, other.latency),
            _sum_of_known(self.quality, other.quality),
            _sum_of_known(self.cost, other.cost),
        )


Summand = TypeVar("Summand", Histogram, Quality, Moments)


def _sum_of_known(one: Summand | None, other: Summand | None) -> Summand | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


@dataclass(frozen=True, slots=True)
class Window:
    """What both arms experienced in the same stretch of time.

    Args:
        id: Unique id; a judge counts windows with the same id once.
        canary: The new version.
        baseline: The stable version, at the same time.
        seconds: Length of the window.
        share: Share of the requests that the router was asked to send to the canary, 0 to 1; None if unknown.

    Every request is in one window, with the share that was asked for when it was *sent*. Best is the window in which it
    arrived, given to the judge once all of its requests have ended. Windows of requests that *ended* in them, as the
    gateway makes them, need no waiting but lack what is still under way, which is more on a slower arm: tell the judge
    how long an answer may take (`JudgeSettings.in_flight_seconds`).
    """

    id: str
    canary: Arm
    baseline: Arm
    seconds: float
    share: float | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise InvalidInput("id", self.id, "a window needs an id, or it could be counted twice")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise InvalidInput("seconds", self.seconds, "must be a finite number, not negative")
        if self.share is not None and not 0 <= self.share <= 1:
            raise InvalidInput("share", self.share, "must be between 0 and 1 (it is a share, not percent)")
