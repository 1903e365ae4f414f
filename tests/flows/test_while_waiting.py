"""What stops a rollout stops it too while it waits for a person, with the traffic split: stable has all of it again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import Cancelling

from prefect_modeldeploy import canary_rollout, orders, promote_to_production, roll_back
from prefect_modeldeploy.errors import StaleEpoch
from prefect_modeldeploy.rollout import Approval, Phase, RolloutRecord
from prefect_modeldeploy.tasks import _journal
from tests import prefect_server as servers
from tests.chaos import served
from tests.chaos.accidents import Case
from tests.chaos.fault_points import serving
from tests.conftest import eventually
from tests.flows.conftest import MODELS, QUICK, Site
from tests.traffic.load import Answers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

ASKS = Approval(before=("step",), timeout_seconds=240, on_timeout="promote")
"""Whoever is not heard is found out: silence would promote."""

PLAN = QUICK.model_copy(update={"step_seconds": 0.3})


@asynccontextmanager
async def under_load(site: Site) -> AsyncIterator[Answers]:
    async with await site.load(rate=100) as answers:
        await site.history(answers, 100)
        yield answers


async def waits_for_a_person(site: Site, weight: float = PLAN.steps[0]) -> bool:
    """Whether the flow run is paused, while the canary has its share in percent."""
    record = await _journal.load(site.target.endpoint)
    if record is None or record.driver is None or record.weight != weight:
        return False
    async with get_client() as client:
        state = (await client.read_flow_run(UUID(record.driver.flow_run))).state
    return state is not None and state.is_paused()


async def turned_back(site: Site, by: str) -> RolloutRecord:
    """The record of a rollout that has left nothing behind."""
    record = await _journal.load(site.target.endpoint)
    assert record is not None
    assert (record.phase, record.outcome, record.decided_by) == (Phase.ENDED, "rolled_back", by), record.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    assert f"{site.target.model}-2" not in await site.deployments()
    return record


@asynccontextmanager
async def started(
    site: Site, home: Path, approval: Approval = ASKS, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A rollout in a process of its own, which nothing befalls but what a test does."""
    never = home / "struck"
    never.touch()
    arguments = {"target": site.target, "candidate": site.spec("2"), "plan": PLAN, "approval": approval}
    case = Case(canary_rollout, arguments, site.target, "end:saved", "kill", never).write(home / "case")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.victim", str(case)),
        env={**os.environ, "PREFECT_API_URL": get_current_settings().api.url or "", **environment},
    )
    try:
        await eventually(lambda: waits_for_a_person(site), seconds=120)
        yield process
    finally:
        if process.returncode is None:
            process.kill()


@asynccontextmanager
async def asking(
    site: Site, home: Path, approval: Approval = ASKS
) -> AsyncIterator[tuple[servers.Server, asyncio.subprocess.Process]]:
    """A process that asks a person, and the server of its own that it does so with. Its requests are sent once."""
    once = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_API_REQUEST_TIMEOUT": "3"}
    with servers.restartable_server("--no-ui") as server, temporary_settings({PREFECT_API_URL: server.url}):
        await asyncio.to_thread(servers.wait_for, server.url)
        async with started(site, home, approval, **once) as process:
            try:
                yield server, process
            finally:
                server.go_on()


async def test_sigterm_of_its_process(site: Site, tmp_path: Path) -> None:
    async with under_load(site) as answers, started(site, tmp_path) as process:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) != 0
        record = await turned_back(site, "cancellation")
    assert record.answer is None
    assert set(answers.failures) <= {"status 500"}, "the models' own"


async def test_prefects_server_is_killed(site: Site, tmp_path: Path) -> None:
    """Nobody can answer then: the split stays, and the question is put again when the server is back."""
    async with under_load(site) as answers, asking(site, tmp_path) as (server, process):
        server.kill()
        await goes_on_alone(answers)
        server.start()
        await asyncio.to_thread(servers.wait_for, server.url)
        await a_person_answers(site)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert set(answers.failures) <= {"status 500"}, "the models' own"


async def test_prefects_server_stands_still_for_a_while(site: Site, tmp_path: Path) -> None:
    """What it does late is of the question before: it does not take the new one for answered."""
    async with under_load(site) as answers, asking(site, tmp_path) as (server, process):
        for _ in range(2):
            server.stand_still()
            await goes_on_alone(answers)
            server.go_on()
        await a_person_answers(site)
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_nobody_answers_while_prefects_server_stands_still(site: Site, tmp_path: Path) -> None:
    """Silence counts all the same."""
    approval = ASKS.model_copy(update={"timeout_seconds": 15})
    async with under_load(site) as answers, asking(site, tmp_path, approval) as (server, process):
        server.stand_still()
        await goes_on_alone(answers, requests=400)
        server.go_on()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        assert (record.outcome, record.answer and record.answer.who.name) == ("promoted", "nobody"), record.reason


async def goes_on_alone(answers: Answers, requests: int = 100) -> None:
    """Return when the canary has answered so many more requests: about 20 a second."""
    seen = answers.by_arm["canary"]
    await eventually(lambda: answers.by_arm["canary"] > seen + requests)


async def a_person_answers(site: Site) -> None:
    """Have the canary promoted when the question is there again, and the rollout end so."""
    await eventually(lambda: waits_for_a_person(site), seconds=60)
    await orders.answer(site.target.endpoint, "promote_fully")

    async def is_promoted() -> bool:
        record = await _journal.load(site.target.endpoint)
        return record is not None and record.outcome == "promoted"

    await eventually(is_promoted, seconds=60)


async def test_sigterm_while_prefects_server_stands_still(site: Site, tmp_path: Path) -> None:
    async with under_load(site), asking(site, tmp_path) as (server, process):
        server.stand_still()
        process.terminate()

        async def is_back() -> bool:
            return (await site.arms())["stable"] == (f"{site.target.model}-1", 100.0)

        await eventually(is_back, seconds=25)
        server.go_on()
        assert await asyncio.wait_for(process.wait(), 60) != 0
        await turned_back(site, "cancellation")


async def test_a_cancellation_in_the_ui_under_a_runner(site: Site, tmp_path: Path) -> None:
    await site.target.save(site.target.model)
    parameters = {
        "target": site.target.model,
        "candidate": site.spec("2").model_dump(mode="json"),
        "plan": PLAN.model_dump(mode="json"),
        "approval": ASKS.model_dump(mode="json"),
    }
    async with serving(tmp_path), under_load(site) as answers, get_client() as client:
        deployment = await client.read_deployment_by_name(f"canary-rollout/{served.NAME}")
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        async def has_ended() -> bool:
            state = (await client.read_flow_run(run.id)).state
            return state is not None and state.is_final()

        await eventually(lambda: waits_for_a_person(site), seconds=120)
        await client.set_flow_run_state(run.id, Cancelling())
        await eventually(has_ended, seconds=60, every=0.2)
        state = (await client.read_flow_run(run.id)).state
        assert state is not None
        assert state.is_cancelled(), state
        record = await turned_back(site, "cancellation")
    assert (record.answer, "was cancelled" in record.reason) == (None, True), record.reason
    assert set(answers.failures) <= {"status 500"}, "the models' own"


async def test_a_canary_whose_process_dies_and_cannot_come_back(site: Site, tmp_path: Path) -> None:
    """Its files are gone as well. Nobody asks it anything just then, so no judge sees it fail."""
    source = tmp_path / "lost.py"
    source.write_text(
        "import os, pathlib\n"
        "from versions import as_good as predict\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n"
    )
    there = {"source": "lost:predict", "options": {"python_path": [str(tmp_path), str(MODELS)]}}
    candidate = site.spec("2").model_copy(update=there)
    plan = PLAN.model_copy(update={"unready_seconds": 2.0})
    async with under_load(site):
        running = asyncio.ensure_future(canary_rollout(site.target, candidate, plan, approval=ASKS))
        await eventually(lambda: waits_for_a_person(site), seconds=120)
    source.unlink()
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    record = await asyncio.wait_for(running, 60)
    assert record.answer is None
    assert (await turned_back(site, "health check")).id == record.id


@pytest.mark.parametrize("gate", ["traffic", "promotion"])
async def test_somebody_else_who_rolls_it_back_before_it_has_traffic(site: Site, gate: str) -> None:
    """Who waits, perhaps for days, ends within seconds: the form in the UI would be about nothing any more."""
    approval = ASKS.model_copy(update={"before": (gate,)})
    async with under_load(site) as answers:
        running = asyncio.ensure_future(promote_to_production(site.target, site.spec("2"), approval=approval))
        await eventually(lambda: waits_for_a_person(site, weight=0.0), seconds=120)
        await roll_back(site.target)
        with pytest.raises(StaleEpoch):
            await asyncio.wait_for(running, 30)
        record = await turned_back(site, "person")
    assert record.answer is None
    assert set(answers.failures) <= {"status 500"}, "the models' own"
