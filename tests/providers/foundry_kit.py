"""A sandboxed Foundry stack and our client of it, for tests that read like a day at work."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest_asyncio
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Deployment, DeploymentSpec
from prefect_modeldeploy.providers.foundry import FoundryApi, FoundryClient, FoundryCredentials
from prefect_modeldeploy.providers.foundry.model_api import DillFiles, ModelApi, NewVersion
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.sandbox.foundry import FoundryEmulator
from prefect_modeldeploy.sandbox.journal import Request
from tests.sandbox.kit import RunningSandbox, running_sandbox

FOLDER = "ri.compass.main.folder.models"


class Permissive(FoundryEmulator):
    """Lets a branch have two deployments, so that a client which creates twice is found out."""

    one_per_branch: ClassVar[bool] = False


@dataclass
class Foundry:
    """A stack with its seeded model: one version on master, one healthy deployment."""

    sandbox: RunningSandbox
    client: FoundryClient

    @property
    def control(self) -> SandboxControl:
        return self.sandbox.control

    @property
    def model(self) -> str:
        return str(self.sandbox["foundry"]["seed"]["model_rid"])

    @property
    def version(self) -> str:
        return str(self.sandbox["foundry"]["seed"]["model_version_rid"])

    def block(self, **fields: Any) -> FoundryCredentials:
        about = self.sandbox["foundry"]
        return FoundryCredentials(base_url=about["base_url"], **(fields or {"token": SecretStr(about["token"])}))

    def application(self, **fields: Any) -> FoundryCredentials:
        about = self.sandbox["foundry"]
        secret = SecretStr(about["client_secret"])
        return self.block(client_id=about["client_id"], client_secret=secret, **fields)

    async def production(self) -> Deployment:
        [found] = [d for d in await self.client.find(model=self.model) if d.environment == "production"]
        return found

    async def new_version(self, note: str = "v") -> str:
        """RID of a version of another model, where nothing is live: what there is to promote."""
        names = {m["name"]: rid for rid, m in (await self.control.table("foundry", "models")).items()}
        workshop = names.get("workshop") or await self.client.api.create_model("workshop", FOLDER)
        return (await self.client.publish_version(workshop, new_version(note))).rid

    def spec(self, name: str, /, **fields: Any) -> DeploymentSpec:
        return DeploymentSpec(
            **{"name": name, "model": self.model, "version": self.version, "environment": name, **fields}
        )

    async def lives(self) -> list[dict[str, Any]]:
        return list((await self.control.table("foundry", "live")).values())

    async def versions_on(self, branch: str) -> list[dict[str, Any]]:
        found = (await self.control.table("foundry", "versions")).values()
        return [one for one in found if (one["model"], one["branch"]) == (self.model, branch)]

    async def sent(self, method: str = "*", path: str = "*") -> list[Request]:
        return await self.control.requests(provider="foundry", method=method, path=path)


def new_version(note: str = "v") -> NewVersion:
    code = base64.b64encode(note.encode()).decode()
    files = DillFiles(serialized_model_function=code)
    return NewVersion(model_files=files, conda_requirements=[f"note=={note}"], model_api=ModelApi())


@asynccontextmanager
async def foundry(
    emulator: type[FoundryEmulator] = FoundryEmulator, *, speed: float = 0.0, settle_seconds: float = 0.5
) -> AsyncIterator[Foundry]:
    """A stack of its own, and a client with the seeded token."""
    async with running_sandbox(emulator, speed=speed) as sandbox, _api(sandbox) as api:
        yield Foundry(sandbox, _client(sandbox, api, settle_seconds))


@asynccontextmanager
async def _api(sandbox: RunningSandbox) -> AsyncIterator[FoundryApi]:
    about = sandbox["foundry"]
    block = FoundryCredentials(base_url=about["base_url"], token=SecretStr(about["token"]))
    async with block.get_client() as client:
        yield client.api


def _client(sandbox: RunningSandbox, api: FoundryApi, settle_seconds: float) -> FoundryClient:
    url = f"{sandbox['foundry']['base_url']}/api"
    return FoundryClient(
        api, api_url=url, branches={"production": "master"}, settle_seconds=settle_seconds, agree_seconds=0.05
    )


@pytest_asyncio.fixture(scope="session")
async def shared_foundry() -> AsyncIterator[tuple[RunningSandbox, FoundryApi]]:
    """One sandbox for all tests; each gets it as new. It lets a branch have two deployments."""
    async with running_sandbox(Permissive) as sandbox, _api(sandbox) as api:
        yield sandbox, api


@pytest_asyncio.fixture
async def stack(shared_foundry: tuple[RunningSandbox, FoundryApi]) -> AsyncIterator[Foundry]:
    """The seeded stack as new, with instant life cycles."""
    sandbox, api = shared_foundry
    await sandbox.control.reset()
    yield Foundry(sandbox, _client(sandbox, api, 0.5))
    crashes = await sandbox.control.crashes()
    assert not crashes, crashes[0]
