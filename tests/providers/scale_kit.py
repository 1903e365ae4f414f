"""A Scale account in a sandbox: what the tests of this provider share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Deployment, DeploymentSpec
from prefect_modeldeploy.providers.scale import ScaleClient, ScaleCredentials
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.sandbox.journal import Request
from prefect_modeldeploy.sandbox.world import Record
from tests.sandbox.kit import RunningSandbox, running_sandbox


def credentials_of(sandbox: RunningSandbox, **fields: Any) -> ScaleCredentials:
    """The block that a user of this sandbox would save."""
    scale = sandbox["scale"]
    return ScaleCredentials(
        **{
            "api_key": SecretStr(scale["api_key"]),
            "account_id": scale["account_id"],
            "base_url": scale["base_url"],
            **fields,
        }
    )


@dataclass
class Account:
    """A client of a sandbox's account, its seeded model, and the control over the sandbox."""

    client: ScaleClient
    control: SandboxControl
    credentials: ScaleCredentials
    model_id: str

    def spec(self, name: str = "fraud-v2", **fields: Any) -> DeploymentSpec:
        return DeploymentSpec(name=name, **{"model": self.model_id, **fields})

    async def deploy(self, name: str = "fraud-v2", **fields: Any) -> Deployment:
        return await self.client.create(self.spec(name, **fields))

    async def records(self, name: str | None = None) -> list[Record]:
        """The deployments that the emulator really has, by their name."""
        table = (await self.control.table("scale", "deployments")).values()
        return [one for one in table if name in (None, one["name"]) and one["life"]["timeline"] != "delete"]

    async def sent(self, method: str = "*", path: str = "*") -> list[Request]:
        return await self.control.requests(provider="scale", method=method, path=path)

    async def seeded(self) -> Deployment:
        [found] = [one for one in await self.client.find(model=self.model_id) if one.name == "fraud-v1"]
        return found


@asynccontextmanager
async def account_in(sandbox: RunningSandbox, **fields: Any) -> AsyncIterator[Account]:
    """An account of a sandbox, with the block's fields changed."""
    credentials = credentials_of(sandbox, **fields)
    async with credentials.get_client() as client:
        assert isinstance(client, ScaleClient)
        yield Account(client, sandbox.control, credentials, sandbox["scale"]["seed"]["model_instance_id"])


@pytest_asyncio.fixture(scope="session")
async def scale_sandbox() -> AsyncIterator[RunningSandbox]:
    """One sandbox for all tests; each gets it as new."""
    async with running_sandbox("scale") as sandbox:
        yield sandbox


@pytest_asyncio.fixture
async def account(scale_sandbox: RunningSandbox) -> AsyncIterator[Account]:
    """The seeded account as new, with instant life cycles."""
    await scale_sandbox.control.reset()
    async with account_in(scale_sandbox) as found:
        yield found


def second_version(payload: Any) -> dict[str, Any]:
    """A model that can be told from the default one."""
    return {"version": 2, "payload": payload}
