"""Rollouts that a worker runs: begun and turned back by events, and suspended until a person answers."""

from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.events.schemas.events import Resource
from prefect.exceptions import PrefectHTTPStatusError

from prefect_modeldeploy import orders, promote_to_production, reconcile_rollouts
from tests.conftest import eventually
from tests.deployed.conftest import LINES
from tests.deployed.kit import all_ended, call, runs_by, runs_of, spec_as_json
from tests.flows.conftest import QUICK, Site
from tests.readme import block_after, execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("deployed", "worker")]

CANARY, BACK = "canary-rollout/canary-rollout", "roll-back/roll-back"


async def emit(event: str, site: Site, **payload: Any) -> None:
    """An event about the target, as any other program would send it."""
    name = site.target.endpoint
    resource = Resource({"prefect.resource.id": f"modeldeploy.local.{name}", "modeldeploy.target": name})
    async with get_events_client() as client:
        await client.emit(Event(event=event, resource=resource, payload=payload))


async def have_ended(name: str, times: int) -> bool:
    return len(await runs_by("AUTOMATION", name)) == times and await all_ended(name)


async def test_events_start_a_canary_and_bring_the_traffic_back(site: Site) -> None:
    """A model is registered, twice: the first canary is ended by a drift alert, the second by an abort."""
    await promote_to_production(site.target, site.spec("1", "good"))
    before = await site.arms()

    recipe = block_after("**A canary when the registry has a new version.**")
    registered = recipe.replace('"production"', repr(site.target.endpoint))

    async def canary_has_traffic() -> bool:
        return (await site.arms()).get("canary", ("", 0.0))[1] > 0

    for times, alarm in enumerate(("modeldeploy.drift.alert", "modeldeploy.rollout.abort"), start=1):
        await execute(registered, candidate=spec_as_json(site, "2"))
        await eventually(canary_has_traffic, 120, every=0.5)
        await emit(alarm, site, reason="the prices have moved")
        for name in (BACK, CANARY):
            await eventually(lambda name=name, times=times: have_ended(name, times), 120, every=0.5)
        assert await site.arms() == before
    assert {run.state_name for run in await runs_by("AUTOMATION", BACK)} == {"RolledBack"}
    for run in await runs_by("AUTOMATION", CANARY):
        assert run.state is not None
        assert run.state.name == "RolledBack" or "was taken over" in str(run.state.message)


WRONG = [
    {"plan": {"steps": [500]}},
    {"plan": {"judge": {"alpha": 2}}},
    {"candidate": {"name": "No Good", "model": "fraud"}},
    {"approval": {"timeout_seconds": 0}},
]


async def test_wrong_input_is_refused_before_a_run_exists(site: Site) -> None:
    before = await runs_of(CANARY)
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(CANARY)
        for wrong in WRONG:
            parameters = {"target": site.target.endpoint, "candidate": "fraud-2"} | wrong
            with pytest.raises(PrefectHTTPStatusError) as refused:
                await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
            assert refused.value.response.status_code in (409, 422)
    assert await runs_of(CANARY) == before


def test_the_blocks_can_be_created_again(deployed: dict[str, str]) -> None:
    assert "deployment-target/production" in call(deployed, "bash", "-euc", LINES[1])


async def test_a_run_that_waits_for_a_yes_before_traffic_has_no_process(site: Site) -> None:
    """Suspended, answered, and run again by the worker up to its end."""
    target = site.target.endpoint
    await promote_to_production(site.target, site.spec("1", "good"))
    approval = {"before": ["traffic"], "timeout_seconds": 600}
    plan = {**QUICK.model_dump(mode="json"), "steps": [50]}
    parameters = {"target": target, "candidate": spec_as_json(site, "2"), "plan": plan, "approval": approval}
    async with get_client() as client, await site.load() as answers:
        await site.history(answers)
        deployment = await client.read_deployment_by_name(CANARY)
        started = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        async def is_now(name: str) -> bool:
            state = (await client.read_flow_run(started.id)).state
            assert state is None or state.name not in ("Failed", "Crashed"), state
            return state is not None and state.name == name

        await eventually(lambda: is_now("Suspended"), 120, every=0.5)
        assert await site.arms() == {"stable": (f"{target}-1", 100.0)}
        assert await reconcile_rollouts([site.target]) == [], "it is not lost: a person is to answer"
        await orders.answer(target, "promote", "go", "ada")
        await eventually(lambda: is_now("Promoted"), 200, every=0.5)
    assert await site.arms() == {"stable": (f"{target}-2", 100.0)}
