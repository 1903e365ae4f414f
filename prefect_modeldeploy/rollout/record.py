"""The record of a rollout: where it stands, who started it, why, and what came of each step."""

import json
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.measurements import Quality
from prefect_modeldeploy.rollout.plan import Approval, CanaryPlan

SCHEMA_VERSION = 1
"""Raised with what a version that does not know it must not leave out of account. Newer records are refused."""

Outcome = Literal["promoted", "rolled_back", "held"]

Decision = Literal["promote", "promote_fully", "skip", "extend", "roll_back"]
"""What a person may answer at a gate; `answered` in `machine.py` says what each leads to."""

Order = Literal["abort", "skip", "promote-fully"]
"""What a person, or an event `modeldeploy.rollout.<order>`, may tell a rollout that runs. The event's payload may say
`who`, `reason`, and which `rollout`, at which `step`: then no other one obeys."""


class Phase(StrEnum):
    """Where a rollout stands; `machine.py` draws how they follow one another."""

    PLANNED = "PLANNED"
    CLAIMED = "CLAIMED"
    DEPLOYED = "DEPLOYED"
    READY = "READY"
    ATTACHED = "ATTACHED"
    SHIFTED = "SHIFTED"
    JUDGED = "JUDGED"
    APPROVED = "APPROVED"
    FULL = "FULL"
    BAKED = "BAKED"
    CLEARED = "CLEARED"
    HANDED_OVER = "HANDED_OVER"
    PROMOTED = "PROMOTED"
    ROLLING_BACK = "ROLLING_BACK"
    RESTORED = "RESTORED"
    DETACHED = "DETACHED"
    RETIRED = "RETIRED"
    ENDED = "ENDED"


class Actor(BaseModel):
    """Who started it."""

    model_config = ConfigDict(frozen=True)

    name: str
    declared: bool = Field(True, description="True when nobody but the caller vouches for the name.")


_LONGEST, _ORDER = 600, 150


class Driver(BaseModel):
    """The process that does what comes next."""

    model_config = ConfigDict(frozen=True)

    token: str = Field(description="Never the same twice.")
    flow_run: str | None = None
    name: str | None = Field(None, description="Flow and name of its run, for people.")
    host: str
    pid: int
    pids: str = Field("", description="What the pid is of: containers may share the name of their host.")


class Answer(BaseModel):
    """What a person decided at a gate."""

    model_config = ConfigDict(frozen=True)

    gate: str
    decision: Decision
    comment: str = ""
    who: Actor
    at: datetime


class Told(BaseModel):
    """An order that a rollout has obeyed: whose it was, and why."""

    model_config = ConfigDict(frozen=True)

    order: Order
    why: str = ""
    who: Actor
    at: datetime


class StepResult(BaseModel):
    """What one look at the evidence came to, at the end of a step."""

    model_config = ConfigDict(frozen=True)

    step: int = Field(description="Index into the plan's steps; -1 for the bake.")
    weight: float = Field(description="Percent of the requests that the canary got.")
    seconds: float
    at: float | None = Field(None, description="Seconds since the start of the rollout, at the end of the step.")
    canary_requests: int
    canary_failures: int
    stable_requests: int
    stable_failures: int
    decision: Literal["promote", "roll_back", "continue"]
    reason: str
    harm: dict[str, float] = Field(default_factory=dict, description="ln of the evidence of harm, by metric.")
    safe: dict[str, float] = Field(default_factory=dict, description="ln of the evidence of safety, by metric.")
    decided_by: str | None = Field(None, description="The metric that decided.")
    canary_quality: Quality | None = Field(None, description="How good the canary's answers were, if that was seen.")
    stable_quality: Quality | None = Field(None, description="The same of the stable version.")


class RolloutRecord(BaseModel):
    """Everything that is needed to explain a rollout, and to go on with it after a crash.

    `saved()` is the part that fits into a Prefect variable; step results and windows are kept by the gateway.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: Literal["canary", "promotion", "roll_back"] = "canary"
    mode: Literal["swap", "native"] = Field(
        "swap", description="Who moves the traffic: a router of ours, or the provider."
    )
    provider: str
    model: str
    endpoint: str
    environment: str = "production"
    gateway: str = Field("", description="The node or the provider that splits the traffic; empty: nobody knows.")
    places: tuple[str, ...] = Field((), description="Where its deployments can be; none: nobody knows.")
    who: Actor
    why: str = ""
    plan: CanaryPlan
    approval: Approval | None = Field(None, description="When a person is asked.")
    driver: Driver | None = Field(None, description="Who drives it; None: nobody does.")
    asked: tuple[str, ...] = Field((), description="Flow runs that drove it, and may have been suspended meanwhile.")
    notify: tuple[str, ...] = Field((), description="Blocks that are told how it goes.")
    golden_set: str | None = Field(
        None, description="Digest of the labelled requests that it is judged by; they themselves are never kept."
    )
    spec: DeploymentSpec | None = Field(None, description="Set when the rollout creates the canary itself.")
    stable: str | None = Field(None, description="Deployment that served before; None if there was none.")
    canary: str = Field(description="Deployment that is rolled out; the spec's name until it is created.")
    serving: str | None = Field(None, description="What serves after a native promotion; it can be a copy.")
    named: bool = Field(False, description="A native roll-back to a version that was named: the provider promotes it.")
    goal: str | None = Field(
        None, description="Version that a native roll-back returns to, where the provider alone could go too far."
    )
    stable_version: str | None = None
    canary_version: str | None = None
    started_at: datetime
    ended_at: datetime | None = None

    phase: Phase = Phase.PLANNED
    step: int = 0
    epoch: int = 0
    start_cursor: str | None = Field(None, description="Where the measurements of this rollout begin.")
    cursor: str | None = Field(None, description="Up to where they are judged.")
    judge_state: dict[str, Any] | None = None
    step_started_at: datetime | None = None
    judged_from: datetime | None = Field(None, description="When the canary had warmed up; nothing before is judged.")
    extended_seconds: float = Field(0.0, description="What was added to the plan's deadline.")
    held_seconds: float = Field(0.0, description="How long it waited for a person, a webhook or the end of a freeze.")
    held_since: datetime | None = Field(None, description="When the waiting began that lasts still.")
    passed: str = Field("", description="The last gate that a person, or nobody, had to open.")
    answer: Answer | None = Field(None, description="What a person said last; the audit has all of it.")
    told: Told | None = Field(None, description="The last order that it obeyed; the audit has all of them.")
    promoting: bool = Field(False, description="The provider may have been asked for its own promotion.")
    undecided: bool = Field(False, description="The deadline has passed without a verdict, and a person is asked.")
    outcome: Outcome | None = None
    reason: str = ""
    decided_by: str | None = None
    report: str | None = Field(None, description="Path of the HTML report, on the machine that wrote it.")
    steps: tuple[StepResult, ...] = ()

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it goes on."""
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else None

    @property
    def seniority(self) -> tuple[datetime, int]:
        """Greater for a later rollout of the endpoint, and for a later driver of the same one."""
        return self.started_at, self.epoch

    @property
    def weight(self) -> float:
        """Percent of the requests that the canary is meant to have now."""
        match self.phase:
            case Phase.SHIFTED:
                return self.plan.steps[self.step]
            case Phase.FULL | Phase.BAKED:
                return self.plan.full_weight
            case Phase.JUDGED | Phase.APPROVED:
                return self.plan.steps[-1] if self.plan.steps else 0.0
            case Phase.CLEARED | Phase.HANDED_OVER:
                return 100.0
            case Phase.ATTACHED if self.step > 0:
                return self.plan.steps[self.step - 1]
            case _:
                return 100.0 if self.outcome == "promoted" else 0.0

    @property
    def turns_away(self) -> bool:
        """Whether it is about a version that the provider turns away: it alone knows what served before."""
        return self.mode == "native" and self.kind == "roll_back" and not self.named

    @property
    def candidate(self) -> str:
        """What the caller named: the spec's name, or the deployment's id."""
        return self.spec.name if self.spec else self.canary

    def saved(self) -> str:
        """The resumable part, as compact JSON. Words of people and alarms may be long: they are shortened here."""
        changes: dict[str, Any] = {"reason": shortened(self.reason), "why": shortened(self.why)}
        changes["schema_version"] = SCHEMA_VERSION  # though an earlier version began it
        if self.answer is not None:
            changes["answer"] = self.answer.model_copy(update={"comment": shortened(self.answer.comment)})
        if self.told is not None:  # the reason says it as well, where it turns the rollout back
            changes["told"] = self.told.model_copy(update={"why": shortened(self.told.why, _ORDER)})
        return self.model_copy(update=changes).model_dump_json(exclude={"steps"}, exclude_none=True)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """The beginning and the end of what takes more room than so many letters in the JSON of JSON that is saved."""
    kept, short = longest, text
    while _room(short) > longest:
        short = f"{text[: kept * 2 // 3]} ... {text[-(kept * 3 // 10) :]}"
        kept = kept * 9 // 10
    return short


def _room(text: str) -> int:
    return len(json.dumps(json.dumps(text, ensure_ascii=False))) - len(json.dumps(json.dumps("")))
