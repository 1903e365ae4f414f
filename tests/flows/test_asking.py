"""A person is asked over a line on which requests are lost: one answer counts, and the first."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import NotPausedError
from prefect.flow_engine import run_flow
from prefect.flow_runs import aresume_flow_run
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from prefect.states import Pending, Running

from prefect_modeldeploy import CanaryPlan
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.flows._approval import ask, may_ask
from prefect_modeldeploy.rollout import Answer, Approval, Phase, RolloutRecord
from prefect_modeldeploy.rollout.record import Actor
from tests.conftest import eventually
from tests.flaky_prefect import FlakyPrefect

pytestmark = pytest.mark.usefixtures("prefect_server")

WAITS = Approval(before=("step",), timeout_seconds=60)


@pytest.fixture
async def line() -> AsyncIterator[FlakyPrefect]:
    async with FlakyPrefect().running() as line:
        yield line


def record(approval: Approval) -> RolloutRecord:
    names = {"provider": "local", "model": "fraud", "endpoint": "fraud", "canary": "fraud-2", "stable": "fraud-1"}
    facts = {"id": "r1", "who": Actor(name="ada"), "plan": CanaryPlan(), "started_at": datetime.now(UTC)}
    return RolloutRecord.model_validate({**names, **facts, "phase": Phase.ATTACHED, "approval": approval})


class Asking:
    """A flow run that asks, over the line; a person is nearer to the server."""

    def __init__(self, line: FlakyPrefect, approval: Approval = WAITS, retries: int = 5) -> None:
        self._run: UUID | None = None
        alone = {PREFECT_CLIENT_MAX_RETRIES: retries, PREFECT_LOGGING_TO_API_ENABLED: False}
        with temporary_settings({PREFECT_API_URL: line.url, **alone}):
            self.answer = asyncio.create_task(asyncio.to_thread(self._asked, record(approval)))

    def _asked(self, record: RolloutRecord) -> Answer:
        """In a thread: Prefect's engine blocks its own when a run begins, and the line is served from this one."""

        @flow
        async def asks() -> Answer:
            self._run = UUID(str(flow_run.id))
            return await ask(record, "step")

        return asyncio.run(asks())

    async def states(self) -> list[State]:
        assert self._run is not None
        async with get_client() as client:
            return list(await client.read_flow_run_states(self._run))

    async def waits(self) -> bool:
        return self._run is not None and (await self.states())[-1].is_paused()

    async def hears(self, decision: str) -> bool:
        """Whether Prefect has taken the answer. It does not while the form is not there."""
        assert self._run is not None
        try:
            await aresume_flow_run(self._run, run_input={"decision": decision, "approver": "grace"})
        except (NotPausedError, RuntimeError):
            return False
        return True

    async def is_shown_as_running_again(self) -> None:
        assert self._run is not None
        async with get_client() as client:
            await client.set_flow_run_state(self._run, Running(), force=True)


@asynccontextmanager
async def away(line: FlakyPrefect, seconds: float) -> AsyncIterator[None]:
    until, line.closed = time.monotonic() + seconds, True
    yield
    await eventually(lambda: time.monotonic() > until)
    line.closed = False


@pytest.mark.parametrize("lost", ["PAUSED", "-schema", "-description"])
async def test_a_lost_answer_of_prefects_server_ends_no_question(line: FlakyPrefect, lost: str) -> None:
    line.to_lose.add(lost)
    asking = Asking(line)
    await eventually(asking.waits)
    assert not line.to_lose
    await eventually(lambda: asking.hears("promote"))
    answer = await asyncio.wait_for(asking.answer, 30)
    assert (answer.decision, answer.who.name) == ("promote", "grace")


@pytest.mark.slow
async def test_an_answer_in_the_last_moment_counts(line: FlakyPrefect) -> None:
    """Also if it was heard by Prefect's server, which just then was away for the run: silence would promote."""
    asking = Asking(line, Approval(before=("step",), timeout_seconds=4, on_timeout="promote"), retries=0)
    await eventually(asking.waits)
    async with away(line, seconds=6):
        assert await asking.hears("roll_back")
    answer = await asyncio.wait_for(asking.answer, 30)
    assert (answer.decision, answer.who.name) == ("roll_back", "grace")


@pytest.mark.slow
async def test_silence_while_the_server_is_away_ends_with_a_run_that_is_shown_as_running(line: FlakyPrefect) -> None:
    """Prefect would fail it a minute later, and a run that has failed is taken up by others."""
    asking = Asking(line, Approval(before=("step",), timeout_seconds=2, on_timeout="promote"), retries=0)
    await eventually(asking.waits)
    async with away(line, seconds=6):
        pass
    answer = await asyncio.wait_for(asking.answer, 30)
    assert (answer.decision, answer.who.name) == ("promote", "nobody")
    assert [state.name for state in (await asking.states())][-3:] == ["Paused", "Running", "Completed"]


async def test_who_is_shown_as_running_without_an_answer_asks_again(line: FlakyPrefect) -> None:
    """Word that a question before is over may come late; it is no answer to this one."""
    asking = Asking(line)
    await eventually(asking.waits)
    await asking.is_shown_as_running_again()
    await eventually(asking.waits)
    assert await asking.hears("promote")
    assert not await asking.hears("roll_back"), "one answer counts"
    assert (await asyncio.wait_for(asking.answer, 30)).decision == "promote"


async def test_a_deployment_with_a_concurrency_limit_is_not_to_ask() -> None:
    """Prefect takes the slot of a paused run away, and the engine cancels the run when it cannot renew its lease."""

    @flow
    async def rolls_out() -> str:
        await may_ask()
        return "it may"

    async def run(limit: int | None) -> str:
        deployed = await (await rolls_out.ato_deployment(f"limit-{limit}", concurrency_limit=limit)).aapply()
        async with get_client() as client:
            run = await client.create_flow_run_from_deployment(deployed, state=Pending())
        return await run_flow(rolls_out, flow_run=run)

    assert await rolls_out() == "it may"
    assert await run(limit=None) == "it may"
    with pytest.raises(InvalidInput, match=r"^concurrency_limit=1: of the deployment limit-1"):
        await run(limit=1)
