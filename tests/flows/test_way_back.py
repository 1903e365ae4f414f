"""The way back from a canary at a provider, while the provider is away, or somebody has deleted what it is about.

The gateway can still reach what serves: traffic moves without the provider's control API.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy import DeploymentTarget, canary_rollout, orders, promote_to_production
from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.arms_kit import Site
from tests.flows.conftest import QUICK
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
