"""How a rollout would go at the traffic of now: its own judge and state machine, played with made-up windows.

The windows hold what is to be expected, neither lucky nor unlucky, so the times are about medians. Deterministic: the
same plan and the same traffic give the same forecast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.measurements import RESOLUTION, Arm, Histogram, Quality, Window
from prefect_modeldeploy.rollout.judging import judge_of, step_result
from prefect_modeldeploy.rollout.machine import Effect, finish, judged, next_effect, step_over
from prefect_modeldeploy.rollout.plan import CanaryPlan
from prefect_modeldeploy.rollout.record import Actor, Phase, RolloutRecord

SLOWER = 1.5
"""The slowness that is tried, as a factor, where latency is judged."""

_PLAYED = frozenset({Effect.SHIFT, Effect.OBSERVE, Effect.APPROVE, Effect.FILL, Effect.BAKE})
_FINER = 0.02
"""A window lasts this part of the time since the start, so that times are about as exact, and windows stay few."""
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Usual:
    """What the stable version experiences now.

    Args:
        requests: Requests to the endpoint.
        failures: Those of them that failed.
        seconds: In so much time.
        latency: Their latencies; None if unknown.
        history: The same in windows, in order, for the judge.
    """

    requests: int
    failures: int
    seconds: float
    latency: Histogram | None = None
    history: Sequence[Arm] = ()

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def failure_rate(self) -> float:
        """Share of the requests that fail, as a fraction."""
        return self.failures / self.requests if self.requests else 0.0


class Forecast(BaseModel):
    """How the rollout of a canary of a certain kind would end."""

    model_config = ConfigDict(frozen=True)

    canary: str = Field(description="How the canary behaves.")
    outcome: Literal["promoted", "rolled_back", "undecided"]
    seconds: float = Field(description="From the first traffic until then; the bake is part of a promotion.")
    weight: float = Field(description="Percent of the requests that the canary gets at that time.")
    canary_requests: int = Field(description="Requests that it has answered by then.")


def forecasts(plan: CanaryPlan, usual: Usual) -> tuple[Forecast, ...]:
    """Play the plan with a canary that is as good as the stable version, and with some that are worse."""
    kinds = [_Kind("as good as stable")]
    for points in sorted({plan.judge.margin, 0.05, 0.20}):
        if usual.failure_rate + points <= 1:
            kinds.append(_Kind(f"{100 * points:g} points more of its requests fail", failures=points))
    if plan.judge.latency and usual.latency is not None and usual.latency.count:
        kinds.append(_Kind(f"takes {SLOWER:g} times as long", slower=SLOWER))
    return tuple(_play(plan, usual, kind) for kind in kinds)


@dataclass(frozen=True)
class _Kind:
    name: str
    failures: float = 0.0
    slower: float = 1.0


def _play(plan: CanaryPlan, usual: Usual, kind: _Kind) -> Forecast:
    start = datetime(2000, 1, 1, tzinfo=UTC)
    record = RolloutRecord(
        id="forecast",
        provider="",
        model="",
        endpoint="",
        who=Actor(name=""),
        plan=plan,
        stable="stable",
        canary="canary",
        started_at=start,
        phase=Phase.ATTACHED,
    )
    traffic, now, weight = _Traffic(usual, kind), start, 0.0
    while (effect := next_effect(record)) in _PLAYED and not _left_open(record):
        weight = record.weight
        if effect is Effect.OBSERVE or (effect is Effect.BAKE and plan.bake_seconds):
            record, now = _observe(record, traffic, usual, now)
        else:
            record = finish(record, effect, now)
    decision = record.steps[-1].decision if record.steps else "promote"
    rolled_back = record.phase is Phase.ROLLING_BACK and decision == "roll_back"
    proven = record.phase in (Phase.BAKED, Phase.PROMOTED)
    return Forecast(
        canary=kind.name,
        outcome="rolled_back" if rolled_back else "promoted" if proven else "undecided",
        seconds=(now - start).total_seconds(),
        weight=weight,
        canary_requests=sum(step.canary_requests for step in record.steps),
    )


def _left_open(record: RolloutRecord) -> bool:
    """The deadline has passed without a verdict, and a person would be asked."""
    return record.phase is Phase.JUDGED and bool(record.steps) and record.steps[-1].decision != "promote"


def _observe(record: RolloutRecord, traffic: "_Traffic", usual: Usual, now: datetime) -> tuple[RolloutRecord, datetime]:
    judge, seen = judge_of(record, usual.history), list[Window]()
    verdict, share = judge.verdict(), record.weight / 100
    assert record.step_started_at is not None, "a step is observed after its shift"
    lasts = record.plan.bake_seconds if record.phase is Phase.FULL else record.plan.step_seconds
    ends = record.step_started_at + timedelta(seconds=lasts)
    while not step_over(record, verdict.decision, now):
        seconds = max(record.plan.poll_seconds, _FINER * (now - record.started_at).total_seconds())
        if now < ends:
            seconds = min(seconds, (ends - now).total_seconds())
        window = traffic.window(seconds, share, record)
        if record.judged_from is None or now >= record.judged_from:
            verdict = judge.observe(window)
            seen.append(window)
        now += timedelta(seconds=seconds)
    after = record.model_copy(update={"judge_state": judge.state()})
    return judged(after, step_result(record, verdict, seen, now), now), now


@dataclass
class _Traffic:
    """Windows of exactly what is expected: fractions of a request are carried over."""

    usual: Usual
    kind: _Kind
    windows: int = 0
    expected: dict[str, float] = field(default_factory=dict)

    def window(self, seconds: float, share: float, record: RolloutRecord) -> Window:
        """The next window."""
        self.windows += 1
        rate = self.usual.failure_rate
        per_second = self.usual.per_second * seconds
        copied = record.plan.shadow.share / 100 if record.plan.shadow else 0.0
        copies = self._whole("copies", per_second * (1 - share) * copied)
        return Window(
            id=f"forecast-{self.windows}",
            canary=self._arm("canary", per_second * share, rate + self.kind.failures, self.kind.slower, copies),
            baseline=self._arm("stable", per_second * (1 - share), rate),
            seconds=seconds,
            share=share,
        )

    def _arm(self, name: str, requests: float, rate: float, slower: float = 1.0, copies: int = 0) -> Arm:
        count = self._whole(name, requests)
        failures = min(count, self._whole(f"{name} failures", count * rate))
        quality = Quality(compared=copies, agreed=copies) if copies else None
        return Arm(count, failures, self._latency(count, slower), quality)

    def _whole(self, what: str, more: float) -> int:
        """The whole part of what has come up to now, less what was counted before."""
        before = self.expected.get(what, 0.5)
        self.expected[what] = before + more
        return math.floor(before + more) - math.floor(before)

    def _latency(self, count: int, slower: float) -> Histogram | None:
        """So many latencies, evenly from the whole of the usual ones; over the windows from every part of them."""
        usual = self.usual.latency
        if usual is None or not usual.count:
            return None
        moved, total = round(math.log(slower) / math.log(RESOLUTION)), usual.count
        offset = (self.windows * _GOLDEN) % 1.0
        buckets, below, so_far = dict[int, int](), math.floor(offset), 0
        for bucket in sorted(usual.buckets):
            so_far += usual.buckets[bucket]
            upto = math.floor(count * so_far / total + offset)
            if upto > below:
                buckets[bucket + moved] = upto - below
            below = upto
        return Histogram(buckets)
