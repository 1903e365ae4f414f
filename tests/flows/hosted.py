"""Targets at hosted providers, in sandboxes: something serves in each, and two newer versions can be promoted."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import SecretStr

from prefect_modeldeploy import BasetenCredentials, Deployment, DeploymentSpec, DeploymentTarget, FoundryCredentials
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.target import client_of
from tests.providers import baseten_kit, fiddler_kit, foundry_kit, gradient_kit, scale_kit
from tests.sandbox.kit import RunningSandbox, running_sandbox


@dataclass
class Hosted:
    """A target at a hosted provider, something to promote there, and a look at what serves."""

    control: SandboxControl
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
    return Hosted(sandbox.control, _target(block, "sandbox-model"), specs, _itself)


async def _scale(sandbox: RunningSandbox, directory: Path) -> Hosted:
    model = sandbox["scale"]["seed"]["model_instance_id"]
    target = _target(scale_kit.credentials_of(sandbox), model)
    async with client_of(target) as client:  # production is a model server, and the seed has none
        [first] = await client.find(model=model)
        await client.promote(first.id, environment="production")
    return Hosted(
        sandbox.control, target, [DeploymentSpec(name=name, model=model) for name in ("fraud-v2", "fraud-v3")], _itself
    )


async def _fiddler(sandbox: RunningSandbox, directory: Path) -> Hosted:
    target = _target(fiddler_kit.credentials(sandbox), "churn")
    async with client_of(target) as client:  # production is a role of ours, and the seed has none
        [first] = await client.find(model="churn")
        await client.promote(first.id, environment="production")
    artifact = fiddler_kit.artifact(directory / "artifact")
    return Hosted(sandbox.control, target, [fiddler_kit.spec(artifact, version) for version in ("v2", "v3")], _itself)


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

    return Hosted(sandbox.control, target, [await new("v2"), await new("v3")], content)


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
    return Hosted(sandbox.control, target, newer, _itself)


MAKERS: dict[str, Callable[[RunningSandbox, Path], Awaitable[Hosted]]] = {
    "baseten": _baseten,
    "fiddler": _fiddler,
    "foundry": _foundry,
    "gradient": _gradient,
    "scale": _scale,
}

PROMOTED_BY = {
    "baseten": ("POST", "*/environments/production/promote"),
    "fiddler": ("PATCH", "/v3/models/*"),
    "foundry": ("POST", "*/promoteVersion"),
    "gradient": ("POST", "/v1/deployments"),
    "scale": ("PUT", "/v4/serving/*/backend"),
}
"""The vendors' requests that promote a deployment which is up."""


@asynccontextmanager
async def hosted(provider: str, directory: Path, speed: float = 0.0) -> AsyncIterator[Hosted]:
    async with running_sandbox(provider, speed=speed) as sandbox:
        yield await MAKERS[provider](sandbox, directory)


async def up(site: Hosted, spec: DeploymentSpec | None = None) -> str:
    """The candidate, or another one, ready to be promoted."""
    async with client_of(site.target) as client:
        made = await client.create(spec or site.candidate)
        async for _ in client.wait([made.id], lambda one: one.ready, model=site.target.model, timeout_seconds=60):
            pass
    return made.id
