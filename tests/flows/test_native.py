"""Promotion and roll-back in the providers' own ways, and zero and wake, on emulators of the hosted APIs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_modeldeploy import (
    BasetenCredentials,
    Deployment,
    DeploymentSpec,
    DeploymentTarget,
    promote_to_production,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import InvalidInput, UnsupportedOperation
from prefect_modeldeploy.target import client_of
from tests.providers import baseten_kit, fiddler_kit, gradient_kit, scale_kit
from tests.sandbox.kit import RunningSandbox, running_sandbox

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@dataclass
class Hosted:
    """A target at a hosted provider, something to promote there, and a look at what serves."""

    target: DeploymentTarget
    candidate: DeploymentSpec

    async def served(self) -> set[tuple[str, str | None]]:
        """Id and version of what has the role production."""
        return {(d.id, d.version) for d in await self.production()}

    async def production(self) -> list[Deployment]:
        async with client_of(self.target) as client:
            found = await client.find(model=self.target.model)
        return [d for d in found if d.environment == "production"]


def _target(credentials: Any, model: str) -> DeploymentTarget:
    return DeploymentTarget(credentials=credentials, model=model, endpoint=credentials.client_class.provider)


async def _baseten(sandbox: RunningSandbox, directory: Path) -> Hosted:
    ready = sandbox["baseten"]
    urls = {name: ready[name] for name in ("base_url", "inference_url")}
    block = BasetenCredentials(api_key=SecretStr(ready["api_key"]), visible_seconds=1.0, **urls)
    truss = baseten_kit.make_truss(directory / "truss")
    return Hosted(_target(block, "sandbox-model"), baseten_kit.spec_of(truss))


async def _scale(sandbox: RunningSandbox, directory: Path) -> Hosted:
    model = sandbox["scale"]["seed"]["model_instance_id"]
    target = _target(scale_kit.credentials_of(sandbox), model)
    async with client_of(target) as client:  # production is a model server, and the seed has none
        [first] = await client.find(model=model)
        await client.promote(first.id, environment="production")
    return Hosted(target, DeploymentSpec(name="fraud-v2", model=model))


async def _fiddler(sandbox: RunningSandbox, directory: Path) -> Hosted:
    target = _target(fiddler_kit.credentials(sandbox), "churn")
    async with client_of(target) as client:  # production is a role of ours, and the seed has none
        [first] = await client.find(model="churn")
        await client.promote(first.id, environment="production")
    return Hosted(target, fiddler_kit.spec(fiddler_kit.artifact(directory / "artifact")))


async def _gradient(sandbox: RunningSandbox, directory: Path) -> Hosted:
    target = _target(gradient_kit.block(sandbox), "fraud")
    async with client_of(target) as client:
        first = await client.create(gradient_kit.a_spec("fraud", environment="production"))
        async for _ in client.wait([first.id], lambda d: d.ready, timeout_seconds=20):
            pass
    newer = {"version": "2", "source": "registry.example/fraud:2", "environment": "staging"}
    return Hosted(target, gradient_kit.a_spec("fraud-2", **newer))


MAKERS: dict[str, Callable[[RunningSandbox, Path], Awaitable[Hosted]]] = {
    "baseten": _baseten,
    "fiddler": _fiddler,
    "gradient": _gradient,
    "scale": _scale,
}


@asynccontextmanager
async def hosted(provider: str, directory: Path) -> AsyncIterator[Hosted]:
    async with running_sandbox(provider) as sandbox:
        yield await MAKERS[provider](sandbox, directory)


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_a_native_promotion_serves_the_new_version_and_can_be_undone(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        before = await site.served()
        record = await promote_to_production(site.target, site.candidate, mode="native", note="new")
        assert await site.served() != before
        assert (record.outcome, record.mode, record.why) == ("promoted", "native", "new")
        async with client_of(site.target) as client:
            assert (await client.get(str(record.serving))).ready
        back = await roll_back(site.target, note="not good")
        assert (back.kind, back.outcome) == ("roll_back", "promoted")
        async with client_of(site.target) as client:
            assert (await client.get(str(back.serving))).ready
        assert await site.served() == before


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_without_a_router_a_swap_is_refused_before_anything_changes(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        async with client_of(site.target) as client:
            before = await client.find()
        with pytest.raises(UnsupportedOperation, match="mode='native'"):
            await promote_to_production(site.target, site.candidate)
        with pytest.raises(InvalidInput, match="bake_seconds"):
            await promote_to_production(site.target, site.candidate, mode="native", bake_seconds=60)
        async with client_of(site.target) as client:
            assert len(await client.find()) == len(before)


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_zero_and_wake_as_far_as_the_provider_can(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        await promote_to_production(site.target, site.candidate, mode="native")
        if not site.target.credentials.can(Capability.SCALE_TO_ZERO):
            with pytest.raises(UnsupportedOperation, match="on_no_wake='stop'"):
                await scale_to_zero([site.target], only_if_idle_seconds=None)
        dry = await scale_to_zero([site.target], only_if_idle_seconds=None, on_no_wake="stop", dry_run=True)
        assert all(row.dry_run or row.action == "kept" for row in dry)
        rows = await scale_to_zero([site.target], only_if_idle_seconds=None, on_no_wake="stop")
        assert {row.action for row in rows} & {"scaled_to_zero", "stopped"}, rows
        assert not [row for row in rows if row.action == "failed"]
        await wake_up([site.target], timeout_seconds=30)
        assert [d for d in await site.production() if d.ready]
