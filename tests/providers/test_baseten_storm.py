"""A fifth of all requests goes wrong: every operation still ends in the right state, nothing is there twice or left."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus
from prefect_modeldeploy.providers.baseten import BasetenClient
from prefect_modeldeploy.transport import RetryPolicy
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of
from tests.sandbox.storm import all_done, storm, struck, until_done

POLICY = RetryPolicy(attempts=8, first_seconds=0.005, longest_seconds=0.05)


async def weather(lives: int, truss: Path) -> None:
    """Five operations on each of so many deployments; every other one is deleted in the end."""
    async with baseten(policy=POLICY, visible_seconds=0.3) as (sandbox, client):
        await storm(sandbox.control, "baseten")
        operations = [_life(client, truss, number) for number in range(lives)]
        kept = [one for one in await all_done(operations, at_once=12) if one is not None]
        done = await struck(sandbox.control)
        await sandbox.control.clear_faults()
        print(f"{5 * lives} operations, faults: {done}")
        assert all(done.values()), "there was no storm"

        there = {one.id: one for one in await client.find(model="sandbox-model")}
        assert set(there) == {seeded(sandbox), *kept}  # 0 orphans, 0 lost
        assert len({one.name for one in there.values()}) == len(there)  # 0 duplicates
        for deployment_id in kept:
            state = there[deployment_id]
            assert state.status is DeploymentStatus.READY
            assert state.autoscaling is not None
            assert state.autoscaling.max_replicas == 5


def _life(client: BasetenClient, truss: Path, number: int) -> Callable[[], Awaitable[str | None]]:
    async def run() -> str | None:
        created = await until_done(lambda: client.create(spec_of(truss, f"life-{number}")))
        await until_done(lambda: client.scale(created.id, Autoscaling(max_replicas=5)))
        stopped = await until_done(lambda: client.stop(created.id))
        assert stopped.status is DeploymentStatus.STOPPED
        started = await until_done(lambda: client.start(created.id))
        assert started.status is DeploymentStatus.READY
        if number % 2:
            return created.id
        await until_done(lambda: client.delete(created.id))
        return None

    return run


async def test_sixty_operations_in_a_storm(tmp_path: Path) -> None:
    await weather(12, make_truss(tmp_path))


@pytest.mark.chaos
@pytest.mark.timeout(580)
async def test_a_thousand_operations_in_a_storm(tmp_path: Path) -> None:
    await weather(200, make_truss(tmp_path))


async def test_promotions_in_a_storm_are_each_started_once(tmp_path: Path) -> None:
    async with baseten(policy=POLICY, visible_seconds=0.3) as (sandbox, client):
        truss, former = make_truss(tmp_path), seeded(sandbox)
        made = [(await client.create(spec_of(truss, f"v{number}"))).id for number in range(2, 5)]
        await storm(sandbox.control, "baseten", share=0.3, seed=7)
        for one in made:
            promoted = await until_done(lambda one=one: client.promote(one, environment="production"))  # type: ignore[misc]
            assert (promoted.id, promoted.environment) == (one, "production")
        back = await until_done(lambda: client.roll_back(former, environment="production"))
        await sandbox.control.clear_faults()
        assert (back.id, back.environment) == (former, "production")
        assert len(await sandbox.control.table("baseten", "promotions")) == len(made) + 1
        assert len(await client.find(model="sandbox-model")) == len(made) + 1
