"""What the Fiddler tests share: a sandbox, a client of it, an artifact, and credentials."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.providers.fiddler import FiddlerClient, FiddlerCredentials
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.sandbox.journal import Request
from tests.sandbox.kit import RunningSandbox, running_sandbox

PACKAGE = "class Model:\n    def predict(self, rows):\n        return rows\n\n\ndef get_model():\n    return Model()\n"


def credentials(sandbox: RunningSandbox, **fields: Any) -> FiddlerCredentials:
    """The block for a sandbox, as a user would fill it in."""
    told = sandbox["fiddler"]
    known = {"project": told["seed"]["project_name"], "organization": told["organization"], "token": told["token"]}
    return FiddlerCredentials(base_url=told["base_url"], **{**known, **fields})


@asynccontextmanager
async def fiddler(speed: float = 0.0, **fields: Any) -> AsyncIterator[tuple[RunningSandbox, FiddlerClient]]:
    """A sandbox of its own, and a client of it."""
    async with (
        running_sandbox("fiddler", speed=speed) as sandbox,
        credentials(sandbox, **fields).get_client() as client,
    ):
        yield sandbox, client


def artifact(directory: Path, text: str = PACKAGE) -> Path:
    """A model artifact as Fiddler wants it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.py").write_text(text)
    (directory / "requirements.txt").write_text("scikit-learn==1.5.0\n")
    return directory


def spec(source: Path | None, version: str = "v2", **fields: Any) -> DeploymentSpec:
    """A new version of the seeded model."""
    told = {"name": f"churn-{version}", "model": "churn", "source": str(source) if source else None, **fields}
    return DeploymentSpec(version=version, **told)


def seed(sandbox: RunningSandbox, what: str = "model_id") -> str:
    """An id of the seeded world."""
    return str(sandbox["fiddler"]["seed"][what])


@dataclass
class Account:
    """A sandbox that nothing has happened in yet, and a client of it."""

    sandbox: RunningSandbox
    client: FiddlerClient

    @property
    def control(self) -> SandboxControl:
        """Sets faults and fates, reads what happened."""
        return self.sandbox.control

    @property
    def seeded(self) -> str:
        """Id of the deployment that is there from the start."""
        return seed(self.sandbox)

    async def sent(self, method: str = "*", path: str = "*") -> list[Request]:
        """The requests that match."""
        return await self.control.requests(provider="fiddler", method=method, path=path)

    async def versions(self) -> list[str]:
        """Versions of the seeded model that the server has, whatever it shows."""
        models = (await self.control.table("fiddler", "models")).values()
        return sorted(str(model["version"]) for model in models if model["name"] == "churn")


@pytest_asyncio.fixture(scope="module")
async def fiddler_sandbox() -> AsyncIterator[RunningSandbox]:
    """One sandbox for a module; `account` sets it back."""
    async with running_sandbox("fiddler") as sandbox:
        yield sandbox


@pytest_asyncio.fixture
async def account(fiddler_sandbox: RunningSandbox) -> AsyncIterator[Account]:
    """The first world again, and a client."""
    await fiddler_sandbox.control.reset()
    await fiddler_sandbox.control.set_speed(0)
    async with credentials(fiddler_sandbox).get_client() as client:
        await fiddler_sandbox.control.forget_requests()
        yield Account(fiddler_sandbox, client)
