"""Rollouts as they really look: Poisson traffic, failures, latency tails and growing evidence, from a seed."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from prefect_modeldeploy.rollout.plan import CanaryPlan
from prefect_modeldeploy.rollout.record import Actor, Phase, RolloutRecord, StepResult
from prefect_modeldeploy.rollout.timeline import ArmPoint, Point

START = datetime(2026, 3, 29, 8, 30, tzinfo=UTC)
METRICS = ("failures", "latency_p50", "latency_p99")


@dataclass
class Traffic:
    """What clients send, and how the canary behaves."""

    per_second: float = 200.0
    stable_errors: float = 0.004
    canary_errors: float = 0.004
    slowdown: float = 1.0
    poll: float = 1.0
    seed: int = 7


def record(**changes: Any) -> RolloutRecord:
    fields: dict[str, Any] = {
        "id": "digits-20260329-083000-a1b2c3",
        "provider": "local",
        "model": "digits",
        "endpoint": "digits",
        "who": Actor(name="mira@example.org", declared=False),
        "why": "retrained on the data of March",
        "plan": CanaryPlan(steps=(5, 25, 50), step_seconds=30),
        "stable": "digits-1",
        "canary": "digits-2",
        "stable_version": "1",
        "canary_version": "2",
        "started_at": START,
    }
    return RolloutRecord(**fields | changes)


def ended(rollout: RolloutRecord, outcome: str, seconds: float, **changes: Any) -> RolloutRecord:
    end = {"outcome": outcome, "phase": Phase.ENDED, "ended_at": START + timedelta(seconds=seconds)}
    return rollout.model_copy(update=end | changes)


def _arm(rng: np.random.Generator, mean: float, errors: float, slowdown: float) -> ArmPoint:
    n = int(rng.poisson(mean))
    if not n:
        return ArmPoint(requests=0, failures=0)
    latencies = rng.lognormal(math.log(0.012 * slowdown), 0.5, n)
    return ArmPoint(
        requests=n,
        failures=int(rng.binomial(n, errors)),
        p50=float(np.quantile(latencies, 0.5)),
        p99=float(np.quantile(latencies, 0.99)),
    )


def windows(
    plan: CanaryPlan, traffic: Traffic, *, start: float = 2.0, until: float = math.inf, judged: bool = True
) -> list[Point]:
    """The timeline of all steps, if `judged` cut at evidence of harm over 20; the last step lasts `until` then."""
    rng = np.random.default_rng(traffic.seed)
    points: list[Point] = []
    harm, safe, at = dict.fromkeys(METRICS, 0.0), dict.fromkeys(METRICS, 0.0), start
    for weight in plan.steps:
        over = until if weight == plan.steps[-1] and until < math.inf else at + plan.step_seconds
        while at < over:
            at += traffic.poll
            sent = traffic.per_second * traffic.poll
            canary = _arm(rng, sent * weight / 100, traffic.canary_errors, traffic.slowdown)
            stable = _arm(rng, sent * (1 - weight / 100), traffic.stable_errors, 1.0)
            for name in METRICS:
                worse = traffic.canary_errors - traffic.stable_errors if name == "failures" else traffic.slowdown - 1
                drift = canary.requests * (0.35 * worse - 0.0015)
                harm[name] += drift + rng.normal(0, 0.15)
                safe[name] += canary.requests * (0.004 - 0.35 * worse) + rng.normal(0, 0.1)
            points.append(
                Point(
                    at=at,
                    seconds=traffic.poll,
                    weight=weight,
                    canary=canary,
                    stable=stable,
                    harm=dict(harm),
                    safe=dict(safe),
                )
            )
            if judged and np.mean(np.exp(np.minimum(list(harm.values()), 50))) >= 20:
                return points
    return points


def looks(plan: CanaryPlan, points: list[Point], last: str, reason: str, decided_by: str | None) -> tuple[Any, ...]:
    """One result a step, as the judge would have given it."""
    results = []
    reached = [weight for weight in plan.steps if any(p.weight == weight for p in points)]
    for index, weight in enumerate(reached):
        mine = [p for p in points if p.weight == weight]
        final = index == len(reached) - 1
        results.append(
            StepResult(
                step=index,
                weight=weight,
                seconds=sum(p.seconds for p in mine),
                canary_requests=sum(p.canary.requests for p in mine),
                canary_failures=sum(p.canary.failures for p in mine),
                stable_requests=sum(p.stable.requests for p in mine),
                stable_failures=sum(p.stable.failures for p in mine),
                decision=last if final else "continue",
                reason=reason if final else "not enough evidence either way yet",
                harm=dict(mine[-1].harm),
                safe=dict(mine[-1].safe),
                decided_by=decided_by if final else "failures",
            )
        )
    return tuple(results)


Rollout = tuple[RolloutRecord, list[Point]]


def promoted() -> Rollout:
    plan = CanaryPlan(steps=(5, 25, 50), step_seconds=30)
    points = windows(plan, Traffic())
    reason = "every metric shows that the canary is no worse than the margin"
    steps = looks(plan, points, "promote", reason, None)
    return ended(record(plan=plan), "promoted", 94.2, steps=steps, reason=reason), points


def rolled_back() -> Rollout:
    plan = CanaryPlan(steps=(5, 25, 50), step_seconds=30)
    points = windows(plan, Traffic(canary_errors=0.08))
    reason = "failures: 8.1 % of the canary's requests against 0.4 % of the stable version's"
    rollout = record(plan=plan, canary="digits-3", canary_version="3", why="faster features", who=Actor(name="ci"))
    steps = looks(plan, points, "roll_back", reason, "failures")
    changes = {"steps": steps, "reason": reason, "decided_by": "failures"}
    return ended(rollout, "rolled_back", points[-1].at + 0.8, **changes), points


def held() -> Rollout:
    """An hour at two requests a second: too few to know."""
    plan = CanaryPlan(steps=(10, 20), step_seconds=600, deadline_seconds=3600, on_undecided="hold", poll_seconds=10)
    points = windows(plan, Traffic(per_second=2, stable_errors=0.01, canary_errors=0.015, poll=10), until=3600)
    quiet = [
        p.model_copy(update={"canary": ArmPoint(requests=0, failures=0), "stable": ArmPoint(requests=0, failures=0)})
        if 400 < p.at < 900
        else p
        for p in points
    ]
    steps = looks(plan, quiet, "continue", "the deadline came before the evidence", None)
    reason = "no verdict within 1 h: a person must decide"
    return ended(record(plan=plan), "held", 3602, steps=steps, reason=reason), quiet


def silent() -> Rollout:
    """Nobody asked anything."""
    plan = CanaryPlan(steps=(5, 25), step_seconds=30, deadline_seconds=90)
    points = [p.model_copy(update={"harm": {}, "safe": {}}) for p in windows(plan, Traffic(per_second=0), until=90)]
    steps = looks(plan, points, "roll_back", "no requests: nothing is known about the canary", None)
    reason = "no requests until the deadline, and the plan says to go back then"
    return ended(record(plan=plan), "rolled_back", 91.0, steps=steps, reason=reason), points


def single_point() -> Rollout:
    plan = CanaryPlan(steps=(5,), step_seconds=1)
    points = windows(plan, Traffic(canary_errors=0.9))[:1]
    steps = looks(plan, points, "roll_back", "failures", "failures")
    changes = {"steps": steps, "reason": "failures", "decided_by": "failures"}
    return ended(record(plan=plan), "rolled_back", 3.4, **changes), points


def without_steps() -> Rollout:
    plan = CanaryPlan(steps=())
    return ended(record(plan=plan, kind="promotion", why=""), "promoted", 1.3, stable=None, stable_version=None), []


def long() -> Rollout:
    """A day, looked at each half minute, with eight metrics and evidence beyond every scale."""
    plan = CanaryPlan(steps=(1, 5, 10, 25, 50), step_seconds=17_280, deadline_seconds=90_000)
    points = windows(plan, Traffic(per_second=5, poll=30, canary_errors=0.0041), judged=False)
    rng = np.random.default_rng(3)
    walks = np.cumsum(rng.normal(0.01, 0.4, (len(points), 8)), axis=0)
    names = [f"quality_of_answers_{i}" for i in range(8)]
    many = [
        p.model_copy(
            update={
                "harm": {n: float(-w) for n, w in zip(names, walk, strict=True)},
                "safe": {n: float(w) * 50 for n, w in zip(names, walk, strict=True)},
            }
        )
        for p, walk in zip(points, walks, strict=True)
    ]
    steps = looks(plan, many, "promote", "every metric is safe", None)
    return ended(record(plan=plan), "promoted", many[-1].at + 5, steps=steps, reason="every metric is safe"), many


ALL = {
    "promoted": promoted,
    "rolled_back": rolled_back,
    "held": held,
    "silent": silent,
    "single_point": single_point,
    "without_steps": without_steps,
    "long": long,
}

NAMES = [name if name != "long" else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
"""For `parametrize`."""
