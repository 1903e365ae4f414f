"""What a rollout would do, before anybody starts it."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.rollout.forecast import Forecast, Usual
from prefect_modeldeploy.rollout.plan import CanaryPlan

ASSUMPTIONS = (
    "The traffic stays as it was measured, and failures stay as bursty as they were.",
    "Times count from the first request to the canary, and are about medians: half of such rollouts take longer.",
    "The time until the canary is ready, and until a person has answered, comes on top.",
    "No request was sent to the candidate, so nothing is known of how it answers.",
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Traffic(_Frozen):
    """What the endpoint experienced lately."""

    requests: int
    seconds: float = Field(description="In so much time.")
    per_second: float
    failure_rate: float = Field(description="Share of the requests that failed, as a fraction.")
    p50: float | None = Field(None, description="Median latency in seconds.")
    p99: float | None = Field(None, description="Seconds.")

    @classmethod
    def of(cls, usual: Usual) -> Self:
        """The summary of measurements."""
        latency = usual.latency
        return cls(
            requests=usual.requests,
            seconds=usual.seconds,
            per_second=usual.per_second,
            failure_rate=usual.failure_rate,
            p50=latency.quantile(0.5) if latency else None,
            p99=latency.quantile(0.99) if latency else None,
        )


class PlannedStep(_Frozen):
    """One step of the plan."""

    weight: float = Field(description="Percent of the requests for the canary.")
    seconds: float = Field(description="It lasts at least so long.")
    canary_requests: int | None = Field(None, description="Requests that the canary would get meanwhile.")


class Change(_Frozen):
    """One thing that would be done to a deployment."""

    what: Literal["create", "wake", "start", "keep", "scale_to_zero", "stop", "delete", "promote"]
    deployment: str
    when: Literal["at the start", "after the promotion", "after a roll-back"]


class Cost(_Frozen):
    """What the canary costs beside the version that serves, if it is as good."""

    replica_hours: float
    money: float | None = Field(None, description="In the currency of the target's price; None: unknown.")


class Refusal(_Frozen):
    """Why the rollout would not begin."""

    error: str = Field(description="Name of the error that the flow would raise.")
    message: str


class RolloutPreview(_Frozen):
    """What `canary_rollout` would do with the same arguments, now."""

    provider: str
    model: str
    endpoint: str
    candidate: str
    stable: str | None = Field(None, description="Deployment that serves now.")
    open_rollout: str | None = Field(None, description="Who else holds the endpoint.")
    refusals: tuple[Refusal, ...] = Field((), description="Why it would not begin; empty: it would.")
    traffic: Traffic | None = Field(None, description="None: no traffic in the last half hour.")
    steps: tuple[PlannedStep, ...] = ()
    bake_seconds: float = 0.0
    deadline_seconds: float = 0.0
    forecasts: tuple[Forecast, ...] = Field((), description="How it would end, by what the canary is like.")
    changes: tuple[Change, ...] = ()
    cost: Cost | None = Field(None, description="None: nobody can say how long it would take.")
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def begins(self) -> bool:
        """Whether the rollout would begin."""
        return not self.refusals


def steps_of(plan: CanaryPlan, usual: Usual | None) -> tuple[PlannedStep, ...]:
    """The plan's steps, with what the canary would get in each."""
    per_second = usual.per_second if usual else None
    return tuple(
        PlannedStep(
            weight=weight,
            seconds=plan.step_seconds,
            canary_requests=None if per_second is None else round(per_second * plan.step_seconds * weight / 100),
        )
        for weight in plan.steps
    )


def cost_of(forecasts: Sequence[Forecast], extra_replicas: int, price_per_replica_hour: float | None) -> Cost | None:
    """The cost of the canary's own replicas, if it is as good as stable."""
    if not forecasts:
        return None
    hours = extra_replicas * forecasts[0].seconds / 3600
    return Cost(replica_hours=hours, money=None if price_per_replica_hour is None else hours * price_per_replica_hour)
