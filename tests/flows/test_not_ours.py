"""A rollout lets go of what it has created and replaced; it leaves alone what was there, and what others need."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prefect_modeldeploy import (
    DeploymentSpec,
    DeploymentTarget,
    canary_rollout,
    orders,
    promote_to_production,
    reconcile_rollouts,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._once import acreate_deployment
from prefect_modeldeploy.rollout import Effect, Phase
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.conftest import QUICK, Site
from tests.providers import baseten_kit
from tests.rollout.test_machine import record
from tests.sandbox.kit import running_sandbox

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]

UNDECIDED = QUICK.model_copy(update={"steps": (50,), "step_seconds": 0.5, "deadline_seconds": 1.0})


@pytest.mark.slow
async def test_a_version_that_was_there_stays_and_so_does_one_that_another_endpoint_serves(site: Site) -> None:
    model = site.target.model
    async with client_of(site.target) as client:
        shared = EndpointArm(name="stable", upstream=f"{model}-1", weight=100)
        await client.router().put_endpoint(Endpoint(name=f"{model}-eu", arms=(shared,)))
        there = await client.create(site.spec("2"))
        async for _ in client.wait([there.id], lambda deployment: deployment.ready):
            pass
    rolled_out = await canary_rollout(site.target, site.spec("2"), UNDECIDED)
    assert (rolled_out.outcome, (await site.deployments())[there.id]) == ("rolled_back", "READY")

    assert (await promote_to_production(site.target, site.spec("2"))).outcome == "promoted"
    assert (await site.deployments())[f"{model}-1"] == "READY"


async def test_a_spec_that_turns_out_to_be_what_serves_goes_nowhere_and_nothing_goes(site: Site) -> None:
    serving, effects = site.spec("1", "good"), Effects(site.target)
    names = {"stable": serving.name, "canary": serving.name, "endpoint": site.target.endpoint}
    back = await effects(Effect.DEPLOY, record(phase=Phase.CLAIMED, spec=serving, **names))
    assert (back.phase, back.spec) == (Phase.ROLLING_BACK, None)
    assert "serves already" in back.reason

    as_written_before = back.model_copy(update={"phase": Phase.DETACHED, "spec": serving})
    await effects(Effect.RETIRE_CANARY, as_written_before)
    assert (await site.deployments())[serving.name] == "READY"


@pytest.mark.slow
async def test_what_somebody_else_has_created_by_this_name_meanwhile_stays_after_an_abort(site: Site) -> None:
    effects, spec = Effects(site.target), site.spec("2")
    async with client_of(site.target) as client:
        theirs = await client.create(site.spec("2", "differs"))
    effects._creation = asyncio.ensure_future(acreate_deployment(site.target, spec))
    back = record(phase=Phase.DETACHED, spec=spec, canary=spec.name, endpoint=site.target.endpoint)
    await effects(Effect.RETIRE_CANARY, back)
    assert theirs.id in await site.deployments()


@pytest_asyncio.fixture
async def hosted(tmp_path: Path) -> AsyncIterator[arms_kit.Site]:
    async with running_sandbox("baseten") as sandbox, arms_kit.site(tmp_path / "node", sandbox) as site:
        yield site


async def _in_production(site: arms_kit.Site, truss: Path) -> tuple[DeploymentTarget, DeploymentSpec]:
    """A target that serves something, and a spec of something else."""
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    await promote_to_production(target, await arms_kit.deployment(site, "baseten"))
    return target, baseten_kit.spec_of(baseten_kit.make_truss(truss))


async def _has_struck(control: SandboxControl) -> bool:
    """Whether a fault has met a request."""
    return any(fault.fired for fault in await control.faults())


async def _names(target: DeploymentTarget) -> list[str]:
    async with client_of(target) as client:
        return [deployment.name for deployment in await client.find(model=target.model)]


@pytest.mark.slow
async def test_the_spec_that_serves_already_is_refused_where_ids_are_the_providers(
    hosted: arms_kit.Site, tmp_path: Path
) -> None:
    target, spec = await _in_production(hosted, tmp_path / "truss")
    await promote_to_production(target, spec)
    with pytest.raises(InvalidInput, match="serves already"):
        await canary_rollout(target, spec, UNDECIDED)
    assert spec.name in await _names(target)


@pytest.mark.slow
async def test_what_is_created_after_an_abort_goes_as_well(hosted: arms_kit.Site, tmp_path: Path) -> None:
    target, spec = await _in_production(hosted, tmp_path / "truss")
    control = hosted.sandbox.control
    await control.fault(provider="baseten", method="POST", path="*/deployments", kind="delay", seconds=20)
    run = asyncio.ensure_future(canary_rollout(target, spec, QUICK))

    async def answered() -> bool:
        sent = await control.requests(provider="baseten", method="POST", path="*/deployments")
        return all(request.seconds is not None for request in sent)

    await eventually(lambda: _has_struck(control), every=0.1)
    await orders.order("prod", "abort", "the wrong version")
    assert (await run).outcome == "rolled_back"
    await eventually(answered, every=0.1)
    assert spec.name not in await _names(target)


@pytest.mark.slow
async def test_what_is_still_being_created_goes_when_somebody_else_has_turned_back(
    hosted: arms_kit.Site, tmp_path: Path
) -> None:
    target, spec = await _in_production(hosted, tmp_path / "truss")
    control = hosted.sandbox.control
    await control.fault(provider="baseten", method="POST", path="*/deployments", kind="delay", seconds=3)
    effects = Effects(target)
    claimed = record(phase=Phase.CLAIMED, spec=spec, canary=spec.name, endpoint=target.endpoint)
    creating = asyncio.ensure_future(effects(Effect.DEPLOY, claimed))

    await eventually(lambda: _has_struck(control), every=0.1)
    creating.cancel()
    await asyncio.wait((creating,))
    await _journal.put(claimed.model_copy(update={"phase": Phase.ENDED, "outcome": "rolled_back", "epoch": 9}))
    assert spec.name not in await _names(target), "not yet"
    await effects.disown()
    assert await control.requests(provider="baseten", method="POST", path="*/deployments")
    assert spec.name not in await _names(target)


@pytest.mark.slow
async def test_what_is_created_after_the_end_of_a_cancelled_run_is_left_to_reconcile(
    hosted: arms_kit.Site, tmp_path: Path
) -> None:
    target, spec = await _in_production(hosted, tmp_path / "truss")
    before, control = await hosted.arms(), hosted.sandbox.control
    await control.fault(provider="baseten", method="POST", path="*/deployments", kind="delay", seconds=28)
    run = asyncio.ensure_future(canary_rollout(target, spec, QUICK))

    async def created() -> bool:
        return spec.name in await _names(target)

    await eventually(lambda: _has_struck(control), every=0.1)
    run.cancel()
    await asyncio.wait((run,))
    left = await _journal.load(target.endpoint)
    assert left is not None
    assert (left.phase, left.outcome) == (Phase.DETACHED, "rolled_back"), "the traffic is back, the canary may come"
    await eventually(created)
    [ended] = await reconcile_rollouts([target])
    assert (ended.outcome, ended.decided_by) == ("rolled_back", "cancellation")
    assert spec.name not in await _names(target)
    assert await hosted.arms() == before


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "left_at"), [(3, Phase.ENDED), (15, Phase.DETACHED)], ids=["soon", "later"])
async def test_a_creation_that_sigterm_has_cut_off_is_looked_for(
    seconds: float, left_at: Phase, hosted: arms_kit.Site, tmp_path: Path
) -> None:
    """Where it strikes in the event loop, asyncio cancels every task; the provider goes on with what it was sent."""
    target, spec = await _in_production(hosted, tmp_path / "truss")
    control, others = hosted.sandbox.control, asyncio.all_tasks()
    await control.fault(provider="baseten", method="POST", path="*/deployments", kind="delay", seconds=seconds)
    run = asyncio.ensure_future(canary_rollout(target, spec, QUICK))

    async def created() -> bool:
        return spec.name in await _names(target)

    await eventually(lambda: _has_struck(control), every=0.1)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    await asyncio.wait((run,))
    left = await _journal.load(target.endpoint)
    assert left is not None
    assert (left.phase, left.outcome) == (left_at, "rolled_back")
    if left_at is not Phase.ENDED:  # what came of it is gone by then
        await eventually(created)
    await reconcile_rollouts([target])
    assert spec.name not in await _names(target)
