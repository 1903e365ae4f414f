"""Between a rollout and its judge: plans become settings, records carry the evidence, verdicts become results.

The judge is deterministic, so the same windows give the same timeline: a report can be made again at any time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from prefect_modeldeploy.analysis import Accuracy, Agreement, Failures, Judge, JudgeSettings, Latency, Metric, Verdict
from prefect_modeldeploy.analysis.comparison import Limits
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.measurements import Arm, Histogram, Quality, Window
from prefect_modeldeploy.rollout.plan import JudgePlan
from prefect_modeldeploy.rollout.record import Phase, RolloutRecord, StepResult
from prefect_modeldeploy.rollout.timeline import ArmPoint, Point

NOTHING = Arm(0, 0)

IN_FLIGHT_SECONDS = 300.0
"""The gateway's windows hold the requests that ended in them, and it gives an answer so long at most by default."""


@dataclass(frozen=True, kw_only=True)
class GoldenFailures(Failures):
    """Failures on a golden set: its margin is not capped for rare failures, nobody has labels by the thousand."""

    def _limits(self, margin: float) -> Limits:
        limits = super()._limits(margin)
        return limits._replace(floor=limits.margin)


@dataclass(frozen=True, kw_only=True)
class GoldenAccuracy(Accuracy):
    """Wrong answers to a golden set, likewise."""

    def _limits(self, margin: float) -> Limits:
        limits = super()._limits(margin)
        return limits._replace(floor=limits.margin)


def settings_of(
    plan: JudgePlan, history: Sequence[Arm] = (), *, golden: bool = False, disagreement: float | None = None
) -> JudgeSettings:
    """What the judge is told.

    Args:
        plan: How sure to be, and what to tolerate.
        history: The stable version's windows before the rollout, in order.
        golden: The windows are of a golden set.
        disagreement: Share of the shadowed requests that both arms may answer differently; None: none is shadowed.
    """
    metrics: list[Metric] = [Failures()]
    if golden:
        metrics = [GoldenFailures(), GoldenAccuracy(margin=plan.accuracy_margin)]
    if disagreement is not None:
        metrics.append(Agreement(margin=disagreement, tolerated=disagreement))
    if plan.latency:
        metrics.append(Latency(factor=plan.latency_tolerance, required=False))
    return JudgeSettings(
        alpha=plan.alpha,
        beta=plan.beta,
        margin=plan.margin,
        min_requests=plan.min_requests,
        metrics=metrics,
        history=history,
        in_flight_seconds=IN_FLIGHT_SECONDS,
    )


def judge_of(record: RolloutRecord, history: Sequence[Arm] = ()) -> Judge:
    """The judge of this rollout, with the evidence that it has so far. The history is only needed before the first."""
    if record.judge_state is None:
        return Judge(settings_for(record, history))
    return Judge.restore(settings_for(record), record.judge_state)


def with_usable_evidence(record: RolloutRecord) -> RolloutRecord:
    """The record, less evidence that this version cannot go on with; its measurements are to be judged again then.

    The rules are the plan's, and it is in the record: they are others only by an upgrade, or the evidence is damaged.
    """
    try:
        judge_of(record)
    except InvalidInput:
        return record.model_copy(update={"judge_state": None})
    return record


def settings_for(record: RolloutRecord, history: Sequence[Arm] = ()) -> JudgeSettings:
    """What the judge of this rollout is told."""
    shadow = record.plan.shadow
    disagreement = shadow.disagreement if shadow else None
    return settings_of(record.plan.judge, history, golden=record.golden_set is not None, disagreement=disagreement)


def fewest_examples(plan: JudgePlan, most: int) -> int | None:
    """How many labelled examples prove a canary safe that answers all of them right, as stable does.

    None: even `most` do not.
    """
    judge, pace = Judge(settings_of(plan, golden=True)), 10
    for asked in range(pace, most + 1, pace):
        arm = Arm(pace, 0, Histogram.from_seconds([0.1] * pace), Quality(pace, pace, pace, pace))
        if judge.observe(Window(f"{asked}", arm, arm, 1.0)).decision == "promote":
            return asked
    return None


def step_result(record: RolloutRecord, verdict: Verdict, seen: Iterable[Window], now: datetime) -> StepResult:
    """What a step came to. `seen` are the windows judged in it."""
    windows = list(seen)
    canary = sum((window.canary for window in windows), NOTHING)
    stable = sum((window.baseline for window in windows), NOTHING)
    started = record.step_started_at or now
    return StepResult(
        step=-1 if record.phase is Phase.FULL else record.step,
        weight=record.weight,
        seconds=(now - started).total_seconds(),
        at=(now - record.started_at).total_seconds(),
        canary_requests=canary.requests,
        canary_failures=canary.failures,
        stable_requests=stable.requests,
        stable_failures=stable.failures,
        decision=verdict.decision,
        reason=verdict.reason,
        harm=dict(verdict.harm),
        safe=dict(verdict.safe),
        decided_by=verdict.decided_by,
        canary_quality=canary.quality,
        stable_quality=stable.quality,
    )


def point_of(window: Window, verdict: Verdict, at: float) -> Point:
    """One window for the plots; `at` is its end, in seconds since the rollout started."""
    return Point(
        at=at,
        seconds=window.seconds,
        weight=100.0 * (window.share or 0.0),
        canary=_arm_point(window.canary),
        stable=_arm_point(window.baseline),
        harm=dict(verdict.harm),
        safe=dict(verdict.safe),
    )


def _arm_point(arm: Arm) -> ArmPoint:
    latency = arm.latency
    return ArmPoint(
        requests=arm.requests,
        failures=arm.failures,
        p50=latency.quantile(0.5) if latency else None,
        p99=latency.quantile(0.99) if latency else None,
    )
