"""Rollouts as a user starts them, on real replicas behind a real proxy under live traffic."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.variables import Variable

from prefect_modeldeploy import CanaryPlan, JudgePlan, canary_rollout, promote_to_production, roll_back
from prefect_modeldeploy.errors import InvalidInput, RolloutError, RolloutInProgress, StaleEpoch, UnsupportedOperation
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import aclaim_endpoint
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site

pytestmark = pytest.mark.usefixtures("prefect_server")


async def test_the_first_version_is_promoted_without_anything_to_compare_with(new_site: Callable[[str], Site]) -> None:
    site = new_site("first")
    record = await promote_to_production(site.target, site.spec("1"), note="hello")
    assert (record.outcome, record.stable, record.canary, record.why) == ("promoted", None, "first-1", "hello")
    assert await site.arms() == {"stable": ("first-1", 100.0)}


async def test_a_canary_needs_something_to_compare_with(new_site: Callable[[str], Site]) -> None:
    site = new_site("nothing")
    with pytest.raises(InvalidInput, match="promote_to_production"):
        await canary_rollout(site.target, site.spec("1"))
    assert await site.deployments() == {} or "nothing-1" not in await site.deployments()


async def test_a_good_version_is_promoted_and_the_former_one_sleeps(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        record = await canary_rollout(site.target, site.spec("2"), QUICK, note="better")
    model = site.target.model
    assert (record.outcome, record.decided_by, record.phase) == ("promoted", "failures", Phase.ENDED), record.reason
    assert await site.arms() == {"stable": (f"{model}-2", 100.0)}
    assert [step.weight for step in record.steps] == [20, 50]
    assert record.steps[-1].canary_requests > 100
    await eventually(lambda: _is(site, f"{model}-1", "SCALED_TO_ZERO"))
    assert not [failure for failure in answers.failures if failure != "status 500"]
    report = Path(record.report or "").read_text()
    assert "was promoted" in report
    assert "better" in report


async def _is(site: Site, deployment: str, status: str) -> bool:
    return (await site.deployments()).get(deployment) == status


async def test_a_broken_version_is_rolled_back_by_itself_and_deleted(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        state = await canary_rollout(site.target, site.spec("2", "broken"), QUICK, return_state=True)
    assert state.name == "RolledBack"
    record = await state.aresult()
    model = site.target.model
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}
    await eventually(lambda: _is_gone(site, f"{model}-2"))
    assert not [failure for failure in answers.failures if failure != "status 500"]


async def _is_gone(site: Site, deployment: str) -> bool:
    return deployment not in await site.deployments()


async def test_a_version_that_cannot_load_never_gets_a_request(site: Site) -> None:
    async with await site.load(rate=50) as answers:
        record = await canary_rollout(site.target, site.spec("2", "missing"), QUICK)
    assert record.outcome == "rolled_back"
    assert "missing" in record.reason
    assert set(answers.by_arm) <= {"stable"}
    assert list(await site.arms()) == ["stable"]


async def test_without_traffic_there_is_no_verdict_and_the_plan_says_what_then(site: Site) -> None:
    plan = QUICK.model_copy(update={"deadline_seconds": 3.0})
    record = await canary_rollout(site.target, site.spec("2"), plan)
    assert record.outcome == "rolled_back"
    assert "undecided" in record.reason


async def test_undecided_can_hold_the_split_for_a_person_who_rolls_it_back(site: Site) -> None:
    plan = QUICK.model_copy(update={"steps": (50,), "deadline_seconds": 3.0, "on_undecided": "hold"})
    record = await canary_rollout(site.target, site.spec("2"), plan)
    model = site.target.model
    assert record.outcome == "held"
    assert (await site.arms())["canary"] == (f"{model}-2", 50.0)
    back = await roll_back(site.target)
    assert (back.id, back.outcome) == (record.id, "rolled_back")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


async def test_what_serves_already_cannot_be_rolled_out(site: Site) -> None:
    before = await site.endpoint()
    with pytest.raises(InvalidInput, match="serves already"):
        await canary_rollout(site.target, f"{site.target.model}-1", QUICK)
    assert await site.endpoint() == before


async def test_a_promotion_can_be_rolled_back_and_forth(site: Site) -> None:
    model = site.target.model
    await promote_to_production(site.target, site.spec("2"))
    assert (await site.arms())["stable"] == (f"{model}-2", 100.0)
    back = await roll_back(site.target, note="it was wrong")
    assert (back.kind, back.canary, back.why) == ("roll_back", f"{model}-1", "it was wrong")
    assert await site.arms() == {"stable": (f"{model}-1", 100.0)}


async def test_a_roll_back_that_cannot_be_done_is_an_error_and_changes_nothing(site: Site) -> None:
    async with client_of(site.target) as client:
        await client.create(site.spec("0", "missing"))
    with pytest.raises(RolloutError, match="was not rolled back"):
        await roll_back(site.target, to=f"{site.target.model}-0")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def test_nobody_knows_a_former_version(site: Site) -> None:
    with pytest.raises(InvalidInput, match="name the deployment"):
        await roll_back(site.target)


async def test_a_native_promotion_needs_a_provider_that_has_one(site: Site) -> None:
    with pytest.raises(UnsupportedOperation, match="swap"):
        await promote_to_production(site.target, site.spec("2"), mode="native")
    assert f"{site.target.model}-2" not in await site.deployments()


async def test_harm_during_the_bake_brings_the_former_version_back(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        record = await promote_to_production(site.target, site.spec("2", "broken"), bake_seconds=30)
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


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


async def test_another_candidate_has_to_wait_for_the_open_rollout(site: Site) -> None:
    record = await _stopped_in_the_middle(site)
    before = await site.endpoint()
    with pytest.raises(RolloutInProgress, match=record.candidate):
        await canary_rollout(site.target, site.spec("3"), QUICK)
    assert await site.endpoint() == before


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


async def test_the_record_is_kept_in_a_variable_that_other_machines_can_read(site: Site) -> None:
    await promote_to_production(site.target, site.spec("2"))
    saved = await Variable.aget(f"modeldeploy_rollout__{site.target.endpoint}")
    assert isinstance(saved, str)
    assert len(saved) < 5000


def test_the_default_plan_is_a_careful_one() -> None:
    plan = CanaryPlan()
    assert plan.steps[0] <= 5
    assert plan.on_undecided == "roll_back"
    assert plan.judge == JudgePlan(alpha=0.05, beta=0.05, margin=0.01)
