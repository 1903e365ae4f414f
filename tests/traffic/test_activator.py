"""Requests are held while a deployment wakes, and pass untouched when it is awake."""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.traffic.activator import Activator, rewritten
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from prefect_modeldeploy.traffic.windows import WindowStore
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, endpoint, upstream
from tests.traffic.model_server import MEGABYTE


class Sleeper:
    """A deployment that wakes when the test says so."""

    def __init__(self, port: int) -> None:
        self.port, self.awake, self.calls = port, asyncio.Event(), 0

    async def wake(self, name: str) -> tuple[str, int]:
        assert name == "stable"
        self.calls += 1
        await self.awake.wait()
        return "127.0.0.1", self.port


@asynccontextmanager
async def held_by(
    start_gateway: StartGateway, wake: Callable[[str], Awaitable[tuple[str, int]]], hold_seconds: float = 60
) -> AsyncIterator[tuple[Gateway, Activator]]:
    activator = Activator(wake, hold_seconds=hold_seconds)
    state = DataPlane((endpoint(),), (upstream("stable", wakes=True),))
    gateway = await start_gateway(state, activator=await activator.start())
    try:
        yield gateway, activator
    finally:
        await activator.stop()


async def test_held_requests_are_all_answered_and_the_deployment_is_woken_once(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    sleeper = Sleeper(models.stable)
    async with held_by(start_gateway, sleeper.wake) as (gateway, activator):
        asking = [asyncio.create_task(ask(client, gateway, f"/prod/x?{number}")) for number in range(32)]
        await eventually(lambda: activator.held == 32)
        assert await gateway.in_flight("stable") == 32
        sleeper.awake.set()
        answers = await asyncio.gather(*asking)
        assert [answer.json()["query"] for answer in answers] == [str(number) for number in range(32)]
        assert {answer.headers["x-modeldeploy-arm"] for answer in answers} == {"stable"}
        assert "x-modeldeploy-upstream" not in answers[0].json()["headers"]
        assert (sleeper.calls, activator.held) == (1, 0)

        store = WindowStore(sqlite3.connect(tmp_path / "windows.db"))
        await eventually(lambda: (store.ingest(gateway.logs), store.summary("prod"))[1])
        counts = store.summary("prod")["stable"]
        assert (counts.requests, dict(counts.excluded)) == (0, {"parked": 32}), "waiting is no evidence"


async def test_what_wake_raises_is_told_and_said_to_be_temporary(
    start_gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    async def wake(name: str) -> tuple[str, int]:
        raise GatewayError("the model file is gone")

    async with held_by(start_gateway, wake) as (gateway, _):
        answer = await ask(client, gateway)
        assert answer.status_code == 503
        assert answer.json() == {"error": "stable cannot be woken: the model file is gone"}
        assert int(answer.headers["retry-after"]) > 0


async def test_a_deployment_that_does_not_wake_in_time_is_503(
    start_gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    async with held_by(start_gateway, Sleeper(1).wake, hold_seconds=0.3) as (gateway, activator):
        answer = await ask(client, gateway)
        assert answer.status_code == 503
        assert "did not wake within 0.3 s" in answer.json()["error"]
        assert activator.held == 0


async def test_a_replica_that_died_since_it_woke_is_woken_again(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    addresses = [free_port(), free_port(), models.stable]

    async def wake(name: str) -> tuple[str, int]:
        return "127.0.0.1", addresses.pop(0)

    async with held_by(start_gateway, wake) as (gateway, _):
        assert (await ask(client, gateway)).status_code == 200


async def test_large_bodies_wait_and_pass(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    sleeper = Sleeper(models.stable)
    async with held_by(start_gateway, sleeper.wake) as (gateway, activator):
        content = bytes(range(256)) * (20 * MEGABYTE // 256)
        asking = asyncio.create_task(client.post(gateway.url + "/prod/digest", content=content))
        await eventually(lambda: activator.held == 1)
        sleeper.awake.set()
        assert (await asking).json()["sha256"] == hashlib.sha256(content).hexdigest()
        assert len((await ask(client, gateway, "/prod/megabytes/20")).content) == 20 * MEGABYTE


async def test_a_stream_arrives_piece_by_piece(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    sleeper = Sleeper(models.stable)
    sleeper.awake.set()
    async with held_by(start_gateway, sleeper.wake) as (gateway, _):
        arrived = []
        async with client.stream("GET", gateway.url + "/prod/stream/4/0.2") as answer:
            async for _ in answer.aiter_raw():
                arrived.append(time.monotonic())
        assert len(arrived) == 4
        assert arrived[-1] - arrived[0] > 0.4


async def test_a_client_that_gives_up_is_no_longer_held(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    sleeper = Sleeper(models.stable)
    async with held_by(start_gateway, sleeper.wake) as (gateway, activator):
        with pytest.raises(httpx.ReadTimeout):
            await ask(client, gateway, timeout=0.3)
        await eventually(lambda: activator.held == 0)
        sleeper.awake.set()
        assert (await ask(client, gateway)).status_code == 200


async def test_a_connection_is_good_for_the_next_request(start_gateway: StartGateway, models: Models) -> None:
    """The hop closes after each answer; the client's own connection to the proxy lives on."""
    sleeper = Sleeper(models.stable)
    sleeper.awake.set()
    async with held_by(start_gateway, sleeper.wake) as (gateway, _), httpx.AsyncClient() as one:
        for _ in range(5):
            assert (await ask(one, gateway)).status_code == 200
    assert sleeper.calls == 5


async def test_stopping_drops_what_is_held(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    async with held_by(start_gateway, Sleeper(models.stable).wake) as (gateway, activator):
        asking = asyncio.create_task(ask(client, gateway))
        await eventually(lambda: activator.held == 1)
        await activator.stop()
        assert (await asking).status_code in (502, 503)
        assert activator.held == 0


async def test_without_an_activator_nothing_can_wake(start_gateway: StartGateway) -> None:
    with pytest.raises(GatewayError, match="without an activator"):
        await start_gateway(DataPlane((), (upstream("stable", wakes=True),)))


async def test_requests_that_are_not_from_the_proxy_are_refused(models: Models) -> None:
    activator = Activator(Sleeper(models.stable).wake)
    host, port = await activator.start()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{host}:{port}/")).status_code == 400
        assert (await client.get(f"http://{host}:{port}/", headers={"X-Long": "x" * 70_000})).status_code == 431
    await activator.stop()


def test_the_head_is_changed_no_more_than_needed() -> None:
    head = b"GET /a HTTP/1.1\r\nHost: b\r\nX-Modeldeploy-Upstream: d-1\r\nConnection: keep-alive\r\nX: 1\r\n\r\n"
    assert rewritten(head) == ("d-1", b"GET /a HTTP/1.1\r\nHost: b\r\nX: 1\r\nConnection: close\r\n\r\n")
    upgrade = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Modeldeploy-Upstream: d\r\n\r\n"
    assert rewritten(upgrade) == ("d", b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert rewritten(b"GET / HTTP/1.1\r\n\r\n")[0] is None
