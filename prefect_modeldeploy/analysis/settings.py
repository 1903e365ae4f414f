"""What a judge is told before the first window. Nothing of it changes during a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_modeldeploy.analysis import rules
from prefect_modeldeploy.analysis.metrics import DEFAULT_METRICS, Metric
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Arm

_NO_RULES = ("history", "canary_share", "in_flight_seconds", "min_requests", "max_seconds", "metrics")
"""What tells of the measurements, or is asked of the verdict alone; and the metrics, which have rules of their own."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How a rollout is judged.

    Args:
        alpha: Probability that a canary which is no worse is ever rolled back, however often one looks.
        beta: Probability that a canary which is worse by the margin is ever promoted.
        margin: Difference of the failure rates that a promoted canary stays below; for rare failures it is capped at
            the baseline's own rate, but not below 0.001. Metrics may have their own.
        min_requests: Requests that the canary must have answered before it can be promoted.
        max_seconds: After so many seconds of windows an undecided verdict is marked `expired`; what follows from
            that (hold, ask a person, roll back) is the rollout's business. None: never.
        metrics: What is compared.
        history: Windows of the baseline before the rollout, in order, at least 30 minutes, from comparable traffic:
            they tell how bursty failures are and where latency thresholds lie. Only needed at the start: a restored
            judge has kept what they taught.
        canary_share: Share of the requests that the router is asked to send to the canary, for windows that do not
            say it themselves. None: the split is not checked.
        split_tolerance: Relative error of the smaller arm's share that is no alarm.
        in_flight_seconds: The longest that an answer may take, where windows hold the requests that ended in them:
            so much of the canary's traffic may be missing without an alarm. 0: windows hold what arrived in them.
    """

    alpha: float = 0.05
    beta: float = 0.05
    margin: float = 0.01
    min_requests: int = 0
    max_seconds: float | None = None
    metrics: Sequence[Metric] = DEFAULT_METRICS
    history: Sequence[Arm] = ()
    canary_share: float | None = None
    split_tolerance: float = 0.05
    in_flight_seconds: float = 0.0

    def __post_init__(self) -> None:
        for field in ("alpha", "beta", "margin"):
            value = getattr(self, field)
            if not 0 < value < 1:
                raise InvalidInput(field, value, "must be between 0 and 1, both excluded")
        if self.min_requests < 0:
            raise InvalidInput("min_requests", self.min_requests, "must not be negative")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InvalidInput("max_seconds", self.max_seconds, "must be positive, or None for no deadline")
        if self.canary_share is not None and not 0 <= self.canary_share <= 1:
            raise InvalidInput("canary_share", self.canary_share, "must be between 0 and 1 (a share, not percent)")
        if not 0 <= self.split_tolerance < 1:
            raise InvalidInput("split_tolerance", self.split_tolerance, "must be at least 0 and below 1")
        if not self.in_flight_seconds >= 0:
            raise InvalidInput("in_flight_seconds", self.in_flight_seconds, "must not be negative")
        names = [metric.name for metric in self.metrics]
        if not names:
            raise InvalidInput("metrics", self.metrics, "at least one metric is needed to judge anything")
        if len(set(names)) < len(names):
            raise InvalidInput("metrics", names, "every metric needs a name of its own")
        own = sum(metric.alpha or 0.0 for metric in self.metrics)
        if own > self.alpha or (own == self.alpha and any(metric.alpha is None for metric in self.metrics)):
            raise InvalidInput("metrics.alpha", own, f"the metrics' own parts must leave something of {self.alpha}")

    @property
    def shared_alpha(self) -> float:
        """What the metrics with an alpha of their own leave to the average of the others."""
        return self.alpha - sum(metric.alpha or 0.0 for metric in self.metrics)

    @property
    def fingerprint(self) -> str:
        """Changes with the rules that evidence depends on: it must not be continued under others. See `rules.py`."""
        own = rules.given(self, but=_NO_RULES)
        return rules.fingerprint([own, *(rules.given(metric) for metric in self.metrics)])
