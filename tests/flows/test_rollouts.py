"""Rollouts as a user starts them, on real replicas behind a real proxy under live traffic."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_modeldeploy import CanaryPlan, JudgePlan, canary_rollout, promote_to_production
from prefect_modeldeploy.errors import InvalidInput, UnsupportedOperation
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.target import client_of, router_of
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site, has_served, has_told

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


@pytest.mark.slow
async def test_a_name_that_another_deployment_has_is_refused_and_the_other_stays(site: Site) -> None:
    async with client_of(site.target) as client:
        other = await client.create(site.spec("2", "differs"))
    record = await canary_rollout(site.target, site.spec("2"), QUICK)
    assert (record.outcome, record.decided_by) == ("rolled_back", "error")
    assert other.id in record.reason
    assert other.id in await site.deployments(), "it is not this rollout's to delete"
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


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
    await eventually(lambda: has_served(site.target, f"{model}-2"), 60, every=0.2)


@pytest.mark.slow
async def test_a_sticky_endpoint_stays_sticky(site: Site) -> None:
    async with router_of(site.target) as (router, _):
        await router.put_endpoint((await site.endpoint()).model_copy(update={"sticky_header": "X-User"}))
    record = await promote_to_production(site.target, site.spec("2"))
    assert record.outcome == "promoted", record.reason
    endpoint = await site.endpoint()
    assert (endpoint.sticky_header, [arm.upstream for arm in endpoint.arms]) == ("X-User", [f"{site.target.model}-2"])


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
    back = {"attached", "shifted", "rolling-back", "restored", "detached", "retired", "ended"}
    await eventually(lambda: has_told(site.target, back), 60, every=0.2)
    assert not [failure for failure in answers.failures if failure != "status 500"]


async def _is_gone(site: Site, deployment: str) -> bool:
    return deployment not in await site.deployments()


@pytest.mark.slow
async def test_a_version_that_cannot_load_never_gets_a_request(site: Site) -> None:
    async with await site.load(rate=50) as answers:
        record = await canary_rollout(site.target, site.spec("2", "missing"), QUICK)
    assert record.outcome == "rolled_back"
    assert "missing" in record.reason
    assert set(answers.by_arm) <= {"stable"}
    assert list(await site.arms()) == ["stable"]


@pytest.mark.slow
async def test_a_version_that_is_not_ready_in_time_never_gets_a_request_and_is_let_go_of(site: Site) -> None:
    """It loads for ever: nothing says that it has failed."""
    candidate = site.spec("2").model_copy(update={"source": "takes_for_ever:predict"})
    plan = QUICK.model_copy(update={"ready_timeout_seconds": 2.0})
    async with await site.load(rate=50) as answers:
        await site.history(answers, 50)
        record = await canary_rollout(site.target, candidate, plan)
        seen = answers.count
        await eventually(lambda: answers.count > seen + 50)
    assert (record.outcome, record.decided_by) == ("rolled_back", "error")
    assert f"after 2 s still {{'{candidate.name}': 'STARTING'}}" in record.reason
    assert set(answers.by_arm) == {"stable"}
    assert set(answers.failures) <= {"status 500"}, "the models' own"
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    await eventually(lambda: _is_gone(site, candidate.name))


@pytest.mark.slow
async def test_without_traffic_there_is_no_verdict_and_the_plan_says_what_then(site: Site) -> None:
    plan = QUICK.model_copy(update={"deadline_seconds": 3.0})
    record = await canary_rollout(site.target, site.spec("2"), plan)
    assert record.outcome == "rolled_back"
    assert "undecided" in record.reason


async def test_what_serves_already_cannot_be_rolled_out(site: Site) -> None:
    before = await site.endpoint()
    with pytest.raises(InvalidInput, match="serves already"):
        await canary_rollout(site.target, f"{site.target.model}-1", QUICK)
    assert await site.endpoint() == before


async def test_a_native_promotion_needs_a_provider_that_has_one(site: Site) -> None:
    with pytest.raises(UnsupportedOperation, match="swap"):
        await promote_to_production(site.target, site.spec("2"), mode="native")
    assert f"{site.target.model}-2" not in await site.deployments()


@pytest.mark.slow
async def test_harm_during_the_bake_brings_the_former_version_back(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        record = await promote_to_production(site.target, site.spec("2", "broken"), bake_seconds=30)
    # On a busy machine its latency may give it away before its failures do: the careful plan judges both.
    assert record.outcome == "rolled_back"
    assert record.decided_by in ("failures", "latency")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


def test_the_default_plan_is_a_careful_one() -> None:
    plan = CanaryPlan()
    assert plan.steps[0] <= 5
    assert plan.on_undecided == "roll_back"
    assert plan.judge == JudgePlan(alpha=0.05, beta=0.05, margin=0.01)
