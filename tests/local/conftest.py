"""A real node in a process of its own, with a real proxy and real replicas."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import Deployment, DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.local.home import Home, NodeInfo
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.conftest import eventually

MODELS = Path(__file__).parent / "models"


@dataclass
class RunningNode:
    """A node, its client, and an HTTP client for its gateway."""

    home: Home
    info: NodeInfo
    client: NodeClient
    http: httpx.AsyncClient

    async def deploy(self, name: str, source: str, *, wait: bool = True, **fields: Any) -> Deployment:
        options = {"python_path": [str(MODELS)], **fields.pop("options", {})}
        spec = DeploymentSpec(name=name, model="toy", source=source, options=options, **fields)
        created = await self.client.create_deployment(spec)
        return await self.until(name, DeploymentStatus.READY) if wait else created

    async def until(self, name: str, status: DeploymentStatus, seconds: float = 60.0) -> Deployment:
        """Wait for a status; fail at once when the deployment fails instead."""
        async with asyncio.timeout(seconds):
            while (seen := await self.client.get_deployment(name)).status is not status:
                assert seen.status is not DeploymentStatus.FAILED, seen.reason
                await asyncio.sleep(0.02)
        return seen

    async def replica_pids(self, name: str) -> list[int]:
        replicas = (await self.client.get_deployment(name)).raw["replicas"]
        return [replica["pid"] for replica in replicas if replica["phase"] == "ready"]

    async def route(self, endpoint: str, **weights: float) -> str:
        """An endpoint with an arm per deployment; returns its URL. `route("prod", first=90, second=10)`."""
        names = ("stable", "canary")
        arms = tuple(
            EndpointArm(name=arm, upstream=upstream, weight=weight)
            for arm, (upstream, weight) in zip(names, weights.items(), strict=False)
        )
        await self.client.put_endpoint(Endpoint(name=endpoint, arms=arms))
        return await self.client.url(endpoint)

    async def predict(self, url: str, value: Any) -> httpx.Response:
        return await self.http.post(f"{url}/predict", json=value)


async def start(home: Home) -> RunningNode:
    info = await ensure_node(home)
    client = await NodeClient(info.control_url, home.token()).__aenter__()
    # A proxy that has just reloaded answers one more request of each open connection by its former state.
    limits = httpx.Limits(max_keepalive_connections=0)
    http = await httpx.AsyncClient(trust_env=False, timeout=60, limits=limits).__aenter__()
    return RunningNode(home, info, client, http)


async def stop(node: RunningNode) -> None:
    await node.client.__aexit__(None, None, None)
    await node.http.aclose()
    await stop_node(node.home)
    assert not (left := processes_of(node.home)), f"processes of {node.home.directory} live on: {left}"


def processes_of(home: Home) -> list[tuple[int, list[str]]]:
    """Whatever runs with the node's directory on its command line, or as its working directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        said = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        if any(str(home.directory) in text for text in said) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append((process.pid, said))
    return found


@pytest_asyncio.fixture(scope="session")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningNode]:
    """One node for all the tests that do not hurt it; every test has deployments of its own."""
    running = await start(Home(tmp_path_factory.mktemp("node")))
    yield running
    await stop(running)


@pytest_asyncio.fixture
async def own_node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A node for one test that kills or stops it; a node is left running in the end, maybe another one."""
    running = await start(Home(tmp_path / "home"))
    yield running
    await stop(running)


async def no_process(pid: int) -> None:
    await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
