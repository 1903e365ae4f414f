"""Rollouts that do not run to their end at once: held, cancelled, killed."""

import asyncio
from contextvars import copy_context
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Pending
from prefect.variables import Variable

from prefect_modeldeploy import canary_rollout, orders, promote_to_production, roll_back
from prefect_modeldeploy.errors import InvalidInput, RolloutError, RolloutInProgress
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.rollout.judging import judge_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint, aset_arms
from tests.chaos.accidents import Case
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.test_ownership import start, strike

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.slow
async def test_undecided_can_hold_the_split_for_a_person_who_rolls_it_back(site: Site) -> None:
    plan = QUICK.model_copy(update={"steps": (50,), "deadline_seconds": 3.0, "on_undecided": "hold"})
    record = await canary_rollout(site.target, site.spec("2"), plan)
    model = site.target.model
    assert record.outcome == "held"
    assert (await site.arms())["canary"] == (f"{model}-2", 50.0)
    back = await roll_back(site.target)
    assert (back.id, back.outcome) == (record.id, "rolled_back")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


@pytest.mark.slow
async def test_undecided_can_ask_a_person(site: Site) -> None:
    plan = QUICK.model_copy(update={"steps": (50,), "deadline_seconds": 3.0, "on_undecided": "ask"})
    running = asyncio.ensure_future(canary_rollout(site.target, site.spec("2"), plan))

    async def is_answered() -> bool:
        assert not running.done(), running.result()
        try:
            await orders.answer(site.target.endpoint, "promote", "I have looked at it", "ada")
        except (RolloutError, InvalidInput):  # nobody is asked as yet
            return False
        return True

    await eventually(is_answered, seconds=60)
    record = await running
    assert (record.outcome, record.answer and record.answer.gate) == ("promoted", "promotion"), record.reason
    assert [step.decision for step in record.steps] == ["continue"]


@pytest.mark.slow
async def test_undecided_can_mean_once_more_as_long(site: Site) -> None:
    plan = QUICK.model_copy(update={"steps": (50,), "deadline_seconds": 3.0, "on_undecided": "extend"})
    record = await canary_rollout(site.target, site.spec("2"), plan)
    assert (record.outcome, record.decided_by, record.extended_seconds) == ("rolled_back", "deadline", 3.0)
    assert record.seconds is not None
    assert record.seconds > 6


@pytest.mark.slow
async def test_a_rollout_starts_from_what_serves_once_it_is_its_turn(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before may end while its signs of life are waited for: what served before it may be gone by now."""
    model, is_lost, not_in_it = site.target.model, _ownership.is_lost, copy_context()
    before: list[asyncio.Task[RolloutRecord]] = []

    async def until_it_has_ended(record: RolloutRecord) -> bool:
        if not before:
            promotion = promote_to_production(site.target, site.spec("3"))
            before.append(asyncio.get_running_loop().create_task(promotion, context=not_in_it))
            await before[0]
        return await is_lost(record)

    await promote_to_production(site.target, site.spec("2"))
    monkeypatch.setattr(_ownership, "is_lost", until_it_has_ended)
    record = await promote_to_production(site.target, site.spec("4"))
    assert (record.stable, record.canary) == (f"{model}-3", f"{model}-4")
    assert await site.arms() == {"stable": (f"{model}-4", 100.0)}


async def test_a_cancelled_rollout_leaves_all_traffic_on_stable(site: Site) -> None:
    plan = QUICK.model_copy(update={"step_seconds": 25.0})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(site.target, site.spec("2"), plan))
        await eventually(lambda: answers.by_arm["canary"] > 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    record = await _journal.load(site.target.endpoint)
    assert record is not None
    assert (record.outcome, record.decided_by, record.phase) == ("rolled_back", "cancellation", Phase.ENDED)


@pytest.mark.slow
async def test_an_open_rollout_is_taken_up_again_with_its_evidence(site: Site, tmp_path: Path) -> None:
    """A process that was killed between its two steps: the next one counts on, and knows what came of the first."""
    async with await site.load() as answers:
        await site.history(answers)
        killed = start(site, tmp_path, "observe:saved", "kill")
        await asyncio.to_thread(killed.communicate, timeout=120)
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        assert (record.phase, record.step) == (Phase.ATTACHED, 1)
        first = judge_of(record).state()
        again = await canary_rollout(site.target, site.spec("2"), QUICK)
    assert (again.id, again.outcome) == (record.id, "promoted"), again.reason
    assert again.epoch > record.epoch
    assert [step.step for step in again.steps] == [0, 1], "the report tells of both"
    assert again.steps[0].canary_requests > 0
    assert first == record.judge_state != again.judge_state
    judged = sum(step.canary_requests for step in again.steps)
    assert judged <= answers.by_arm["canary"], "no window was counted twice"


@pytest.mark.slow
async def test_evidence_that_an_upgrade_cannot_go_on_with_is_gathered_again(site: Site, tmp_path: Path) -> None:
    """What was measured in the first step counts, under the rules of the version that goes on."""
    async with await site.load() as answers:
        await site.history(answers)
        killed = start(site, tmp_path, "observe:saved", "kill")
        await asyncio.to_thread(killed.communicate, timeout=120)
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        former = {"schema": 1, "settings": "0123456789ab", "ids": "", "judge": "of a former version"}
        await _journal.save(record.model_copy(update={"judge_state": former}))
        again = await canary_rollout(site.target, site.spec("2"), QUICK)
    assert (again.id, again.outcome, again.decided_by) == (record.id, "promoted", "failures"), again.reason
    each = [step.canary_requests for step in again.steps]
    assert len(each) == 2
    assert judge_of(again).verdict().canary_requests == sum(each), "both steps are evidence, and each counts once"


@pytest.mark.slow
@pytest.mark.parametrize("point", ["wait_ready:saved", "fill:after", "fill:saved", "promote:after"])
async def test_a_promotion_whose_process_was_killed_goes_on(point: str, site: Site, tmp_path: Path) -> None:
    """Before its traffic moves, when it has and nobody has saved that, while it bakes, when all is done but saved."""
    arguments = {"target": site.target, "candidate": site.spec("2"), "bake_seconds": 1.0}
    async with await site.load() as answers:
        await site.history(answers)
        killed = strike(Case(promote_to_production, arguments, site.target, point, "kill", tmp_path / "struck"))
        await asyncio.to_thread(killed.communicate, timeout=120)
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        assert (record.phase is Phase.ENDED, record.outcome) == (False, None)
        again = await promote_to_production(**arguments)
    assert (again.id, again.outcome, again.kind, again.mode) == (record.id, "promoted", "promotion", "swap")
    assert again.epoch > record.epoch
    assert await site.arms() == {"stable": (f"{site.target.model}-2", 100.0)}
    mine = sorted(name for name in await site.deployments() if name.startswith(site.target.model))
    assert mine == [f"{site.target.model}-1", f"{site.target.model}-2"], "nothing was created twice"
    assert set(answers.failures) <= {"status 500"}, "no request was lost"


@pytest.mark.slow
async def test_a_promotion_that_was_let_go_of_is_taken_up_at_once(site: Site) -> None:
    """As by a run that could not go on: the record names no driver, so nobody's silence is waited for."""
    promoted = await promote_to_production(site.target, site.spec("2"), note="first")
    stable = {"stable": (f"{site.target.model}-1", 100.0)}
    await aset_arms(site.target, stable, expected_epoch=promoted.epoch)
    let_go = {"phase": Phase.DEPLOYED, "outcome": None, "ended_at": None, "driver": None}
    await _journal.save(promoted.model_copy(update=let_go))
    with pytest.raises(RolloutInProgress, match=promoted.candidate):
        await promote_to_production(site.target, site.spec("3"))
    again = await promote_to_production(site.target, site.spec("2"), note="second")
    assert (again.id, again.outcome, again.why) == (promoted.id, "promoted", "first"), again.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-2", 100.0)}


@pytest.mark.slow
async def test_another_candidate_has_to_wait_for_the_open_rollout(site: Site) -> None:
    record = await stopped_in_the_middle(site)
    before = await site.endpoint()
    with pytest.raises(RolloutInProgress, match=record.candidate):
        await canary_rollout(site.target, site.spec("3"), QUICK)
    assert await site.endpoint() == before


@pytest.mark.slow
async def test_a_run_that_cannot_wait_for_a_person_takes_over_no_rollout_that_may_ask_one(site: Site) -> None:
    lost = await stopped_in_the_middle(site)
    asks = lost.plan.model_copy(update={"on_undecided": "ask"})
    await _journal.save(lost.model_copy(update={"plan": asks}))
    saved = await _journal.load(site.target.endpoint)
    limited = await canary_rollout.ato_deployment("limited", concurrency_limit=1, enforce_parameter_schema=False)
    parameters = {"target": site.target, "candidate": site.spec("2"), "plan": asks}
    async with get_client() as client:
        run = await client.create_flow_run_from_deployment(await limited.aapply(), state=Pending())
    with pytest.raises(InvalidInput, match=r"^concurrency_limit=1: of the deployment limited"):
        await run_flow(canary_rollout, flow_run=run, parameters=parameters)
    assert await _journal.load(site.target.endpoint) == saved


async def stopped_in_the_middle(site: Site) -> RolloutRecord:
    """Run a rollout up to its first shift, and save its record as if its process had been killed then."""
    plan = QUICK.model_copy(update={"deadline_seconds": 3.0, "on_undecided": "hold"})
    held = await canary_rollout(site.target, site.spec("2"), plan)
    claim = await aclaim_endpoint(site.target)
    changes = {
        "phase": Phase.SHIFTED,
        "outcome": None,
        "reason": "",
        "ended_at": None,
        "epoch": claim.epoch,
        "plan": QUICK,
        "step": 1,
        "judge_state": None,
    }
    return await _journal.save(held.model_copy(update=changes))


@pytest.mark.slow
async def test_the_record_is_kept_in_a_variable_that_other_machines_can_read(site: Site) -> None:
    await promote_to_production(site.target, site.spec("2"))
    saved = await Variable.aget(f"modeldeploy_rollout__{site.target.endpoint}")
    assert isinstance(saved, str)
    assert len(saved) < 5000
