"""One rollout an endpoint, driven by one process; when that is gone another takes over for good."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from prefect_modeldeploy import DeploymentTarget, LocalServing, canary_rollout, orders, reconcile_rollouts, roll_back
from prefect_modeldeploy.errors import StaleEpoch
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._start import take_over
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint, aset_traffic
from tests.chaos.accidents import Case
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.rollout.test_machine import record
from tests.traffic.load import Answers

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


@pytest.mark.slow
async def test_a_driver_that_sleeps_is_replaced_and_changes_nothing_when_it_wakes(site: Site, tmp_path: Path) -> None:
    """Stopped between doing the shift and saving it; reconcile brings the rollout to its end; then it wakes."""
    async with await site.load() as answers:
        await site.history(answers)
        sleeper = start(site, tmp_path, "shift:after", "stop")
        try:
            await eventually(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_STOPPED, seconds=120)
            [record] = await reconcile_rollouts([site.target])
            assert record.outcome == "promoted", record.reason
            before = await site.endpoint()
            sleeper.send_signal(signal.SIGCONT)
            said, _ = await asyncio.to_thread(sleeper.communicate, timeout=120)
        finally:
            sleeper.kill()
    assert sleeper.returncode != 0
    assert "StaleEpoch" in said
    async with get_client() as client:
        slept = (await client.read_flow_run(UUID(record.id))).state
    assert slept is not None
    assert slept.is_cancelled(), "nothing has failed"
    assert slept.message is not None
    assert slept.message.startswith(f"{record.endpoint} was taken over by the flow run resume-rollout/")
    assert slept.message.endswith(record.reason)
    assert await site.endpoint() == before
    after = await _journal.load(site.target.endpoint)
    assert after is not None
    assert (after.phase, after.outcome, after.id) == (Phase.ENDED, "promoted", record.id)
    assert set(answers.failures) <= {"status 500"}


@pytest.mark.slow
async def test_what_a_sleeper_creates_when_its_rollout_has_turned_back_is_let_go_of(site: Site, tmp_path: Path) -> None:
    """Stopped just before it creates the canary: whoever turns its rollout back finds nothing to let go of."""
    sleeper = start(site, tmp_path, "deploy:before", "stop", on_lost="roll_back")
    try:
        await eventually(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_STOPPED, seconds=120)
        [record] = await reconcile_rollouts([site.target])
        assert record.outcome == "rolled_back", record.reason
        sleeper.send_signal(signal.SIGCONT)
        said, _ = await asyncio.to_thread(sleeper.communicate, timeout=120)
    finally:
        sleeper.kill()
    assert "create-deployment" in said, "it was created"
    assert "StaleEpoch" in said
    assert f"{site.target.model}-2" not in await site.deployments()


@pytest.mark.slow
async def test_a_plan_can_say_that_a_lost_rollout_is_rolled_back(site: Site, tmp_path: Path) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        killed = start(site, tmp_path, "shift:saved", "kill", on_lost="roll_back")
        await asyncio.to_thread(killed.communicate, timeout=120)
        [record] = await reconcile_rollouts([site.target])
    assert (record.outcome, record.decided_by) == ("rolled_back", "reconcile")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    assert await reconcile_rollouts([site.target]) == []


@pytest.mark.slow
async def test_weights_that_were_changed_while_nobody_drove_a_rollout_are_set_again(site: Site, tmp_path: Path) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        killed = start(site, tmp_path, "shift:saved", "kill", step_seconds=120.0, deadline_seconds=600.0)
        await asyncio.to_thread(killed.communicate, timeout=120)
        split = await site.arms()
        await aset_traffic(site.target, {"stable": 100, "canary": 0})
        reconcile = asyncio.ensure_future(reconcile_rollouts([site.target]))

        async def again() -> bool:
            return await site.arms() == split

        await eventually(again, seconds=60)
        await orders.order(site.target.endpoint, "abort")
        await asyncio.wait_for(reconcile, 60)


@pytest.mark.slow
async def test_a_reconcile_that_is_replaced_in_its_turn_has_not_failed(site: Site, tmp_path: Path) -> None:
    async with await site.load() as answers, reconciling(site, tmp_path, answers) as (reconcile, record):
        back = await roll_back(site.target)
        assert back.outcome == "rolled_back", back.reason
        assert await asyncio.wait_for(reconcile, 60) == [], "it has ended nothing, and nothing is wrong"
    assert record.driver is not None
    async with get_client() as client:
        replaced = (await client.read_flow_run(UUID(record.driver.flow_run))).state
    assert replaced is not None
    assert replaced.is_cancelled(), replaced
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_a_reconcile_says_so_when_its_endpoint_was_claimed_by_none_of_our_runs(
    site: Site, tmp_path: Path
) -> None:
    async with await site.load() as answers, reconciling(site, tmp_path, answers) as (reconcile, _):
        await aclaim_endpoint(site.target)
        with pytest.raises(StaleEpoch):
            await asyncio.wait_for(reconcile, 60)


@asynccontextmanager
async def reconciling(
    site: Site, directory: Path, answers: Answers
) -> AsyncIterator[tuple["asyncio.Future[list[RolloutRecord]]", RolloutRecord]]:
    """A reconcile that has gone on with a rollout whose process was killed, and the record as it has it."""
    await site.history(answers)
    killed = start(site, directory, "shift:saved", "kill", step_seconds=120.0, deadline_seconds=600.0)
    await asyncio.to_thread(killed.communicate, timeout=120)
    before = await _journal.load(site.target.endpoint)
    assert before is not None
    reconcile = asyncio.ensure_future(reconcile_rollouts([site.target]))

    async def taken() -> RolloutRecord | None:
        now = await _journal.load(site.target.endpoint)
        return now if now and now.driver != before.driver and now.phase is Phase.SHIFTED else None

    record = await eventually(taken, seconds=60)
    assert isinstance(record, RolloutRecord)
    try:
        yield reconcile, record
    finally:
        reconcile.cancel()
        await asyncio.wait((reconcile,))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sigterm", "sigterm again", "sigterm in a group", "sigterm in a callback"])
async def test_sigterm_turns_back_wherever_it_strikes(how: str, site: Site, tmp_path: Path) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        struck = start(site, tmp_path, "shift:after", how)
        said, _ = await asyncio.to_thread(struck.communicate, timeout=120)
        assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}, said
    assert struck.returncode != 0
    after = await _journal.load(site.target.endpoint)
    assert after is not None
    assert (after.phase, after.outcome, after.decided_by) == (Phase.ENDED, "rolled_back", "cancellation")
    assert set(answers.failures) <= {"status 500"}


async def test_what_a_driver_saves_in_the_moment_of_its_replacement_replaces_nobody() -> None:
    old = _ownership.taken(record(phase=Phase.SHIFTED, endpoint="saved-late", epoch=1))
    new = _ownership.taken(old.model_copy(update={"epoch": 2}))
    await _journal.save(new)
    await _journal.save(old)
    await _ownership.check(new)
    await _journal.save(new)
    with pytest.raises(StaleEpoch):
        await _ownership.check(old)


async def test_what_a_replaced_driver_saves_after_the_end_opens_nothing_again() -> None:
    old = _ownership.taken(record(phase=Phase.SHIFTED, endpoint="saved-after", epoch=1))
    ended = _ownership.taken(old.model_copy(update={"epoch": 2, "phase": Phase.ENDED, "outcome": "promoted"}))
    await _journal.save(ended)
    await _journal.save(old)
    assert await _journal.latest("saved-after") == ended
    again = old.model_copy(update={"id": "the-next", "started_at": old.started_at + timedelta(hours=1)})
    await _journal.save(again)
    assert await _journal.latest("saved-after") == again, "another rollout"
    taken_up = old.model_copy(update={"epoch": 3})
    await _journal.save(taken_up)
    assert await _journal.latest("saved-after") == taken_up, "one that was held, and goes on"


async def test_where_no_router_refuses_old_epochs_the_record_tells_the_newest_driver(tmp_path: Path) -> None:
    target = DeploymentTarget(credentials=LocalServing(home=tmp_path), model="m", endpoint="no-router")
    old = await _journal.save(_ownership.taken(record(phase=Phase.BAKED, endpoint="no-router", mode="native")))
    new = await take_over(target, old)
    await _journal.save(old)
    await _ownership.check(new)
    await _journal.save(new)
    with pytest.raises(StaleEpoch):
        await _ownership.check(old)
    next_one = new.model_copy(update={"id": "the-next", "started_at": new.started_at + timedelta(hours=1), "epoch": 0})
    await _journal.save(_ownership.taken(next_one))
    with pytest.raises(StaleEpoch):
        await _ownership.check(new)


def start(site: Site, directory: Path, point: str, how: str, **plan: object) -> "subprocess.Popen[str]":
    """A process that rolls version 2 out, and has an accident at a point."""
    arguments = {"target": site.target, "candidate": site.spec("2"), "plan": QUICK.model_copy(update=plan)}
    return strike(Case(canary_rollout, arguments, site.target, point, how, directory / "struck"))


def strike(case: Case) -> "subprocess.Popen[str]":
    """A process that runs a flow, and has an accident."""
    written = case.write(case.marker.with_name("case"))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.victim", str(written)],
        env={**os.environ, "PREFECT_API_URL": get_current_settings().api.url or ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
