"""The serving node dies in the middle of a rollout: clients notice nothing, and the rollout goes on."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from prefect_modeldeploy import canary_rollout
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.target import router_of
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


async def test_kill_9_of_the_node_loses_no_request_no_evidence_and_no_rollout(site: Site, home: Path) -> None:
    plan = QUICK.model_copy(update={"step_seconds": 3.0})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(site.target, site.spec("2"), plan))
        await eventually(lambda: answers.by_arm["canary"] > 20)
        before = Home(home).read_node()
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)
        record = await running
        after = Home(home).read_node()
        served = answers.count
        await eventually(lambda: answers.count > served + 50)
    assert record.outcome == "promoted", record.reason
    assert after is not None
    assert after.pid != before.pid
    assert after.gateway_url == before.gateway_url
    assert not [failure for failure in answers.failures if failure != "status 500"]
    # Every answer that a client got is in exactly one window: before the kill, during it and after it.
    async with router_of(site.target) as (router, name):
        windows, _ = await router.windows(name)
    counted = sum(arm.requests + arm.excluded.total() for window in windows for arm in window.arms.values())
    assert counted == answers.count + len(answers.failures)
