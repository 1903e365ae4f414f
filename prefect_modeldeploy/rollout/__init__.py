"""Rollouts: plan, record and state machine. Decides what comes next; never calls the network."""

from prefect_modeldeploy.rollout.machine import (
    Effect,
    abort,
    by_swap,
    expired,
    finish,
    in_flight,
    judged,
    next_effect,
    reopened,
    step_over,
)
from prefect_modeldeploy.rollout.plan import CanaryPlan, JudgePlan, ShadowPlan
from prefect_modeldeploy.rollout.record import Actor, Outcome, Phase, RolloutRecord, StepResult
from prefect_modeldeploy.rollout.timeline import ArmPoint, Point

__all__ = [
    "Actor",
    "ArmPoint",
    "CanaryPlan",
    "Effect",
    "JudgePlan",
    "Outcome",
    "Phase",
    "Point",
    "RolloutRecord",
    "ShadowPlan",
    "StepResult",
    "abort",
    "by_swap",
    "expired",
    "finish",
    "in_flight",
    "judged",
    "next_effect",
    "reopened",
    "step_over",
]
