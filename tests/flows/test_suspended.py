"""A run that is suspended until a person answers has no process: whoever stops it is heard all the same."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.flow_runs import aresume_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelling, Crashed

from prefect_modeldeploy import canary_rollout, orders, promote_to_production, reconcile_rollouts, roll_back
from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.flows._approval import given
from prefect_modeldeploy.rollout import Approval, Decision, Phase, RolloutRecord
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint
from tests.chaos import served
from tests.chaos.fault_points import serving
from tests.conftest import eventually
from tests.flaky_prefect import FlakyPrefect
from tests.flows.conftest import QUICK, Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


async def suspended(site: Site, **approval: Any) -> UUID:
    """A flow run that has been suspended before any traffic moves."""
    await site.target.save(site.target.model, overwrite=True)
    parameters = {
        "target": site.target.model,
        "candidate": site.spec("2").model_dump(mode="json"),
        "plan": QUICK.model_dump(mode="json"),
        "approval": Approval(before=("traffic",), **approval).model_dump(mode="json"),
    }
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(f"canary-rollout/{served.NAME}")
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    await eventually(lambda: is_suspended(run.id), seconds=120)
    return run.id


async def is_suspended(run: UUID) -> bool:
    state = await state_of(run)
    assert not state.is_final(), state
    return state.name == "Suspended"


async def lost_before_it_asked(site: Site) -> RolloutRecord:
    """The record of a rollout whose run died when its canary was ready."""
    plan = QUICK.model_copy(update={"deadline_seconds": 3.0, "on_undecided": "hold"})
    held = await canary_rollout(site.target, site.spec("2"), plan)
    claim = await aclaim_endpoint(site.target)
    asks = Approval(before=("traffic",), timeout_seconds=3600)
    open_again = {"phase": Phase.READY, "outcome": None, "reason": "", "ended_at": None, "driver": None, "step": 0}
    began = {"plan": QUICK, "approval": asks, "judge_state": None, "epoch": claim.epoch, "cursor": claim.cursor}
    return await _journal.save(held.model_copy(update={**open_again, **began}))


async def state_of(run: UUID) -> State:
    async with get_client() as client:
        state = (await client.read_flow_run(run)).state
    assert state is not None
    return state


async def nothing_is_left(site: Site) -> bool:
    record = await _journal.load(site.target.endpoint)
    assert record is not None
    if record.phase is not Phase.ENDED:
        return False
    assert record.outcome == "rolled_back"
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    assert f"{site.target.model}-2" not in await site.deployments()
    return True


async def test_once_it_is_answered_it_is_its_own_worker_that_takes_it_up(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        run = await suspended(site)
    asking = await orders.answer(site.target.endpoint, "promote")  # nobody is there to start it again
    assert await given(asking, "traffic")
    assert await reconcile_rollouts([site.target]) == []
    assert (await state_of(run)).is_scheduled()
    with pytest.raises(RolloutError, match="about to start again"):
        await orders.order(site.target.endpoint, "promote-fully")
    await orders.order(site.target.endpoint, "abort", "it was the wrong version")  # no process would hear an event
    assert (await state_of(run)).is_cancelled()
    assert await given(asking, "traffic") is None, "who goes on by running the flow again asks again"
    [record] = await reconcile_rollouts([site.target])
    assert (record.outcome, record.decided_by) == ("rolled_back", "cancellation")
    assert f"aborted by {this_user()}: it was the wrong version" in record.reason
    assert await nothing_is_left(site)


async def test_a_run_that_is_run_again_after_its_answer_was_withdrawn_asks_again(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        run = await suspended(site)
    await orders.answer(site.target.endpoint, "promote")
    await orders.order(site.target.endpoint, "abort", "it was the wrong version")
    async with get_client() as client:
        await client.set_flow_run_state(run, AwaitingRetry(), force=True)  # as `prefect flow-run retry`
    async with serving(tmp_path):
        await eventually(lambda: is_suspended(run), seconds=120)
        assert (await site.arms()).keys() == {"stable"}
        await orders.answer(site.target.endpoint, "roll_back")
        await eventually(lambda: nothing_is_left(site), seconds=120)


async def test_an_abort_and_a_cancellation_reach_it(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        await suspended(site)
        with pytest.raises(RolloutError, match="modeldeploy approve"):
            await orders.order(site.target.endpoint, "promote-fully")
        await orders.order(site.target.endpoint, "abort", "it was the wrong version")
        await eventually(lambda: nothing_is_left(site), seconds=120)
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        assert "it was the wrong version" in record.reason

        run = await suspended(site)
        async with get_client() as client:
            await client.set_flow_run_state(run, Cancelling())
        [record] = await reconcile_rollouts([site.target])
        assert (record.outcome, record.decided_by) == ("rolled_back", "cancellation")
        assert await nothing_is_left(site)


async def is_over(run: UUID) -> bool:
    """Whether nobody can answer any more: the time of the pause is over, by the clock alone."""
    until = (await state_of(run)).state_details.pause_timeout
    return until is None or until <= datetime.now(UTC)


async def has_failed(run: UUID) -> bool:
    """Whether Prefect's server has noticed, and has ended the run: its service looks every few seconds."""
    return (await state_of(run)).is_failed()


async def nobody_was_asked_again(record: RolloutRecord) -> bool:
    """Whether the run that took the rollout up has never waited for a person."""
    assert record.driver is not None
    async with get_client() as client:
        states = await client.read_flow_run_states(UUID(record.driver.flow_run))
    return not any(state.is_paused() for state in states)


async def test_silence_is_the_answer_once_prefect_has_failed_the_run_for_it(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        run = await suspended(site, timeout_seconds=5)
    await eventually(lambda: has_failed(run), seconds=60, every=0.2)
    assert (await state_of(run)).message == "The flow was paused and never resumed."
    with pytest.raises(RolloutError, match="has no run now that could hear"):
        await orders.order(site.target.endpoint, "abort")
    [record] = await reconcile_rollouts([site.target])
    assert (record.outcome, record.decided_by) == ("rolled_back", "approval"), record.reason
    assert "nobody answered in time" in record.reason
    [answer] = [entry["event"]["answer"] for entry in await site.audit() if "answer" in entry["event"]]
    assert (answer["gate"], answer["decision"], answer["who"]["name"]) == ("traffic", "roll_back", "nobody")
    assert await nobody_was_asked_again(record)
    assert await nothing_is_left(site)


async def test_silence_can_mean_yes_and_counts_as_soon_as_the_time_is_over(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        run = await suspended(site, timeout_seconds=5, on_timeout="promote")
    async with await site.load() as answers:
        await site.history(answers)
        await eventually(lambda: is_over(run), seconds=60)
        [record] = await reconcile_rollouts([site.target])
    assert record.outcome == "promoted", record.reason
    assert record.answer is not None
    answer = record.answer
    assert (answer.gate, answer.who.name, answer.decision) == ("traffic", "nobody", "promote")
    assert await nobody_was_asked_again(record)
    assert await site.arms() == {"stable": (f"{site.target.model}-2", 100.0)}
    assert set(answers.failures) <= {"status 500"}, "the models' own"


@pytest.mark.parametrize("begun_by", ["itself", "another run"])
async def test_an_answer_counts_though_the_run_that_was_started_with_it_is_lost(
    begun_by: str, site: Site, tmp_path: Path
) -> None:
    """Else a person would be asked again, and silence could promote what they had turned back."""
    begun = None if begun_by == "itself" else await lost_before_it_asked(site)
    async with serving(tmp_path):
        run = await suspended(site, timeout_seconds=3600)
    await orders.answer(site.target.endpoint, "promote", "I have looked at it", "ada")  # nobody starts it again
    async with get_client() as client:
        await client.set_flow_run_state(run, Crashed(), force=True)
    async with await site.load() as answers:
        await site.history(answers)
        [record] = await reconcile_rollouts([site.target])
    assert record.outcome == "promoted", record.reason
    assert record.answer is not None
    assert (record.answer.decision, record.answer.who.name) == ("promote", "ada")
    assert record.id == (begun.id if begun else str(run))
    assert await nobody_was_asked_again(record)


async def test_an_answer_that_comes_after_another_rollout_begins_none(site: Site, tmp_path: Path) -> None:
    model = site.target.model
    async with serving(tmp_path):
        run = await suspended(site, timeout_seconds=3600)
        assert (await roll_back(site.target)).outcome == "rolled_back"
        await promote_to_production(site.target, site.spec("3"))
        await aresume_flow_run(run, run_input={"decision": "promote"})
        await eventually(lambda: has_failed(run), seconds=60)
    assert "about a rollout that has ended since" in ((await state_of(run)).message or "")
    assert await site.arms() == {"stable": (f"{model}-3", 100.0)}
    assert f"{model}-2" not in await site.deployments()


async def test_a_run_that_had_taken_it_over_begins_no_other_when_it_has_ended(site: Site, tmp_path: Path) -> None:
    begun = await lost_before_it_asked(site)
    async with serving(tmp_path):
        run = await suspended(site, timeout_seconds=3600)
        assert (await roll_back(site.target)).id == begun.id
        await aresume_flow_run(run, run_input={"decision": "promote"})
        await eventually(lambda: is_final(run), seconds=60)
    record = await _journal.latest(site.target.endpoint)
    assert record is not None
    assert (record.id, record.outcome) == (begun.id, "rolled_back")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def is_final(run: UUID) -> bool:
    return (await state_of(run)).is_final()


async def test_it_is_answered_before_it_knows_that_its_form_is_there(site: Site, tmp_path: Path) -> None:
    async with (
        FlakyPrefect(to_lose={'"key":"suspended-traffic-0-schema"'}).running() as line,
        AsyncExitStack() as stack,
    ):
        with temporary_settings({PREFECT_API_URL: line.url}):
            await stack.enter_async_context(serving(tmp_path))
        answers = await stack.enter_async_context(await site.load())
        await site.history(answers)
        run = await suspended(site)
        await eventually(lambda: is_answered(site, "promote"))
        assert not line.to_lose
        await eventually(lambda: is_promoted(site, run), seconds=120)


async def is_promoted(site: Site, run: UUID) -> bool:
    record, state = await _journal.load(site.target.endpoint), await state_of(run)
    assert record is not None
    assert not state.is_failed(), state
    assert record.outcome in (None, "promoted"), record.reason
    return record.phase is Phase.ENDED


async def test_prefect_is_asked_twice_to_suspend_it_since_its_answer_got_lost(site: Site, tmp_path: Path) -> None:
    """Then Prefect's client ends the run before its form is saved, and nobody could answer."""
    async with FlakyPrefect(to_lose={'"pause_key":"traffic'}).running() as line, AsyncExitStack() as stack:
        with temporary_settings({PREFECT_API_URL: line.url}):
            await stack.enter_async_context(serving(tmp_path))
        await suspended(site)
        assert not line.to_lose
        await eventually(lambda: is_answered(site))
        await eventually(lambda: nothing_is_left(site), seconds=120)


async def is_answered(site: Site, decision: Decision = "roll_back") -> bool:
    """Whether an answer is taken: its form may come a moment after the state."""
    try:
        await orders.answer(site.target.endpoint, decision)
    except RolloutError:
        return False
    return True
