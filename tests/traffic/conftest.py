"""A real HAProxy in front of real servers."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm, Server, Upstream
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from tests.conftest import eventually, serve
from tests.traffic.model_server import model


def make_certificate(directory: Path, name: str) -> Path:
    """A self-signed certificate for `DNS:host` or `IP:address`, with its key, in one file."""
    key, chain, both = directory / "key.pem", directory / "chain.pem", directory / "both.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName={name}"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)
    both.write_text(chain.read_text() + key.read_text())
    return both


def endpoint(weights: dict[str, float] | None = None, name: str = "prod", **options: Any) -> Endpoint:
    """An endpoint whose arms are the upstreams of the same name."""
    arms = tuple(EndpointArm(name=arm, upstream=arm, weight=w) for arm, w in (weights or {"stable": 100}).items())
    return Endpoint(name=name, arms=arms, **options)


def upstream(name: str, *ports: int, **options: Any) -> Upstream:
    servers = tuple(Server(name=f"r{number}", port=port) for number, port in enumerate(ports, 1))
    return Upstream(name=name, servers=servers, **options)


@dataclass
class Models:
    """The ports of two models, and the state of a gateway in front of them."""

    stable: int
    canary: int

    def split(self, canary: float, **options: Any) -> DataPlane:
        weights = {"stable": round(100 - canary, 2), "canary": canary}
        return DataPlane(
            (endpoint(weights, **options),), (upstream("stable", self.stable), upstream("canary", self.canary))
        )


@pytest.fixture(scope="session")
async def models() -> AsyncIterator[Models]:
    async with serve(model("stable")) as stable, serve(model("canary")) as canary:
        yield Models(*(int(urlsplit(url).port or 0) for url in (stable, canary)))


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[StartGateway]:
    """Starts a gateway with a state; stops every one of them in the end."""
    async with AsyncExitStack() as stack:

        async def start(state: DataPlane = DataPlane(), **options: Any) -> Gateway:  # noqa: B008 it is immutable
            options = {"directory": tmp_path / "gateway", "port": free_port(), **options}
            gateway = Gateway(**options)
            stack.push_async_callback(gateway.stop, grace=0.1)
            await gateway.start(state)
            return gateway

        yield start


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        yield client


@asynccontextmanager
async def listening(app: ASGIApp, **options: Any) -> AsyncIterator[int]:
    """Serve an app as uvicorn's options say; yields its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", **options))
    running = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


class Replica:
    """A model server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port

    async def kill(self) -> None:
        """kill -9."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def replica(name: str, port: int = 0) -> AsyncIterator[Replica]:
    command = [sys.executable, "-m", "tests.traffic.model_server", name, str(port)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    running = Replica(process, int(await process.stdout.readline()))
    try:
        await eventually(lambda: _answers(running.port))
        yield running
    finally:
        await running.kill()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def ask(client: httpx.AsyncClient, gateway: Gateway, path: str = "/prod/x", **options: Any) -> httpx.Response:
    return await client.get(gateway.url + path, **options)
