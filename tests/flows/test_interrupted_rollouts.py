"""Rollouts that do not run to their end at once: held, cancelled, killed, rolled back by a person."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Pending
from prefect.variables import Variable

from prefect_modeldeploy import canary_rollout, orders, promote_to_production, reconcile_rollouts, roll_back
from prefect_modeldeploy.errors import InvalidInput, RolloutError, RolloutInProgress, StaleEpoch
from prefect_modeldeploy.flows import _ownership, _start
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.rollout import Approval, Phase, RolloutRecord
from prefect_modeldeploy.rollout.judging import judge_of
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint, aset_arms
from tests.chaos.accidents import Case
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.test_ownership import start, strike
from tests.rollout.test_machine import record

pytestmark = pytest.mark.usefixtures("prefect_server")

roll_backs = import_module("prefect_modeldeploy.flows.roll_back")
"""The module, which the flow of its name hides."""


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
async def test_a_promotion_can_be_rolled_back_and_forth(site: Site) -> None:
    model = site.target.model
    await promote_to_production(site.target, site.spec("2"))
    assert (await site.arms())["stable"] == (f"{model}-2", 100.0)
    back = await roll_back(site.target, note="it was wrong")
    assert (back.kind, back.canary, back.why) == ("roll_back", f"{model}-1", "it was wrong")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}

    with pytest.raises(InvalidInput, match=f"was a roll-back already, to {model}-1; name the deployment"):
        await roll_back(site.target)
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}
    forth = await roll_back(site.target, to=f"{model}-2")
    assert forth.outcome == "promoted"
    assert await site.arms() == {"stable": (f"{model}-2", 100.0)}


@pytest.mark.slow
async def test_alarms_that_come_together_roll_back_once(site: Site) -> None:
    """What an alarm took from production is not brought back by the next one."""
    model = site.target.model
    promoted = await promote_to_production(site.target, site.spec("2"))
    found = await asyncio.gather(*(roll_back(site.target, note="drift") for _ in range(3)), return_exceptions=True)
    records = [each for each in found if isinstance(each, RolloutRecord)]
    assert {(each.kind, each.outcome) for each in records} == {("roll_back", "promoted")}
    assert len({each.id for each in records} - {promoted.id}) == 1
    late = [each for each in found if not isinstance(each, RolloutRecord)]  # the server was slow: it was done by then
    assert all(isinstance(each, InvalidInput) and "a roll-back already" in str(each) for each in late), late
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


@pytest.mark.slow
async def test_an_alarm_that_comes_while_the_former_version_is_started_waits_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, waits = site.target.model, asyncio.Event()
    leave_alone, fill = roll_backs._left_alone, Effects._fill

    async def left_alone(record: RolloutRecord) -> RolloutRecord:
        waits.set()
        return await leave_alone(record)

    async def filled(effects: Effects, record: RolloutRecord) -> None:
        if record.kind == "roll_back":
            await waits.wait()
        await fill(effects, record)

    monkeypatch.setattr(roll_backs, "_left_alone", left_alone)
    monkeypatch.setattr(Effects, "_fill", filled)
    await promote_to_production(site.target, site.spec("2"))
    one = asyncio.ensure_future(roll_back(site.target))
    await eventually(lambda: _phase(site, "roll_back", Phase.READY, Phase.ATTACHED, Phase.FULL), seconds=60)
    other = await roll_back(site.target)
    assert (other.id, other.outcome) == ((await one).id, "promoted")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


async def test_who_waits_for_a_roll_back_does_not_wait_for_the_rollout_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor take it for the roll-back: what it turns away would be brought back in full."""
    back = _ownership.taken(record(endpoint="next", phase=Phase.READY, kind="roll_back"))
    after = _ownership.taken(record(endpoint="next", phase=Phase.READY, id="next", kind="canary"))
    await _journal.save(after)

    async def is_lost(seen: RolloutRecord) -> bool:
        return seen.id == back.id

    monkeypatch.setattr(_ownership, "is_lost", is_lost)
    assert (await asyncio.wait_for(roll_backs._left_alone(back), 5)).id == after.id


async def test_who_waits_for_a_roll_back_that_is_done_leaves_the_rollout_after_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back = _ownership.taken(record(endpoint="done", phase=Phase.READY, kind="roll_back"))
    done = await _journal.save(back.model_copy(update={"phase": Phase.ENDED, "outcome": "promoted"}))
    await _journal.save(_ownership.taken(record(endpoint="done", phase=Phase.READY, id="next", kind="canary")))

    async def is_lost(_: RolloutRecord) -> bool:
        return True

    monkeypatch.setattr(_ownership, "is_lost", is_lost)
    assert await asyncio.wait_for(roll_backs._left_alone(back), 5) == done


@pytest.mark.slow
@pytest.mark.parametrize("is_named", [False, True], ids=["the former", "a named one"])
async def test_a_roll_back_wins_over_a_rollout_that_begins_in_the_same_moment(
    is_named: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run_rollout = site.target.model, roll_backs.run_rollout
    began: list[asyncio.Task[RolloutRecord]] = []
    not_in_it = copy_context()

    async def run_a_moment_later(*arguments: Any, **options: Any) -> RolloutRecord:
        if not began:
            canary = canary_rollout(site.target, site.spec("3"), QUICK)
            began.append(asyncio.get_running_loop().create_task(canary, context=not_in_it))
            await eventually(lambda: _phase(site, "canary", Phase.READY, Phase.ATTACHED, Phase.SHIFTED), seconds=60)
        return await run_rollout(*arguments, **options)

    monkeypatch.setattr(roll_backs, "run_rollout", run_a_moment_later)
    await promote_to_production(site.target, site.spec("2"))
    back = await roll_back(site.target, to=f"{model}-1" if is_named else None)
    assert (back.kind, back.outcome, back.canary) == ("roll_back", "promoted", f"{model}-1")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}
    with pytest.raises(StaleEpoch):
        await began[0]


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


@pytest.mark.slow
async def test_it_can_be_rolled_back_while_its_former_version_is_let_go(site: Site) -> None:
    """A promotion that is all but done, and whose run is stuck or gone, is no reason to refuse."""
    model = site.target.model
    promoted = await promote_to_production(site.target, site.spec("2"))
    await _journal.save(promoted.model_copy(update={"phase": Phase.PROMOTED, "ended_at": None}))
    back = await roll_back(site.target)
    assert (back.kind, back.outcome) == ("roll_back", "promoted")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


@pytest.mark.slow
async def test_an_alarm_ends_what_is_open_and_rolls_it_back_in_one_run_of_a_deployment(site: Site) -> None:
    promoted = await promote_to_production(site.target, site.spec("2"))
    asked = Approval(before=("traffic",))
    await _journal.save(promoted.model_copy(update={"phase": Phase.PROMOTED, "ended_at": None, "approval": asked}))
    alarmed = await roll_back.ato_deployment("alarm", enforce_parameter_schema=False)
    async with get_client() as client:
        run = await client.create_flow_run_from_deployment(await alarmed.aapply(), state=Pending())
    back = await run_flow(roll_back, flow_run=run, parameters={"target": site.target})
    assert (back.kind, back.outcome) == ("roll_back", "promoted")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_it_can_be_rolled_back_after_somebody_died_while_taking_it_over(site: Site) -> None:
    record = await _stopped_in_the_middle(site)
    await aclaim_endpoint(site.target)  # and nothing was saved after it
    back = await roll_back(site.target, note="it stood still")
    assert (back.id, back.outcome, back.decided_by) == (record.id, "rolled_back", "person")
    [told] = [entry["event"]["told"] for entry in await site.audit() if "told" in entry["event"]]
    assert (told["order"], told["who"]["name"], told["why"]) == ("abort", this_user(), "it stood still")
    assert back.reason == f"rolled back by hand, by {this_user()}: it stood still"
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_a_named_version_wins_over_a_rollout_in_flight(site: Site) -> None:
    model = site.target.model
    await promote_to_production(site.target, site.spec("2"))
    plan = QUICK.model_copy(update={"step_seconds": 25.0})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(site.target, site.spec("3"), plan))
        await eventually(lambda: answers.by_arm["canary"] > 20)
        back = await roll_back(site.target, to=f"{model}-1")
        assert (back.kind, back.outcome) == ("roll_back", "promoted")
        with pytest.raises(StaleEpoch):
            await asyncio.wait_for(running, 60)
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}
    assert f"{model}-3" not in await site.deployments()


@pytest.mark.slow
async def test_what_was_held_without_steps_can_be_rolled_back(site: Site) -> None:
    """As a golden set, or a promotion that could not turn back, leaves it; and the reason may be long."""
    promoted = await promote_to_production(site.target, site.spec("2"), bake_seconds=0.2)
    stable, canary = (f"{site.target.model}-{version}" for version in (1, 2))
    changes = {"phase": Phase.ENDED, "outcome": "held"}
    await aset_arms(site.target, {"stable": (stable, 5.0), "canary": (canary, 95.0)}, expected_epoch=promoted.epoch)
    await _journal.save(promoted.model_copy(update=changes))
    back = await roll_back(site.target, note="x" * 4900)
    assert (back.id, back.outcome) == (promoted.id, "rolled_back")
    assert await site.arms() == {"stable": (stable, 100.0)}


@pytest.mark.slow
async def test_a_first_version_that_serves_already_has_nothing_to_turn_back_to(new_site: Callable[[str], Site]) -> None:
    """Cancelled between the change of the traffic and the saving of it."""
    site = new_site("first-of-all")
    promoted = await promote_to_production(site.target, site.spec("1"))
    stopped = {"phase": Phase.ROLLING_BACK, "outcome": "rolled_back", "ended_at": None, "driver": None}
    await _journal.save(promoted.model_copy(update=stopped))
    [record] = await reconcile_rollouts([site.target])
    assert (record.phase, record.outcome) == (Phase.ENDED, "promoted"), record.reason
    assert await site.arms() == {"stable": ("first-of-all-1", 100.0)}
    assert "first-of-all-1" in await site.deployments()


async def _phase(site: Site, kind: str, *phases: Phase) -> bool:
    record = await _journal.load(site.target.endpoint)
    return record is not None and record.kind == kind and record.phase in phases


@pytest.mark.slow
async def test_a_roll_back_that_cannot_be_done_is_an_error_and_changes_nothing(site: Site) -> None:
    async with client_of(site.target) as client:
        await client.create(site.spec("0", "missing"))
    with pytest.raises(RolloutError, match="was not rolled back"):
        await roll_back(site.target, to=f"{site.target.model}-0")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def test_nobody_knows_a_former_version(site: Site) -> None:
    with pytest.raises(InvalidInput, match="name the deployment"):
        await roll_back(site.target)


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
    record = await _stopped_in_the_middle(site)
    before = await site.endpoint()
    with pytest.raises(RolloutInProgress, match=record.candidate):
        await canary_rollout(site.target, site.spec("3"), QUICK)
    assert await site.endpoint() == before


@pytest.mark.slow
async def test_rolling_back_wins_over_a_rollout_in_flight(site: Site) -> None:
    plan = QUICK.model_copy(update={"step_seconds": 25.0})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(site.target, site.spec("2"), plan))
        await eventually(lambda: answers.by_arm["canary"] > 20)
        back = await roll_back(site.target, note="I do not like it")
        assert (back.outcome, back.decided_by) == ("rolled_back", "person")
        assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
        with pytest.raises(StaleEpoch):
            await asyncio.wait_for(running, 60)
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_rolling_back_wins_over_who_takes_the_rollout_up_in_the_same_moment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reconcile, say, that has read the record before, and goes on with it."""
    open_one = await _stopped_in_the_middle(site)
    overtakers = []

    async def overtaken(target: DeploymentTarget, turned: RolloutRecord) -> RolloutRecord:
        taken = await _start.take_over(target, turned)
        if not overtakers:
            overtakers.append(await _start.take_over(target, open_one))
        return taken

    module = import_module("prefect_modeldeploy.flows.roll_back")  # its flow has the same name
    monkeypatch.setattr(module, "take_over", overtaken)
    back = await roll_back(site.target)
    assert (back.outcome, back.decided_by) == ("rolled_back", "person")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    with pytest.raises(StaleEpoch):
        await _ownership.check(overtakers[0])


@pytest.mark.slow
async def test_a_version_that_is_named_serves_though_another_roll_back_came_in_between(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = site.target.model
    await promote_to_production(site.target, site.spec("0"))
    await _stopped_in_the_middle(site)
    others, second_is_there, first_has_it = [], asyncio.Event(), asyncio.Event()

    async def overtaken(target: DeploymentTarget, turned: RolloutRecord) -> RolloutRecord:
        """Two that have both read the open record: the one that names a version comes first."""
        if others:
            second_is_there.set()
            await first_has_it.wait()
            return await _start.take_over(target, turned)
        others.append(asyncio.create_task(roll_back(site.target)))
        await second_is_there.wait()
        taken = await _start.take_over(target, turned)
        first_has_it.set()
        await eventually(lambda: _is_driven_by_another(taken), every=0.2)
        return taken

    monkeypatch.setattr(roll_backs, "take_over", overtaken)
    back = await roll_back(site.target, to=f"{model}-1")
    assert (back.kind, back.outcome, back.canary) == ("roll_back", "promoted", f"{model}-1")
    assert (await others[0]).outcome == "rolled_back"
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


async def _is_driven_by_another(record: RolloutRecord) -> bool:
    saved = await _journal.load(record.endpoint)
    return saved is not None and saved.driver != record.driver


@pytest.mark.slow
async def test_a_run_that_cannot_wait_for_a_person_takes_over_no_rollout_that_may_ask_one(site: Site) -> None:
    lost = await _stopped_in_the_middle(site)
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


async def _stopped_in_the_middle(site: Site) -> RolloutRecord:
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
