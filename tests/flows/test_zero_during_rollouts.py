"""Scale to zero while another target, which shares no gateway, rolls the same model out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.variables import Variable

from prefect_modeldeploy import (
    Approval,
    DeploymentTarget,
    LocalServing,
    RolloutRecord,
    orders,
    promote_to_production,
    scale_to_zero,
)
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.conftest import eventually
from tests.flows.conftest import Site
from tests.flows.hosted import hosted, up

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ASKS = Approval(before=("promotion",))


def also(target: DeploymentTarget) -> DeploymentTarget:
    """Another target of the same model."""
    return target.model_copy(update={"endpoint": f"{target.endpoint}-eu"})


async def let_go(target: DeploymentTarget) -> dict[str, str]:
    """What becomes of the deployments, by name."""
    rows = await scale_to_zero([target], only_if_idle_seconds=None)
    async with client_of(target) as client:
        names = {deployment.id: deployment.name for deployment in await client.find(model=target.model)}
    return {names[row.deployment]: row.reason if row.action == "kept" else row.action for row in rows}


@asynccontextmanager
async def in_flight(target: DeploymentTarget, rollout: Awaitable[RolloutRecord]) -> AsyncIterator[None]:
    """Until a person is to answer. It is aborted in the end."""
    running = asyncio.ensure_future(rollout)
    try:
        await eventually(lambda: stands_at(target, Phase.ATTACHED))
        yield
    finally:
        await orders.order(target.endpoint, "abort", "enough")
        await running


async def stands_at(target: DeploymentTarget, phase: Phase) -> bool:
    record = await _journal.load(target.endpoint)
    return record is not None and record.phase is phase


async def test_what_another_target_of_the_model_rolls_out_stays_awake_and_the_same_ids_elsewhere_do_not(
    tmp_path: Path,
) -> None:
    async with hosted("scale", tmp_path) as site, hosted("scale", tmp_path) as elsewhere:
        [serving], candidate = await site.production(), await up(site)
        assert await up(elsewhere) == candidate, "two vendors' accounts, or else nothing is told apart here"
        other, name = also(site.target), site.candidate.name
        async with in_flight(other, promote_to_production(other, candidate, mode="native", approval=ASKS)):
            why = f"{other.endpoint} has a rollout at ATTACHED"
            assert await let_go(site.target) == {serving.name: why, name: why}
            assert (await let_go(elsewhere.target))[name] == "scaled_to_zero"
        assert await let_go(site.target) == {serving.name: "scaled_to_zero", name: "scaled_to_zero"}


async def test_what_is_still_being_created_stays_awake_by_its_name(tmp_path: Path) -> None:
    async with hosted("scale", tmp_path) as site:
        other, spec = also(site.target), site.candidate
        await site.control.fault(method="POST", path="/v4/models/*/deployments", kind="slow_answer", seconds=15)
        running = asyncio.create_task(promote_to_production(other, spec, mode="native"))

        async def there() -> bool:
            async with client_of(other) as client:
                return spec.name in {deployment.name for deployment in await client.find(model=other.model)}

        await eventually(there)
        assert (await let_go(site.target))[spec.name] == f"{other.endpoint} has a rollout at CLAIMED"
        assert (await running).outcome == "promoted"


async def test_a_record_of_anybody_that_cannot_be_read_is_told_and_keeps_nobody_elses_model_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosted("scale", tmp_path) as site:
        damaged = _journal.variable_name(f"damaged-{uuid4().hex[:8]}")
        await Variable.aset(damaged, "?")
        try:
            [serving] = await site.production()
            assert (await let_go(site.target))[serving.name] == "scaled_to_zero"
        finally:
            await Variable.aunset(damaged)
        assert f"the variable {damaged} holds no record that can be read" in caplog.text


async def test_two_nodes_have_the_same_ids_for_different_things(site: Site, tmp_path: Path) -> None:
    second = site.spec("2", "good")
    elsewhere = site.target.model_copy(update={"credentials": LocalServing(home=tmp_path), "endpoint": "elsewhere"})
    try:
        async with client_of(elsewhere) as client:
            await client.create(second)
        async with in_flight(site.target, promote_to_production(site.target, second, approval=ASKS)):
            assert await let_go(elsewhere) == {second.name: "scaled_to_zero"}
            why = f"{site.target.endpoint} has a rollout at ATTACHED"
            first_time = site.target.model_copy(update={"endpoint": f"{site.target.endpoint}-eu"})
            assert set((await let_go(first_time)).values()) == {why}
    finally:
        await stop_node(tmp_path)
