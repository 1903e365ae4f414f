"""The audit as it is read afterwards, by whoever wants to know who did what, when and why."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import get_current_settings

from prefect_modeldeploy import Approval, canary_rollout, orders, promote_to_production
from prefect_modeldeploy.errors import InvalidInput, RolloutError
from prefect_modeldeploy.rollout import RolloutRecord, StepResult
from prefect_modeldeploy.tasks._identity import this_user
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import hosted

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


def in_order(entries: list[dict[str, Any]], record: RolloutRecord) -> list[dict[str, Any]]:
    """What was kept of a rollout, entry by entry; every one says whose rollout it was, and when."""
    times = [datetime.fromisoformat(entry["at"]) for entry in entries]
    assert times == sorted(times)
    assert record.started_at <= times[0]
    assert {entry["who"] for entry in entries} == {record.who.name}
    assert {entry["event"]["rollout"] for entry in entries} == {record.id}
    return [entry["event"] for entry in entries]


async def test_the_gateway_tells_the_whole_of_a_rollout(site: Site) -> None:
    approval, plan = Approval(before=("promotion",), timeout_seconds=200), QUICK.model_copy(update={"steps": (50,)})
    async with await site.load() as answers:
        await site.history(answers)
        rollout = canary_rollout(site.target, site.spec("2"), plan, approval=approval, note="fewer false alarms")
        running = asyncio.ensure_future(rollout)

        async def is_answered() -> bool:
            assert not running.done(), running.result()
            try:
                await orders.answer(site.target.endpoint, "promote", "looks good", "ada")
            except (RolloutError, InvalidInput):  # nobody is asked as yet
                return False
            return True

        await eventually(is_answered, seconds=120)
        record = await asyncio.wait_for(running, 120)
    assert record.outcome == "promoted", record.reason
    events = in_order(await site.audit(), record)

    assert [event["effect"] for event in events] == [
        "start",
        "claim",
        "deploy",
        "wait_ready",
        "attach",
        "shift",
        *["observe"] * len(record.steps),
        "approve",
        "fill",
        "bake",
        "promote",
        "retire_former",
        "end",
    ]
    first, weights = events[0], [event["weight"] for event in events]
    assert (first["who"], first["why"]) == (record.who.model_dump(), "fewer false alarms")
    assert first["plan"]["steps"] == [50]
    assert (first["stable"], first["canary"]) == (f"{site.target.model}-1", f"{site.target.model}-2")
    assert [first["driver"]["pid"]] == [record.driver and record.driver.pid]
    assert weights == sorted(weights), "traffic never went back"
    assert {0.0, 50.0, 100.0} <= set(weights)
    verdicts = [StepResult.model_validate(event["verdict"]) for event in events if "verdict" in event]
    assert tuple(verdicts) == record.steps
    [approved] = [event for event in events if "answer" in event]
    assert (approved["effect"], approved["answer"]["gate"]) == ("approve", "promotion")
    assert (approved["answer"]["who"]["name"], approved["answer"]["comment"]) == ("ada", "looks good")
    assert (events[-1]["phase"], events[-1]["outcome"]) == ("ENDED", "promoted")


async def test_where_no_gateway_is_involved_it_is_files_in_prefects_result_storage(tmp_path: Path) -> None:
    async with hosted("scale", tmp_path) as site:
        record = await promote_to_production(site.target, site.candidate, mode="native", note="fewer false alarms")
    storage = get_current_settings().results.local_storage_path
    files = sorted((storage / "modeldeploy-audit" / "scale" / site.target.endpoint).glob("*.json"))
    events = in_order([json.loads(file.read_text()) for file in files], record)
    assert [event["effect"] for event in events] == [
        *("start", "claim", "deploy", "wait_ready", "attach", "approve", "fill", "bake", "clear", "hand_over"),
        *("promote", "retire_former", "end"),
    ]
    assert (events[0]["who"]["name"], events[0]["why"]) == (this_user(), "fewer false alarms")
    assert events[0]["plan"]["promote"] == "native"
    assert (events[-1]["canary"], events[-1]["outcome"]) == (record.serving, "promoted")
