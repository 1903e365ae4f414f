"""Roll-back: what served before serves again; it wins over whatever is under way."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from importlib import import_module
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Pending

from prefect_modeldeploy import canary_rollout, promote_to_production, reconcile_rollouts, roll_back
from prefect_modeldeploy.errors import InvalidInput, RolloutError, StaleEpoch
from prefect_modeldeploy.flows import _ownership, _start
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.rollout import Approval, Phase, RolloutRecord
from prefect_modeldeploy.target import DeploymentTarget, client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint, aset_arms
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.test_interrupted_rollouts import stopped_in_the_middle
from tests.rollout.test_machine import record

pytestmark = pytest.mark.usefixtures("prefect_server")

roll_backs = import_module("prefect_modeldeploy.flows.roll_back")
"""The module, which the flow of its name hides."""


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
    stopped = await stopped_in_the_middle(site)
    await aclaim_endpoint(site.target)  # and nothing was saved after it
    back = await roll_back(site.target, note="it stood still")
    assert (back.id, back.outcome, back.decided_by) == (stopped.id, "rolled_back", "person")
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
    open_one = await stopped_in_the_middle(site)
    overtakers = []

    async def overtaken(target: DeploymentTarget, turned: RolloutRecord) -> RolloutRecord:
        taken = await _start.take_over(target, turned)
        if not overtakers:
            overtakers.append(await _start.take_over(target, open_one))
        return taken

    monkeypatch.setattr(roll_backs, "take_over", overtaken)
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
    await stopped_in_the_middle(site)
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


async def _phase(site: Site, kind: str, *phases: Phase) -> bool:
    saved = await _journal.load(site.target.endpoint)
    return saved is not None and saved.kind == kind and saved.phase in phases


async def _is_driven_by_another(record: RolloutRecord) -> bool:
    saved = await _journal.load(record.endpoint)
    return saved is not None and saved.driver != record.driver
