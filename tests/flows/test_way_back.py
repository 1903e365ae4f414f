"""The way back from a canary at a provider, while the provider is away, or somebody has deleted what it is about.

The gateway can still reach what serves: traffic moves without the provider's control API.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy import (
    Approval,
    Autoscaling,
    DeploymentStatus,
    DeploymentTarget,
    canary_rollout,
    orders,
    promote_to_production,
)
from prefect_modeldeploy.errors import InvalidInput, ProviderUnavailable, RolloutError
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord, abort
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks.traffic import aset_arms
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.arms_kit import Site
from tests.flows.conftest import QUICK
from tests.flows.hosted import MAKERS
from tests.providers import baseten_kit
from tests.sandbox.kit import running_sandbox
from tests.traffic.load import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("prefect_server")]

PLAN = QUICK.model_copy(update={"step_seconds": 200.0, "deadline_seconds": 600.0, "failed_canary": "delete"})


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_sandbox("baseten") as sandbox, arms_kit.site(tmp_path / "node", sandbox) as site:
        yield site


@asynccontextmanager
async def _rollout(
    site: Site, target: DeploymentTarget, tmp_path: Path
) -> AsyncIterator[tuple[asyncio.Task[RolloutRecord], RolloutRecord]]:
    """A rollout whose canary gets requests, and its record then. Stable is none that the provider holds on to."""
    stable = baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "stable"), "v1")
    await promote_to_production(target, stable)
    candidate = baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "canary"))
    async with load(await site.url(), rate=50, body=b'{"x": 1}') as answers:
        run = asyncio.create_task(canary_rollout(target, candidate, PLAN))
        try:
            await eventually(lambda: answers.by_arm["canary"] > 10 or run.done(), seconds=60)
            record = await _journal.load(target.endpoint)
            assert record is not None
            yield run, record
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def _delete(target: DeploymentTarget, deployment_id: str) -> None:
    async with client_of(target) as client:
        await client.delete(deployment_id)


async def test_a_canary_that_was_deleted_by_hand_gets_no_more_requests(site: Site, tmp_path: Path) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    async with _rollout(site, target, tmp_path) as (run, record):
        await _delete(target, record.canary)
        ended = await asyncio.wait_for(run, 60)
        assert (ended.outcome, ended.decided_by) == ("rolled_back", "health check"), ended.reason
        assert await site.arms() == {"stable": (record.stable, 100.0)}


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 429, "retry_after": 40}], ids=["answers 503", "wants to be waited for"]
)
async def test_an_abort_is_not_held_up_by_a_control_api_that_is_away(
    site: Site, tmp_path: Path, fault: dict[str, Any]
) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    async with _rollout(site, target, tmp_path) as (_, record):
        await site.sandbox.control.fault(provider="baseten", path="/v1/*", kind="status", times=None, **fault)
        await orders.order(target.endpoint, "abort", "now")

        async def back() -> bool:
            return await site.arms() == {"stable": (record.stable, 100.0)}

        await eventually(back, seconds=25)
        [armed] = await site.sandbox.control.faults()
        assert armed.fired, "the provider is still away"
        await site.sandbox.control.clear_faults()


async def test_where_stable_was_deleted_by_hand_the_canary_goes_on(site: Site, tmp_path: Path) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    async with _rollout(site, target, tmp_path) as (run, record):
        assert record.stable is not None
        before = await site.arms()
        await _delete(target, record.stable)
        await orders.order(target.endpoint, "abort", "now")
        ended = await asyncio.wait_for(run, 60)
        assert ended.outcome == "held"
        assert f"{record.stable} cannot serve, so {record.canary} goes on" in ended.reason
        assert await site.arms() == before


async def test_what_was_seen_unable_to_serve_is_not_able_because_its_provider_is_silent(
    site: Site, tmp_path: Path
) -> None:
    """Else all the traffic would go to a stable version that is known to be stopped."""
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    async with _rollout(site, target, tmp_path) as (_, record), client_of(target) as client:
        assert record.stable is not None
        effects = Effects(target)
        await client.stop(record.stable)
        assert not await effects._can(record.stable, at_once=True)
        await site.sandbox.control.fault(provider="baseten", path="/v1/*", kind="status", status=503, times=None)
        assert not await effects._can(record.stable, at_once=True)
        assert await effects._can(record.canary)
        await site.sandbox.control.clear_faults()
        await client.start(record.stable)
        await eventually(partial(effects._can, record.stable, at_once=True))


@pytest.mark.usefixtures("without_waits")
@pytest.mark.parametrize("another_process", [False, True])
async def test_a_canary_that_cannot_serve_gets_no_traffic_while_the_provider_that_starts_stable_is_away(
    another_process: bool, site: Site, tmp_path: Path
) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    async with _rollout(site, target, tmp_path) as (_, record), client_of(target) as client:
        assert record.stable is not None
        effects = Effects(target)
        before = await site.arms()
        for arm in (record.stable, record.canary):
            await client.stop(arm)
            assert not await effects._can(arm)
        await site.sandbox.control.fault(provider="baseten", path="/v1/*", kind="status", status=503, times=None)
        turned = abort(record, "neither serves", decided_by="person")
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):  # it is tried again
                await effects(Effect.RESTORE, turned)
            assert (await site.arms())["stable"] == (record.stable, 100.0)
        await site.sandbox.control.clear_faults()
        await client.delete(record.stable)
        await client.start(record.canary)
        await eventually(partial(effects._can, record.canary))
        effects = Effects(target) if another_process else effects
        assert (await effects(Effect.RESTORE, turned)).outcome == "held"
        assert await site.arms() == before, "what it had"


async def test_what_is_degraded_or_updates_and_answers_is_no_reason_to_wait_or_to_turn_back(tmp_path: Path) -> None:
    """Foundry's DEGRADED: some of its replicas are ready, which is enough for the canary's share, and for stable's."""
    async with running_sandbox("foundry") as sandbox, arms_kit.site(tmp_path / "node", sandbox) as site:
        hosted = await MAKERS["foundry"](sandbox, tmp_path)
        target = hosted.target.model_copy(update={"gateway": site.gateway, "endpoint": "prod"})
        async with client_of(target) as client:
            [stable] = await client.find(model=target.model)
            await aset_arms(target, {"stable": (stable.id, 100.0)})
            plan = PLAN.model_copy(update={"unready_seconds": 1.0, "ready_timeout_seconds": 20.0})
            async with load(await site.url(), rate=50, body=b'{"x": 1}') as answers:
                run = asyncio.create_task(canary_rollout(target, hosted.newer[0], plan))
                await eventually(lambda: answers.by_arm["canary"] > 10 or run.done(), seconds=60)
                record = await _journal.load(target.endpoint)
                assert record is not None
                await sandbox.control.fate(timeline="start", stage="DEGRADED", outcome="stuck", times=2)
                for one in (stable.id, record.canary):
                    await client.stop(one)
                    await client.start(one)
                    assert (await client.get(one)).status is DeploymentStatus.DEGRADED
                seen = answers.by_arm["canary"]
                await eventually(lambda: answers.by_arm["canary"] > seen + 50 or run.done(), seconds=60)
                assert not run.done(), "it answers: no reason to turn it back"
                await orders.order(target.endpoint, "abort", "now")
                ended = await asyncio.wait_for(run, 15)
            assert ended.outcome == "rolled_back", ended.reason
            assert await site.arms() == {"stable": (stable.id, 100.0)}


async def test_what_sleeps_is_woken_before_it_gets_requests_there_and_back(site: Site, tmp_path: Path) -> None:
    """Nobody asks for a prediction: no request wakes anything here."""
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    sleepy = Autoscaling(min_replicas=0, max_replicas=1, scale_down_delay_seconds=900)
    stable = baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "stable"), "v1", autoscaling=sleepy)
    candidate = baseten_kit.spec_of(baseten_kit.make_truss(tmp_path / "canary"), autoscaling=sleepy)
    await promote_to_production(target, stable)
    run = asyncio.create_task(canary_rollout(target, candidate, PLAN, approval=Approval(before=("traffic",))))
    record = await _at(target, Phase.READY)
    assert record.stable is not None
    async with client_of(target) as client:

        async def statuses() -> list[DeploymentStatus]:
            return [(await client.get(one)).status for one in (record.stable or "", record.canary)]

        await site.sandbox.control.advance(1000)
        assert await statuses() == [DeploymentStatus.SCALED_TO_ZERO] * 2
        await eventually(lambda: _promoted(target), seconds=30)
        await _at(target, Phase.SHIFTED)
        assert await statuses() == [DeploymentStatus.SCALED_TO_ZERO, DeploymentStatus.READY]
        await site.sandbox.control.advance(1000)
        await orders.order(target.endpoint, "abort", "now")
        ended = await asyncio.wait_for(run, 60)
        assert ended.outcome == "rolled_back", ended.reason
        assert (await client.get(record.stable)).status is DeploymentStatus.READY


async def _at(target: DeploymentTarget, phase: Phase) -> RolloutRecord:
    async def there() -> RolloutRecord | None:
        record = await _journal.load(target.endpoint)
        return record if record and record.phase is phase else None

    record = await eventually(there, seconds=60)
    assert isinstance(record, RolloutRecord)
    return record


async def _promoted(target: DeploymentTarget) -> bool:
    try:
        await orders.answer(target.endpoint, "promote")
    except (RolloutError, InvalidInput):  # it does not wait for an answer yet
        return False
    return True
