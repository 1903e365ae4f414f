"""What stops a rollout from outside, or makes it go on: events, the canary's health, answers at gates."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.events.clients import get_events_client
from prefect.exceptions import CancelledRun
from prefect.states import Cancelling

from prefect_modeldeploy import (
    Approval,
    Autoscaling,
    JudgePlan,
    RolloutRecord,
    canary_rollout,
    orders,
    promote_to_production,
)
from prefect_modeldeploy.errors import InvalidInput, ProviderError, RolloutError
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.rollout import Effect, Phase, next_effect
from prefect_modeldeploy.target import client_of, router_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user
from prefect_modeldeploy.tasks.traffic import aset_arms
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.rollout.test_machine import record as record_of
from tests.traffic.load import Answers

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow, pytest.mark.timeout(300)]

LONG = QUICK.model_copy(update={"step_seconds": 60.0, "deadline_seconds": 300.0})


@asynccontextmanager
async def under_way(site: Site, **plan: object) -> AsyncIterator[tuple["asyncio.Task[RolloutRecord]", Answers]]:
    """A rollout whose canary has traffic and which would go on for long."""
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), LONG.model_copy(update=plan)))
        await eventually(lambda: answers.by_arm["canary"] > 20 or running.done())
        yield running, answers


async def test_an_event_aborts_it(site: Site) -> None:
    async with under_way(site) as (running, answers):
        await orders.order(site.target.endpoint, "abort", "drift in production")
        record = await asyncio.wait_for(running, 60)
        assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
        # Prefect's stream begins with the events of the last minute: what was for that rollout is not for the next one.
        next_one = await canary_rollout(site.target, site.spec("3"), QUICK.model_copy(update={"steps": (50,)}))
    assert (record.outcome, record.decided_by) == ("rolled_back", "event")
    assert "drift in production" in record.reason
    assert next_one.outcome == "promoted", next_one.reason
    assert set(answers.failures) <= {"status 500"}


async def cancelled(site: Site, running: "asyncio.Task[RolloutRecord]") -> State | None:
    """Cancel the run of a rollout over Prefect's API, where no runner passes it on; returns the state it ends in."""
    record = await _journal.load(site.target.endpoint)
    assert record is not None
    assert record.driver is not None
    async with get_client() as client:
        await client.set_flow_run_state(UUID(record.driver.flow_run), Cancelling())
        with pytest.raises(CancelledRun):
            await asyncio.wait_for(running, 60)
        return (await client.read_flow_run(UUID(record.driver.flow_run))).state


async def test_a_cancellation_that_no_runner_passes_on_is_heard_all_the_same(site: Site) -> None:
    """The flow run of a plain script; or SIGTERM, where the exception that Prefect makes of it is lost."""
    async with under_way(site) as (running, answers):
        state = await cancelled(site, running)
    after = await _journal.load(site.target.endpoint)
    assert after is not None
    assert (after.phase, after.outcome, after.decided_by) == (Phase.ENDED, "rolled_back", "cancellation")
    assert state is not None
    assert state.is_cancelled(), state
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    assert set(answers.failures) <= {"status 500"}


async def test_an_event_about_another_endpoint_is_not_for_it(site: Site) -> None:
    from prefect.events import Event
    from prefect.events.schemas.events import Resource

    async with under_way(site) as (running, _):
        other = Resource({"prefect.resource.id": "modeldeploy.local.another"})
        async with get_events_client() as client:
            await client.emit(Event(event="modeldeploy.rollout.abort", resource=other))
        await orders.order(site.target.endpoint, "skip", "it is known to be good")
        await eventually(lambda: _step_of(site, 1), seconds=60)
        assert not running.done()
        await orders.order(site.target.endpoint, "promote-fully", "it is urgent")
        record = await asyncio.wait_for(running, 60)
    assert (record.outcome, record.decided_by) == ("promoted", "event")
    assert "it is urgent" in record.reason
    told = [(entry["phase"], entry["told"]) for entry in [e["event"] for e in await site.audit()] if "told" in entry]
    assert [(phase, each["order"], each["who"]["name"], each["why"]) for phase, each in told] == [
        ("ATTACHED", "skip", this_user(), "it is known to be good"),
        ("APPROVED", "promote-fully", this_user(), "it is urgent"),
    ]
    assert f"{this_user()} (by their own account): promote-fully" in Path(record.report or "").read_text()


async def _step_of(site: Site, step: int) -> bool:
    record = await _journal.load(site.target.endpoint)
    return record is not None and record.step == step


async def test_a_canary_that_is_not_ready_is_rolled_back_even_if_no_request_says_so(site: Site) -> None:
    plan = LONG.model_copy(update={"unready_seconds": 1.0})
    running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), plan))

    async def has_its_share() -> bool:
        record = await _journal.load(site.target.endpoint)
        return record is not None and record.phase is Phase.SHIFTED

    await eventually(has_its_share)
    async with client_of(site.target) as client:
        await client.stop(f"{site.target.model}-2")
    record = await asyncio.wait_for(running, 60)
    assert (record.outcome, record.decided_by) == ("rolled_back", "health check")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def test_a_stable_that_is_stopped_is_started_before_the_traffic_comes_back(site: Site) -> None:
    model = site.target.model
    async with under_way(site) as (running, _):
        async with router_of(site.target) as (router, name):
            epoch = (await router.get_endpoint(name)).epoch
            await router.set_weights(name, {"canary": 100}, expected_epoch=epoch)
        async with client_of(site.target) as client:
            await client.stop(f"{model}-1")
        await orders.order(site.target.endpoint, "abort")
        record = await asyncio.wait_for(running, 60)
    assert record.outcome == "rolled_back"
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}
    assert (await site.deployments())[f"{model}-1"] == "READY"


async def test_a_stable_that_is_started_gets_its_requests_back_as_its_replicas_get_ready(
    site: Site, tmp_path: Path
) -> None:
    tickets, model = tmp_path / "tickets", site.target.model
    tickets.mkdir()

    def lay(number: int) -> None:
        for _ in range(number):
            (tickets / uuid4().hex).touch()

    spec = site.spec("0", env={"TICKETS": str(tickets)}, autoscaling=Autoscaling(min_replicas=3, max_replicas=3))
    lay(3)
    async with client_of(site.target) as client:
        stable = await client.create(spec.model_copy(update={"source": "tickets:predict"}))

        async def has(replicas: int) -> bool:
            return (await client.get(stable.id)).replicas.ready == replicas

        await eventually(lambda: has(3), seconds=60)
        await aset_arms(site.target, {"stable": (stable.id, 100.0)})
        async with under_way(site) as (running, _):
            record = await _journal.load(site.target.endpoint)
            assert record is not None
            everything = {"stable": (stable.id, 0.0), "canary": (f"{model}-2", 100.0)}
            await aset_arms(site.target, everything, expected_epoch=record.epoch)
            await client.stop(stable.id)
            await eventually(lambda: has(0), seconds=30)
            await orders.order(site.target.endpoint, "abort")
            for ready, share in ((1, 33.33), (2, 66.67)):
                lay(1)
                await eventually(lambda ready=ready: has(ready), seconds=60)  # type: ignore[misc]
                await eventually(lambda share=share: _has(site, stable.id, share), seconds=10)  # type: ignore[misc]
            lay(1)
            ended = await asyncio.wait_for(running, 60)
    assert ended.outcome == "rolled_back"
    assert await site.arms() == {"stable": (stable.id, 100.0)}


async def _has(site: Site, stable: str, share: float) -> bool:
    return (await site.arms())["stable"] == (stable, share)


async def test_a_person_answers_at_every_gate(site: Site) -> None:
    """Traffic, each further step and the promotion: promote, extend, skip; the last answer stays in the record."""
    approval = Approval(before=("traffic", "step", "promotion"), timeout_seconds=120)
    plan = QUICK.model_copy(update={"steps": (20, 30, 50), "step_seconds": 0.5})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), plan, approval=approval))
        said = list[str]()
        for gate, decision in (
            ("traffic", "promote"),
            ("step 2", "extend"),
            ("step 2", "promote"),
            ("step 3", "skip"),
        ):
            await _answered(site, running, decision)
            said.append(gate)
        record = await asyncio.wait_for(running, 120)
    assert record.outcome == "promoted", record.reason
    assert record.answer is not None
    assert (record.answer.gate, record.answer.decision, record.answer.comment) == ("step 3", "skip", "fine")
    entries = [entry["event"] for entry in await site.audit()]
    assert [e["answer"]["gate"] for e in entries if "answer" in e] == said
    assert entries[0]["plan"]["steps"] == [20, 30, 50]
    assert [e["effect"] for e in entries][-1] == "end"


async def test_blue_green_the_new_version_is_looked_at_before_all_requests_move_to_it_at_once(site: Site) -> None:
    model, green = site.target.model, site.spec("2", "differs")
    approval = Approval(before=("promotion",), timeout_seconds=120)
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(promote_to_production(site.target, green, approval=approval))
        await eventually(lambda: _waits(site), seconds=60)
        async with client_of(site.target) as client:
            assert await client.predict(f"{model}-2", [1.0]) == [2.0]  # under its own address
        assert await site.arms() == {"stable": (f"{model}-1", 100.0), "canary": (f"{model}-2", 0.0)}
        assert not answers.by_arm["canary"]
        await _answered(site, running, "promote")
        record = await asyncio.wait_for(running, 120)
    assert record.outcome == "promoted", record.reason
    assert "ada (by their own account): promote, before promotion" in Path(record.report or "").read_text()
    assert await site.arms() == {"stable": (f"{model}-2", 100.0)}
    assert set(answers.failures) <= {"status 500"}


async def test_blue_green_a_version_that_has_stopped_meanwhile_is_started_before_it_gets_requests(site: Site) -> None:
    green, approval = f"{site.target.model}-2", Approval(before=("promotion",), timeout_seconds=120)
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(promote_to_production(site.target, site.spec("2"), approval=approval))
        await eventually(lambda: _waits(site), seconds=60)
        async with client_of(site.target) as client:
            await client.stop(green)
        await _answered(site, running, "promote")
        record = await asyncio.wait_for(running, 120)
    assert record.outcome == "promoted", record.reason
    assert set(answers.failures) <= {"status 500"}


async def test_a_first_version_that_has_stopped_meanwhile_is_started_too(new_site: Callable[[str], Site]) -> None:
    site, approval = new_site(f"m{uuid4().hex[:8]}"), Approval(before=("promotion",), timeout_seconds=120)
    running = asyncio.ensure_future(promote_to_production(site.target, site.spec("1"), approval=approval))
    await eventually(lambda: _waits(site), seconds=60)
    async with client_of(site.target) as client:
        await client.stop(f"{site.target.model}-1")
    await _answered(site, running, "promote")
    record = await asyncio.wait_for(running, 120)
    assert record.outcome == "promoted", record.reason


async def test_a_version_that_is_only_starting_gets_no_requests_before_it_is_ready(site: Site, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2)\n\ndef echo(value):\n    return value\n")
    there = {"model": site.target.model, "endpoint": site.target.endpoint, "stable": f"{site.target.model}-1"}
    slow = site.spec("2").model_copy(update={"source": "slow:echo", "options": {"python_path": [str(tmp_path)]}})
    effects = Effects(site.target)
    claimed = await effects(Effect.CLAIM, record_of(phase=Phase.PLANNED, spec=slow, canary=slow.name, **there))
    deployed = await effects(Effect.DEPLOY, claimed)
    assert (await site.deployments())[slow.name] != "READY"
    await effects(Effect.FILL, deployed.model_copy(update={"phase": Phase.APPROVED}))
    assert (await site.deployments())[slow.name] == "READY"
    assert (await site.arms())["canary"] == (slow.name, 100.0)


async def _waits(site: Site) -> bool:
    record = await _journal.load(site.target.endpoint)
    return record is not None and next_effect(record) is Effect.APPROVE


async def _answered(site: Site, running: "asyncio.Task[RolloutRecord]", decision: str) -> None:
    async def done() -> bool:
        assert not running.done(), running.result()
        try:
            await orders.answer(site.target.endpoint, decision, "fine", "ada")
        except (RolloutError, InvalidInput):
            return False
        return True

    await eventually(done, seconds=100)  # Prefect's client waits for 62 s where its server is too busy once

    async def went_on() -> bool:
        if running.done():
            return True
        record = await _journal.load(site.target.endpoint)
        return record is not None and record.answer is not None and record.answer.decision == decision

    await eventually(went_on, seconds=60)


async def test_a_rollout_that_waits_for_nobody_cannot_be_answered(site: Site) -> None:
    with pytest.raises(InvalidInput, match="no open rollout"):
        await orders.answer(site.target.endpoint, "promote")
    async with under_way(site) as (running, _):
        with pytest.raises(RolloutError, match="waits for nobody"):
            await orders.answer(site.target.endpoint, "promote")
        await orders.order(site.target.endpoint, "abort")
        await running


async def test_an_abort_works_while_a_person_is_waited_for(site: Site) -> None:
    """An abort wins over an approval that nobody gives."""
    approval = Approval(before=("step",), timeout_seconds=120)
    plan = QUICK.model_copy(update={"step_seconds": 0.3})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), plan, approval=approval))
        await eventually(lambda: _step_of(site, 1), seconds=60)
        await orders.order(site.target.endpoint, "abort", "not now")
        record = await asyncio.wait_for(running, 60)
    assert (record.outcome, record.decided_by) == ("rolled_back", "event")


@pytest.mark.parametrize("gate", ["step", "promotion"])
async def test_harm_is_seen_while_a_person_is_waited_for(
    gate: Literal["step", "promotion"], site: Site, tmp_path: Path
) -> None:
    """The canary was well when somebody was asked, and turned bad before they answered."""
    bad, steps = tmp_path / "bad", {"step": (20, 50), "promotion": (50,)}[gate]
    candidate = site.spec("2", "turns_bad", env={"TURNED_BAD": str(bad)})
    plan = QUICK.model_copy(update={"steps": steps, "judge": JudgePlan(margin=0.15, beta=0.45, latency=False)})
    approval = Approval(before=(gate,), timeout_seconds=240)
    async with await site.load(rate=100) as answers:
        await site.history(answers, 100)
        running = asyncio.ensure_future(canary_rollout(site.target, candidate, plan, approval=approval))
        await eventually(lambda: _is_paused(site), seconds=120)
        bad.touch()
        record = await asyncio.wait_for(running, 120)
    assert (record.outcome, record.decided_by, record.answer) == ("rolled_back", "failures", None), record.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def test_a_node_that_dies_while_a_person_is_waited_for_is_no_answer(site: Site, home: Path) -> None:
    approval = Approval(before=("step",), timeout_seconds=240)
    plan = QUICK.model_copy(update={"step_seconds": 0.3})
    async with await site.load(rate=50) as answers:
        await site.history(answers, 100)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), plan, approval=approval))
        await eventually(lambda: _is_paused(site), seconds=120)
        node = Home(home).read_node()
        assert node is not None
        os.kill(node.pid, signal.SIGKILL)
        await eventually(lambda: _answers_again(site), seconds=60)
        assert not running.done()
        await orders.answer(site.target.endpoint, "roll_back", "w" * 1900, "ada")
        record = await asyncio.wait_for(running, 120)
    assert (record.outcome, record.decided_by) == ("rolled_back", "approval"), record.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def _answers_again(site: Site) -> bool:
    try:
        return bool(await site.arms())
    except ProviderError:
        return False


async def _state(site: Site) -> State | None:
    """The state of the run that drives the rollout."""
    record = await _journal.load(site.target.endpoint)
    if record is None or record.driver is None:
        return None
    async with get_client() as client:
        return (await client.read_flow_run(UUID(record.driver.flow_run))).state


async def _is_paused(site: Site) -> bool:
    state = await _state(site)
    return state is not None and state.is_paused()


async def test_a_cancellation_is_heard_while_a_person_is_waited_for(site: Site) -> None:
    approval = Approval(before=("promotion",), timeout_seconds=120)
    running = asyncio.ensure_future(promote_to_production(site.target, site.spec("2"), approval=approval))
    await eventually(lambda: _waits(site), seconds=60)
    await cancelled(site, running)
    after = await _journal.load(site.target.endpoint)
    assert after is not None
    assert (after.phase, after.outcome, after.decided_by) == (Phase.ENDED, "rolled_back", "cancellation")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def test_an_abort_is_heard_on_a_slow_way_back(site: Site) -> None:
    plan = QUICK.model_copy(update={"roll_back_seconds": 600.0})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2", "broken"), plan))
        await eventually(lambda: _is_at(site, Phase.ROLLING_BACK), seconds=120)
        await orders.order(site.target.endpoint, "abort", "faster")
        record = await asyncio.wait_for(running, 120)
    assert (record.outcome, record.decided_by) == ("rolled_back", "event"), record.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_a_slow_way_back_takes_the_canary_its_share_bit_by_bit(site: Site) -> None:
    seen, plan = set[float](), QUICK.model_copy(update={"steps": (50,), "roll_back_seconds": 3.0})

    async def is_back() -> bool:
        seen.add((await site.arms()).get("canary", ("", 0.0))[1])
        return running.done()

    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2", "broken"), plan))
        await eventually(is_back, seconds=120)
    record = await running
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures"), record.reason
    assert {40.0, 30.0, 20.0, 10.0} <= seen, seen
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def _is_at(site: Site, phase: Phase) -> bool:
    record = await _journal.load(site.target.endpoint)
    return record is not None and record.phase is phase


async def test_silence_at_every_gate_leaves_the_run_alive(site: Site) -> None:
    """Prefect's server fails a run whose pause is over for it; for us it is over before."""
    approval = Approval(before=("step", "promotion"), timeout_seconds=1, on_timeout="promote")
    plan = QUICK.model_copy(
        update={
            "step_seconds": 0.3,
            "judge": JudgePlan(margin=0.15, beta=0.45, latency=False),
            "deadline_seconds": 120.0,
        }
    )
    async with await site.load(rate=100) as answers:
        await site.history(answers, 100)
        running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), plan, approval=approval))
        await eventually(lambda: _is_paused(site), seconds=120)
        state = await _state(site)
        assert state is not None
        until = state.state_details.pause_timeout
        assert until is not None
        assert (until - state.timestamp).total_seconds() > 30
        ended = await asyncio.wait_for(running, 120)
    assert ended.outcome == "promoted", ended.reason


async def test_silence_can_mean_yes_and_the_run_ends_well(site: Site) -> None:
    approval = Approval(timeout_seconds=2, on_timeout="promote")
    state = await promote_to_production(site.target, site.spec("2"), approval=approval, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Promoted"), state.message
    record = await _journal.load(site.target.endpoint)
    assert record is not None
    assert record.answer is not None
    assert (record.answer.who.name, record.answer.decision) == ("nobody", "promote")
