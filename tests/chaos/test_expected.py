"""The harness's own eyes: an outcome that is not right is seen, so is whatever a rollout leaves behind."""

from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_modeldeploy import CanaryPlan
from prefect_modeldeploy.deployments import Deployment, DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.rollout.record import Actor
from tests.chaos.looks import left, too_many
from tests.chaos.stories import STORIES


@pytest.mark.parametrize(
    ("story", "point", "how", "right"),
    [
        ("canary", "shift:after", "kill", "promoted"),  # it goes on
        ("canary", "observe:after", "lost answer", "promoted"),
        ("canary", "observe:after", "exception", "rolled_back"),
        ("canary", "fill:after", "sigterm", "rolled_back"),  # an abort wins
        ("canary", "promote:before", "ui cancel", "rolled_back"),
        ("canary", "promote:before", "exception", "promoted"),  # what is proven keeps serving
        ("canary", "promote:saved", "sigterm", "promoted or rolled_back"),
        ("canary", "retire_former:before", "sigterm", "promoted"),  # too late
        ("broken canary", "restore:after", "kill", "rolled_back"),
        ("native baseten", "promote:after", "exception", "rolled_back"),  # it calls its promotion off
        ("native scale", "hand_over:before", "sigterm", "promoted"),  # nobody else can
        ("native way back scale", "clear:after", "exception", "rolled_back"),
        ("golden set", "observe:after", "kill", "rolled_back"),  # nobody has the examples any more
        ("golden set", "observe:after", "lost answer", "promoted"),
        ("golden set", "observe:saved", "kill", "promoted"),  # nobody needs them any more
        ("lost", "take over:after", "sigterm", "promoted"),  # it was not driven yet
        ("native refused scale", "hand_over:after", "kill", "rolled_back"),
        ("evening local", "let go:after", "kill", ""),  # nothing is rolled out
    ],
)
def test_each_accident_has_an_outcome_that_is_right(story: str, point: str, how: str, right: str) -> None:
    assert " or ".join(sorted(STORIES[story].outcomes(point, how))) == right


def _deployment(id: str, status: DeploymentStatus = DeploymentStatus.READY, name: str = "") -> Deployment:
    return Deployment(provider="x", id=id, name=name or id, model_id="m", status=status, provider_status="")


def _record(outcome: str, **plan: Any) -> RolloutRecord:
    return RolloutRecord.model_validate(
        {
            "id": "1",
            "provider": "x",
            "model": "m",
            "endpoint": "e",
            "who": Actor(name="ada"),
            "plan": CanaryPlan(**plan),
            "spec": DeploymentSpec(name="v2", model="m"),
            "stable": "v1",
            "canary": "v2",
            "started_at": datetime.now(UTC),
            "outcome": outcome,
        }
    )


@pytest.mark.parametrize(
    ("outcome", "plan", "now", "wrong"),
    [
        ("promoted", {"former": "delete"}, {"v2": "READY"}, []),
        ("promoted", {"former": "delete"}, {"v1": "READY", "v2": "READY"}, ["v1 is READY, and the plan says: delete"]),
        ("promoted", {"former": "keep"}, {"v2": "READY"}, ["v1 is gone, and the plan says: keep"]),
        ("promoted", {}, {"v1": "SCALED_TO_ZERO", "v2": "READY"}, []),
        ("promoted", {}, {"v1": "READY", "v2": "READY"}, ["v1 is READY, and the plan says: scale_to_zero"]),
        (
            "promoted",
            {"former": "delete"},
            {"v2": "READY", "stray": "READY"},
            ["stray is new, and nobody asked for it"],
        ),
        ("rolled_back", {}, {"v1": "READY"}, []),
        ("rolled_back", {"failed_canary": "keep"}, {"v1": "READY", "v2": "READY"}, []),
        ("rolled_back", {}, {"v1": "READY", "v2": "READY"}, ["v2 is READY, and the plan says: delete"]),
        ("rolled_back", {"failed_canary": "scale_to_zero"}, {"v1": "READY", "v2": "SCALED_TO_ZERO"}, []),
    ],
)
def test_what_a_rollout_leaves_is_held_against_its_plan(
    outcome: str, plan: dict[str, Any], now: dict[str, str], wrong: list[str]
) -> None:
    there = {id: _deployment(id, DeploymentStatus(status)) for id, status in now.items()}
    assert left(_record(outcome, **plan), {"v1": _deployment("v1")}, there) == wrong


def test_a_creation_that_was_done_twice_is_seen() -> None:
    twice = {id: _deployment(id, name="v2") for id in ("v2", "other")}
    [wrong, *_] = left(_record("promoted", former="keep"), {"v1": _deployment("v1")}, twice | {"v1": _deployment("v1")})
    assert wrong.startswith("created 2 times")


def test_a_creation_that_was_done_twice_is_seen_though_one_was_deleted() -> None:
    record = _record("promoted")
    assert too_many(1, record) == []
    assert too_many(2, record) == ["2 were really created, and 1 asked for"]
    assert too_many(1, record.model_copy(update={"spec": None})) == ["1 were really created, and 0 asked for"]
