"""What a plan says of the version that is replaced, and what is therefore due later."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_modeldeploy.rollout import CanaryPlan, RolloutRecord
from prefect_modeldeploy.rollout.record import Actor
from prefect_modeldeploy.tasks._formers import note_former
from prefect_modeldeploy.tasks._notes import Former, Notes

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

pytestmark = pytest.mark.usefixtures("prefect_server")


def record_of(endpoint: str, id: str = "r1", stable: str | None = "m-1", **plan: Any) -> RolloutRecord:
    return RolloutRecord(
        id=id,
        provider="local",
        model="m",
        endpoint=endpoint,
        who=Actor(name="a person"),
        plan=CanaryPlan(**plan),
        stable=stable,
        canary="m-2",
        started_at=NOW,
    )


@pytest.mark.parametrize(
    ("plan", "zero_at", "delete_at"),
    [
        ({"former": "scale_to_zero", "former_warm_seconds": 3600}, NOW + HOUR, None),
        (
            {"former": "scale_to_zero", "former_warm_seconds": 3600, "former_delete_after_seconds": 86400},
            NOW + HOUR,
            NOW + HOUR + DAY,
        ),
        ({"former": "scale_to_zero", "former_delete_after_seconds": 86400}, None, NOW + DAY),
        ({"former": "delete", "former_warm_seconds": 3600}, None, NOW + HOUR),
    ],
)
async def test_each_delay_counts_from_the_end_of_the_one_before(
    plan: dict[str, Any], zero_at: datetime | None, delete_at: datetime | None
) -> None:
    await note_former(record_of("delays", **plan), NOW)
    due = Former(deployment="m-1", rollout="r1", zero_at=zero_at, delete_at=delete_at)
    assert await Notes(Former, "delays").all() == {"m-1": due}
    await Notes(Former, "delays").drop("m-1")


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"former": "delete"},
        {"former": "keep", "former_warm_seconds": 3600, "former_delete_after_seconds": 3600},
    ],
)
async def test_what_is_done_at_once_or_never_is_not_due_any_more(plan: dict[str, Any]) -> None:
    notes = Notes(Former, "at-once")
    await notes.put(Former(deployment="m-1", rollout="older", delete_at=NOW))
    await note_former(record_of("at-once", **plan), NOW)
    assert await notes.all() == {}


async def test_noted_again_after_a_crash_the_delay_does_not_begin_again_but_that_of_another_rollout_does() -> None:
    notes, plan = Notes(Former, "twice"), {"former_warm_seconds": 3600}
    for id, later, expected in (("r1", 0, 1), ("r1", 1, 1), ("r2", 2, 3)):
        await note_former(record_of("twice", id, **plan), NOW + later * HOUR)
        assert (await notes.all())["m-1"].zero_at == NOW + expected * HOUR


async def test_what_serves_now_is_no_former_version() -> None:
    notes = Notes(Former, "serves")
    await notes.put(Former(deployment="m-2", rollout="older", delete_at=NOW))
    await note_former(record_of("serves", stable=None), NOW)
    assert await notes.all() == {}
