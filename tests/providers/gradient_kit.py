"""A Gradient world for tests: a sandbox, a block that points at it, and clients of both APIs."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, Resources
from prefect_modeldeploy.providers.gradient import GradientClient, GradientCredentials, GradientGraphClient
from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.sandbox.house import House
from prefect_modeldeploy.sandbox.server import SandboxServer
from prefect_modeldeploy.transport import RetryPolicy
from tests.conftest import eventually
from tests.sandbox.kit import RunningSandbox, running_sandbox

_SHARED: list[RunningSandbox] = []

QUICK = RetryPolicy(attempts=6, total_seconds=20, first_seconds=0.01, longest_seconds=0.05)


def block(sandbox: RunningSandbox, api: Literal["rest", "graphql"] = "rest", **fields: Any) -> GradientCredentials:
    """The block of the sandbox's team."""
    ready = sandbox["gradient"]
    fields = {"api_key": ready["api_key"], "project_id": ready["seed"]["project_id"], **fields}
    if api == "graphql":
        host = ready["graphql_url"].removesuffix("/graphql")
        return GradientCredentials(api=api, base_url=ready["graphql_url"], logs_url=host, **fields)
    return GradientCredentials(base_url=ready["base_url"], **fields)


@asynccontextmanager
async def shared_sandbox() -> AsyncIterator[RunningSandbox]:
    """The one sandbox of this process, with a fresh world: starting one takes longer than most tests.

    Not for tests that move its clock or change its speed: time does not run backwards.
    """
    if not _SHARED:
        server = SandboxServer(House(["gradient"], speed=0.0))
        threading.Thread(target=lambda: asyncio.run(server.serve_sandbox()), daemon=True).start()
        await eventually(lambda: server.started)
        control = SandboxControl(server.ready["control_url"])
        _SHARED.append(RunningSandbox(server.ready, await control.__aenter__()))
    [sandbox] = _SHARED
    await sandbox.control.reset()
    yield sandbox
    crashes = await sandbox.control.crashes()
    assert not crashes, crashes[0]


def sandbox_at(speed: float, *, own: bool) -> AbstractAsyncContextManager[RunningSandbox]:
    """The shared sandbox, or one of the test's own."""
    return running_sandbox("gradient", speed=speed) if speed or own else shared_sandbox()


@asynccontextmanager
async def gradient(
    *, speed: float = 0.0, own: bool = False, settle_seconds: float = 1.0, **options: Any
) -> AsyncIterator[tuple[RunningSandbox, GradientClient]]:
    """A sandbox and a REST client."""
    async with (
        sandbox_at(speed, own=own) as sandbox,
        block(sandbox).get_client(policy=QUICK, settle_seconds=settle_seconds, **options) as client,
    ):
        assert isinstance(client, GradientClient)
        yield sandbox, client


@asynccontextmanager
async def graph(
    *, speed: float = 0.0, own: bool = False, settle_seconds: float = 1.0, **options: Any
) -> AsyncIterator[tuple[RunningSandbox, GradientGraphClient]]:
    """A sandbox and a GraphQL client."""
    async with (
        sandbox_at(speed, own=own) as sandbox,
        block(sandbox, "graphql").get_client(policy=QUICK, settle_seconds=settle_seconds, **options) as client,
    ):
        assert isinstance(client, GradientGraphClient)
        yield sandbox, client


def a_spec(name: str = "fraud", **fields: Any) -> DeploymentSpec:
    """A deployment of one C4 replica that serves version 1 of the model fraud at port 8000."""
    given: dict[str, Any] = {
        "name": name,
        "model": "fraud",
        "version": "1",
        "source": "registry.example/fraud:1",
        "resources": Resources(instance_type="C4"),
        "autoscaling": Autoscaling(min_replicas=1),
        "env": {"LEVEL": "info"},
        "options": {"resources": {"ports": [8000]}},
    }
    return DeploymentSpec(**{**given, **fields})


def graph_spec(name: str = "fraud", **fields: Any) -> DeploymentSpec:
    """The same for the GraphQL API, whose specs have a port instead of ports."""
    return a_spec(name, **{"options": {"port": 8000}, **fields})
