"""Scale to zero and wake where the provider has neither: Fiddler stops and starts, and measures nothing."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from prefect_modeldeploy import DeploymentTarget, scale_to_zero, wake_up
from prefect_modeldeploy.deployments import Capability, DeploymentStatus
from prefect_modeldeploy.target import client_of
from tests.providers.fiddler_kit import artifact, credentials, spec
from tests.sandbox.kit import running_sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest_asyncio.fixture
async def target() -> AsyncIterator[DeploymentTarget]:
    """The seeded model of a Fiddler server: one deployment, which has no role."""
    async with running_sandbox("fiddler") as sandbox:
        yield DeploymentTarget(credentials=credentials(sandbox), model="churn", endpoint=f"churn-{uuid4().hex[:8]}")


async def states(target: DeploymentTarget) -> dict[str | None, DeploymentStatus]:
    async with client_of(target) as client:
        return {one.version: one.status for one in await client.find(model="churn")}


async def test_wake_finds_what_scale_to_zero_stopped_and_leaves_what_somebody_else_did(
    target: DeploymentTarget, tmp_path: Path
) -> None:
    async with client_of(target) as client:
        made = await client.create(spec(artifact(tmp_path / "artifact")))
        await client.stop(made.id)
    before = await states(target)
    assert sorted(before.values()) == [DeploymentStatus.READY, DeploymentStatus.STOPPED]
    await scale_to_zero([target], only_if_idle_seconds=None, on_no_wake="stop")
    assert set((await states(target)).values()) == {DeploymentStatus.STOPPED}
    await scale_to_zero([target], only_if_idle_seconds=None, on_no_wake="stop")  # as a schedule does
    [row] = await wake_up([target], timeout_seconds=30)
    assert (row.action, row.endpoint) == ("woken", target.endpoint)
    assert await states(target) == before
    assert await wake_up([target]) == []


async def test_what_nobody_can_tell_the_idleness_of_is_kept(target: DeploymentTarget) -> None:
    assert not target.credentials.can(Capability.METRICS)
    [row] = await scale_to_zero([target], only_if_idle_seconds=300, on_no_wake="stop")
    assert (row.action, row.reason) == ("kept", "nobody knows how long it has been idle")
    assert set((await states(target)).values()) == {DeploymentStatus.READY}
    assert await wake_up([target]) == []
