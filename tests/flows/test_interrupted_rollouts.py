"""Rollouts that do not run to their end at once: held, cancelled, killed, rolled back by a person."""

import asyncio

import pytest
from prefect.variables import Variable

from prefect_modeldeploy import canary_rollout, promote_to_production, roll_back
from prefect_modeldeploy.errors import InvalidInput, RolloutError, RolloutInProgress, StaleEpoch
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site

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
    first, *others = await asyncio.gather(*(roll_back(site.target, note="drift") for _ in range(3)))
    assert first.id != promoted.id
    assert {(other.id, other.outcome) for other in others} == {(first.id, "promoted")}
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


@pytest.mark.slow
async def test_an_alarm_that_comes_while_the_former_version_is_started_waits_for_it(site: Site) -> None:
    model = site.target.model
    await promote_to_production(site.target, site.spec("2"))
    one = asyncio.ensure_future(roll_back(site.target))
    await eventually(lambda: _phase(site, "roll_back", Phase.READY, Phase.ATTACHED, Phase.FULL), seconds=60)
    other = await roll_back(site.target)
    assert (other.id, other.outcome) == ((await one).id, "promoted")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


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
async def test_an_open_rollout_is_taken_up_again_with_its_evidence(site: Site) -> None:
    """What a killed process leaves behind: a record that says where it stood, and a split in force."""
    record = await _stopped_in_the_middle(site)
    assert record.phase is Phase.SHIFTED
    async with await site.load() as answers:
        again = await canary_rollout(site.target, site.spec("2"), QUICK)
    assert (again.id, again.outcome) == (record.id, "promoted"), again.reason
    assert again.epoch > record.epoch
    assert len(again.steps) >= 1
    assert answers.count


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
