"""What a person decides before a rollout starts."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from prefect_modeldeploy.rollout.webhook import WebhookGate
from prefect_modeldeploy.traffic.answers import Example


def _without_multiple_of(schema: dict[str, Any]) -> None:
    """Prefect's server divides by it in binary: 1.1 would not be a multiple of 0.01. Pydantic knows better."""
    del schema["multipleOf"]


Percent = Annotated[float, Field(gt=0, le=100, multiple_of=0.01, json_schema_extra=_without_multiple_of)]


Examples = Annotated[tuple[Example, ...], Field(title="Examples")]
ExamplesFile = Annotated[Path, Field(title="File")]


class JudgePlan(BaseModel):
    """How sure to be, and what to tolerate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of rolling back a release that is no worse.")
    beta: float = Field(0.05, gt=0, lt=0.5, description="Chance of promoting a release that is worse than the margin.")
    margin: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Difference in failure rate that is tolerated, as a fraction (0.01 is one percentage point). "
        "Rare errors cap it: see 'How a rollout is judged'.",
    )
    min_requests: int = Field(0, ge=0, description="Requests of the canary before it may be promoted.")
    latency: bool = Field(True, description="Judge the latency too.")
    latency_tolerance: float = Field(
        1.25, ge=1, description="Slowness that is tolerated, as a factor: 1.25 allows 25 % more time."
    )
    accuracy_margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Difference in the share of wrong answers to a golden set that is tolerated, as a fraction.",
    )
    tolerance: float = Field(
        1e-6, ge=0, lt=1, description="Relative difference of numbers that are the same answer all the same."
    )


class ShadowPlan(BaseModel):
    """Copies of requests to the canary, whose answers are compared with stable's and never returned."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Copies")

    share: Percent = Field(description="Share of the requests that both versions get, in percent.")
    disagreement: float = Field(
        0.05, gt=0, lt=1, description="Share of different answers that is tolerated, as a fraction."
    )
    ignore: tuple[str, ...] = Field((), description="Keys of JSON objects that are not compared, such as a request id.")


Gate = Literal["traffic", "step", "promotion"]


class Approval(BaseModel):
    """Ask a person, and what silence means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: tuple[Gate, ...] = Field(
        ("promotion",),
        description="When to ask: before any traffic moves (a run of a deployment is suspended meanwhile, it costs "
        "nothing), before each further step, before the promotion.",
    )
    timeout_seconds: int = Field(3600, gt=0, description="Seconds to wait for each answer.")
    on_timeout: Literal["roll_back", "promote"] = Field("roll_back", description="What silence means.")


class CanaryPlan(BaseModel):
    """The steps of a rollout, and what happens at its ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Percent, ...] = Field(
        (5.0, 25.0, 50.0), description="Share of the requests for the canary in each step, in percent, rising."
    )
    step_seconds: float = Field(60.0, gt=0, description="Each step lasts at least this long, in seconds.")
    deadline_seconds: float = Field(
        3600.0, gt=0, description="Seconds after which an undecided rollout ends as on_undecided says."
    )
    on_undecided: Literal["roll_back", "hold", "ask", "extend"] = Field(
        "roll_back",
        description="At the deadline. roll_back: back to stable. hold: end, and leave the split as it is. ask: wait "
        "for a person's answer. extend: once more as long, then roll back.",
    )
    on_lost: Literal["resume", "roll_back"] = Field(
        "resume",
        description="When the process that drives the rollout is gone: what reconcile-rollouts does. Whatever it "
        "says, a promotion that has begun is brought to its end.",
    )
    unready_seconds: float = Field(
        5.0,
        gt=0,
        description="Seconds that the canary may be without a ready replica while it gets traffic, before it is "
        "rolled back. One that has failed is rolled back at once.",
    )
    roll_back_seconds: float = Field(
        0.0,
        ge=0,
        description="Spread the way back over so many seconds, so that a stable version which was scaled down can "
        "grow with it. An abort, a cancellation and a canary that is not well never wait. 0: at once.",
    )
    warm_up_seconds: float = Field(
        2.0, ge=0, description="Seconds after the first request to the canary that are not judged."
    )
    ready_timeout_seconds: float = Field(600.0, gt=0, description="Seconds until the canary must be ready.")
    bake_seconds: float = Field(
        0.0, ge=0, description="Seconds to go on watching at nearly full traffic before the former version is let go."
    )
    hold_back: Percent = Field(
        5.0,
        lt=50,
        description="Share of the requests that stays on the former version during the bake, in percent: "
        "what the new one is compared with.",
    )
    promote: Literal["swap", "native"] = Field(
        "swap",
        description="swap: the canary itself becomes stable behind the endpoint. native: it serves all requests until "
        "the deployment that the provider promotes by its own means is ready, which then becomes stable.",
    )
    smoke_request: JsonValue = Field(
        None,
        title="Smoke Request",
        description="JSON of a request that what the provider promotes has to answer before it gets others. Empty: "
        "ready is enough.",
    )
    former: Literal["keep", "scale_to_zero", "delete"] = Field(
        "scale_to_zero",
        description="What becomes of the former version after the promotion. Where a provider has no zero that wakes, "
        "scale_to_zero stops it.",
    )
    former_warm_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds that the former version is kept warm for a roll-back, before that comes true: by the "
        "next run of clean-up-orphans after them. Not where it is kept.",
    )
    former_delete_after_seconds: float | None = Field(
        None,
        ge=0,
        description="Seconds after which a former version that was scaled to zero is deleted: by the next run of "
        "clean-up-orphans after them. None: it is not.",
    )
    failed_canary: Literal["keep", "scale_to_zero", "delete"] = Field(
        "delete", description="What becomes of a canary that this rollout created and rolled back."
    )
    golden_set: Examples | ExamplesFile | None = Field(
        None,
        description="Labelled requests that are sent to both versions instead of moving traffic by steps: examples, or "
        "the path of a JSON Lines file of them where the flow runs. None: the clients' own requests are judged.",
    )
    shadow: ShadowPlan | None = Field(
        None,
        title="Shadow",
        description="Send copies of some requests to the canary while the steps last, and judge the agreement.",
    )
    gates: tuple[WebhookGate, ...] = Field(
        (), description="Webhooks that have to say yes before traffic moves forward; the canary is watched meanwhile."
    )
    poll_seconds: float = Field(1.0, gt=0, le=60, description="Seconds between looks at the measurements.")
    judge: JudgePlan = Field(
        default_factory=JudgePlan, title="Judge", description="How sure to be, and what to tolerate."
    )

    @property
    def full_weight(self) -> float:
        """Percent of the requests that the canary gets after the last step."""
        return round(100.0 - self.hold_back, 2) if self.bake_seconds else 100.0

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps={list(self.steps)}: every step must be larger than the one before")
        if self.golden_set is not None and self.shadow is not None:
            raise ValueError("shadow: a golden set is judged without the clients' requests; choose one of the two")
        if self.steps and len(self.steps) * self.step_seconds > self.deadline_seconds:
            raise ValueError(
                f"deadline_seconds={self.deadline_seconds:g}: {len(self.steps)} steps of {self.step_seconds:g} s "
                f"need at least {len(self.steps) * self.step_seconds:g}"
            )
        return self
