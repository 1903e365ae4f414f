"""The metrics that a rollout can be judged by, all of equal rank. Each is a few settings; `track` starts its evidence.

Fields that all of them have:

- `name`: what the verdict calls it; two metrics of a judge must not share one.
- `weight`: importance; the judge rolls back on the weighted average of the metrics' evidence of harm.
- `margin`: how much worse a promoted canary may be at most (None: the judge's).
- `tolerated`: how much worse it may be before it is rolled back.
- `required`: False lets a canary be promoted although this metric was never measured at all.
- `alpha`: a part of the judge's alpha that this metric gets alone, instead of a place in the average (for a metric so
  critical that no other may delay its alarm).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from prefect_modeldeploy.analysis.comparison import Limits
from prefect_modeldeploy.analysis.drift import DriftTracker
from prefect_modeldeploy.analysis.evalue import Tally
from prefect_modeldeploy.analysis.events import AgreementTracker, EventTracker
from prefect_modeldeploy.analysis.latency import LatencyTracker
from prefect_modeldeploy.analysis.means import MeanTracker, costs
from prefect_modeldeploy.analysis.tracker import Tracker
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Arm


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """What all metrics have in common."""

    shares: ClassVar[bool] = True
    """Whether its readings are shares, which are shown in percent."""

    name: str
    weight: float = 1.0
    margin: float | None = None
    tolerated: float = 0.0
    required: bool = True
    alpha: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidInput(f"{self.name}.weight", self.weight, "must be a positive number")
        if self.margin is not None and not 0 < self.margin < 1:
            raise InvalidInput(f"{self.name}.margin", self.margin, "must be between 0 and 1: a difference of shares")
        if not 0 <= self.tolerated < 1:
            raise InvalidInput(f"{self.name}.tolerated", self.tolerated, "must be at least 0 and below 1")
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise InvalidInput(f"{self.name}.alpha", self.alpha, "must be a part of the judge's alpha, or None")

    @abstractmethod
    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Start the evidence; `margin` is the judge's, for metrics that have none of their own."""

    def _limits(self, margin: float) -> Limits:
        return Limits(margin if self.margin is None else self.margin, self.tolerated)


@dataclass(frozen=True, kw_only=True)
class Failures(Metric):
    """Share of the requests that failed. Its margin is the judge's.

    Args:
        ceiling: A canary that fails more often than this is not promoted, even if the baseline is as broken.
    """

    kind: Literal["failures"] = "failures"
    name: str = "failures"
    weight: float = 3.0
    ceiling: float = 0.5

    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Compare failures of requests."""
        return EventTracker(_failures, self._limits(margin), history, self.ceiling)


@dataclass(frozen=True, kw_only=True)
class Latency(Metric):
    """Shares of the requests that are slower than thresholds. See `latency.py`.

    Args:
        quantiles: Quantiles of the baseline that become the thresholds.
        thresholds: Thresholds in seconds (an SLO), instead of quantiles.
        factor: Slowness that is tolerated: canary compared at factor * x, baseline at x. 1: none.
        margin: Difference of the shares slower than a threshold; capped at the quantile's own share, so for the p99
            at most a doubling from 1 % to 2 % is tolerated.
    """

    kind: Literal["latency"] = "latency"
    name: str = "latency"
    margin: float | None = 0.05
    quantiles: tuple[float, ...] = (0.5, 0.9, 0.99)
    thresholds: tuple[float, ...] = ()
    factor: float = 1.0

    def __post_init__(self) -> None:
        Metric.__post_init__(self)
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise InvalidInput(f"{self.name}.factor", self.factor, "must be at least 1: how much slower is tolerated")
        if not self.quantiles and not self.thresholds:
            raise InvalidInput(f"{self.name}.quantiles", self.quantiles, "give quantiles or thresholds")
        if any(not 0 < q < 1 for q in self.quantiles):
            raise InvalidInput(f"{self.name}.quantiles", self.quantiles, "must be between 0 and 1")
        if any(not x > 0 for x in self.thresholds):
            raise InvalidInput(f"{self.name}.thresholds", self.thresholds, "must be positive numbers of seconds")

    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Compare exceedances of thresholds."""
        past = [arm.latency for arm in history if arm.latency is not None and arm.latency.buckets]
        return LatencyTracker(self.quantiles, self.thresholds, self.factor, self._limits(margin), past)


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Share of wrong answers among the labelled requests (`Quality.labelled`, `Quality.correct`)."""

    kind: Literal["accuracy"] = "accuracy"
    name: str = "accuracy"
    margin: float | None = 0.02

    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Compare wrong answers."""
        return EventTracker(_wrong, self._limits(margin), history)


@dataclass(frozen=True, kw_only=True)
class Agreement(Metric):
    """Share of the shadowed requests on which the arms disagree (`compared` and `agreed` of the canary's quality).

    A share above `tolerated` is harm, one below `margin` is safe. Versions differ: set both to what is expected.
    """

    kind: Literal["agreement"] = "agreement"
    name: str = "agreement"
    margin: float | None = 0.05
    tolerated: float = 0.05

    def __post_init__(self) -> None:
        Metric.__post_init__(self)
        _require_tolerance(self)

    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Watch the disagreement."""
        return AgreementTracker(self._limits(margin))


@dataclass(frozen=True, kw_only=True)
class Drift(Metric):
    """Distance between the distributions of the predicted numbers (`Quality.values`), from 0 to 1. See `drift.py`.

    A distance above `tolerated` is harm, one below `margin` is safe.
    """

    kind: Literal["drift"] = "drift"
    name: str = "drift"
    margin: float | None = 0.1
    tolerated: float = 0.1

    def __post_init__(self) -> None:
        Metric.__post_init__(self)
        _require_tolerance(self)

    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Compare the distributions."""
        return DriftTracker(self._limits(margin), history)


@dataclass(frozen=True, kw_only=True)
class Cost(Metric):
    """Mean cost of a request (`Arm.cost`: money, tokens, GPU seconds). Its limits are relative: 0.1 is 10 %."""

    shares: ClassVar[bool] = False
    kind: Literal["cost"] = "cost"
    name: str = "cost"
    margin: float | None = 0.1

    def track(self, margin: float, history: Sequence[Arm]) -> Tracker:
        """Compare means."""
        return MeanTracker(self._limits(margin), costs(history))


def _require_tolerance(metric: Metric) -> None:
    if metric.tolerated <= 0:
        hint = "must be above 0: two versions are never quite the same"
        raise InvalidInput(f"{metric.name}.tolerated", metric.tolerated, hint)


DEFAULT_METRICS: tuple[Metric, ...] = (Failures(), Latency(required=False))
"""Failures, and latency wherever windows carry histograms."""


def _failures(arm: Arm) -> Tally:
    return Tally(arm.requests, arm.failures)


def _wrong(arm: Arm) -> Tally:
    quality = arm.quality
    return Tally(quality.labelled, quality.labelled - quality.correct) if quality else Tally(0, 0)
