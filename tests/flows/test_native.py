"""Promotion and roll-back in the providers' own ways, and zero and wake, on emulators of the hosted APIs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from prefect_modeldeploy import (
    BasetenCredentials,
    CanaryPlan,
    Deployment,
    DeploymentSpec,
    DeploymentTarget,
    FoundryCredentials,
    canary_rollout,
    promote_to_production,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import InvalidInput, UnsupportedOperation
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.providers import baseten_kit, fiddler_kit, foundry_kit, gradient_kit, scale_kit
from tests.sandbox.kit import RunningSandbox, running_sandbox

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@dataclass
class Hosted:
    """A target at a hosted provider, something to promote there, and a look at what serves."""

    target: DeploymentTarget
    newer: Sequence[DeploymentSpec]
    """Two versions to promote, one after the other."""
    content: Callable[[str | None], Awaitable[str | None]]
    """What a version is a copy of, where promoting copies."""

    @property
    def candidate(self) -> DeploymentSpec:
        return self.newer[0]

    async def served(self) -> set[tuple[str, str | None]]:
        """Id of what has the role production, and what it serves."""
        return {(d.id, await self.content(d.version)) for d in await self.production()}

    async def production(self) -> list[Deployment]:
        async with client_of(self.target) as client:
            found = await client.find(model=self.target.model)
        return [d for d in found if d.environment == "production"]


def _target(credentials: Any, model: str) -> DeploymentTarget:
    endpoint = f"{credentials.client_class.provider}-{uuid4().hex[:8]}"  # a record of its own
    return DeploymentTarget(credentials=credentials, model=model, endpoint=endpoint)


async def _itself(version: str | None) -> str | None:
    return version


async def _baseten(sandbox: RunningSandbox, directory: Path) -> Hosted:
    ready = sandbox["baseten"]
    urls = {name: ready[name] for name in ("base_url", "inference_url")}
    block = BasetenCredentials(api_key=SecretStr(ready["api_key"]), visible_seconds=1.0, **urls)
    truss = baseten_kit.make_truss(directory / "truss")
    specs = [baseten_kit.spec_of(truss, name) for name in ("v2", "v3")]
    return Hosted(_target(block, "sandbox-model"), specs, _itself)


async def _scale(sandbox: RunningSandbox, directory: Path) -> Hosted:
    model = sandbox["scale"]["seed"]["model_instance_id"]
    target = _target(scale_kit.credentials_of(sandbox), model)
    async with client_of(target) as client:  # production is a model server, and the seed has none
        [first] = await client.find(model=model)
        await client.promote(first.id, environment="production")
    return Hosted(target, [DeploymentSpec(name=name, model=model) for name in ("fraud-v2", "fraud-v3")], _itself)


async def _fiddler(sandbox: RunningSandbox, directory: Path) -> Hosted:
    target = _target(fiddler_kit.credentials(sandbox), "churn")
    async with client_of(target) as client:  # production is a role of ours, and the seed has none
        [first] = await client.find(model="churn")
        await client.promote(first.id, environment="production")
    artifact = fiddler_kit.artifact(directory / "artifact")
    return Hosted(target, [fiddler_kit.spec(artifact, version) for version in ("v2", "v3")], _itself)


async def _foundry(sandbox: RunningSandbox, directory: Path) -> Hosted:
    ready = sandbox["foundry"]
    block = FoundryCredentials(base_url=ready["base_url"], token=SecretStr(ready["token"]))
    target = _target(block, ready["seed"]["model_rid"])

    async def new(note: str) -> DeploymentSpec:
        """A version of another model, where nothing is live: one of this model would be live at once."""
        async with block.get_client() as client:
            workshop = await client.api.create_model(f"workshop {note}", foundry_kit.FOLDER)
            version = await client.publish_version(workshop, foundry_kit.new_version(note))
        return DeploymentSpec(name=note, model=target.model, version=version.rid, environment=f"staging-{note}")

    async def content(version: str | None) -> str | None:
        versions = await sandbox.control.table("foundry", "versions")
        while (source := versions[version].get("source", {}).get("previousModelVersionRid")) is not None:
            version = source
        return version

    return Hosted(target, [await new("v2"), await new("v3")], content)


async def _gradient(sandbox: RunningSandbox, directory: Path) -> Hosted:
    target = _target(gradient_kit.block(sandbox), "fraud")
    async with client_of(target) as client:
        first = await client.create(gradient_kit.a_spec("fraud", environment="production"))
        async for _ in client.wait([first.id], lambda d: d.ready, timeout_seconds=20):
            pass
    newer = [
        gradient_kit.a_spec(f"fraud-{n}", version=n, source=f"registry.example/fraud:{n}", environment="staging")
        for n in ("2", "3")
    ]
    return Hosted(target, newer, _itself)


MAKERS: dict[str, Callable[[RunningSandbox, Path], Awaitable[Hosted]]] = {
    "baseten": _baseten,
    "fiddler": _fiddler,
    "foundry": _foundry,
    "gradient": _gradient,
    "scale": _scale,
}


@asynccontextmanager
async def hosted(provider: str, directory: Path, speed: float = 0.0) -> AsyncIterator[Hosted]:
    async with running_sandbox(provider, speed=speed) as sandbox:
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
async def test_a_roll_back_that_died_after_its_effect_goes_back_by_one_and_no_more(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(provider, tmp_path) as site:
        await promote_to_production(site.target, site.newer[0], mode="native")
        before = await site.served()
        await promote_to_production(site.target, site.newer[1], mode="native")
        assert await site.served() != before
        save = _journal.save

        async def die(record: RolloutRecord) -> RolloutRecord:
            if record.phase is Phase.PROMOTED:
                raise KeyboardInterrupt("killed before the record was saved")
            return await save(record)

        with monkeypatch.context() as patch:
            patch.setattr(_journal, "save", die)
            with pytest.raises(KeyboardInterrupt):
                await roll_back(site.target)
        assert await site.served() == before
        await roll_back(site.target)
        assert await site.served() == before


@pytest.mark.parametrize("provider", sorted(set(MAKERS) - {"baseten"}))  # which has one of its own
async def test_without_a_router_a_swap_is_refused_before_anything_changes(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        async with client_of(site.target) as client:
            before = await client.find(model=site.target.model)
        with pytest.raises(UnsupportedOperation, match="mode='native'"):
            await promote_to_production(site.target, site.candidate)
        with pytest.raises(InvalidInput, match="bake_seconds"):
            await promote_to_production(site.target, site.candidate, mode="native", bake_seconds=60)
        async with client_of(site.target) as client:
            assert len(await client.find(model=site.target.model)) == len(before)


async def test_a_canary_without_proof_is_turned_back_by_calling_the_vendors_promotion_off(tmp_path: Path) -> None:
    """The vendor's metrics come minutes later, so nothing is proven here."""
    async with hosted("baseten", tmp_path, speed=40) as site:
        before = await site.served()
        plan = CanaryPlan(steps=(50,), step_seconds=1, deadline_seconds=10, poll_seconds=0.5)
        record = await canary_rollout(site.target, site.candidate, plan)
        assert (record.outcome, record.decided_by) == ("rolled_back", "deadline"), record.reason
        assert [step.weight for step in record.steps] == [50]
        assert await site.served() == before
        async with client_of(site.target) as client:
            assert record.canary not in {one.id for one in await client.find(model=site.target.model)}


async def test_a_rolling_promotion_goes_to_its_end_and_back_as_any_swap_does(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=200) as site:
        before = await site.served()
        record = await promote_to_production(site.target, site.candidate)
        assert (record.outcome, record.mode) == ("promoted", "swap"), record.reason
        assert {id for id, _ in await site.served()} == {record.canary}
        await roll_back(site.target)
        assert await site.served() == before


async def test_steps_that_the_vendor_does_not_have_are_refused_before_anything_changes(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path) as site:
        with pytest.raises(InvalidInput, match=r"plan\.steps=\[5\.0\].*25\.0, 50\.0, 75\.0"):
            await canary_rollout(site.target, site.candidate)
        async with client_of(site.target) as client:
            assert len(await client.find(model=site.target.model)) == 1


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
