"""A reload is invisible to clients."""

import asyncio
import sqlite3

import httpx

from prefect_modeldeploy.traffic.admin import AdminSocket
from prefect_modeldeploy.traffic.gateway import DataPlane
from prefect_modeldeploy.traffic.windows import WindowStore
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, upstream
from tests.traffic.load import load, read_answer


async def test_reloads_under_load_fail_no_request_and_lose_no_line(start_gateway: StartGateway, models: Models) -> None:
    state = models.split(30)
    gateway = await start_gateway(state)
    async with load(gateway.url + "/prod/x", rate=400) as answers:
        for number in range(12):
            wider = DataPlane(state.endpoints, (*state.upstreams, upstream(f"extra-{number}", models.stable)))
            await gateway.apply(wider)
            seen = answers.count
            await eventually(lambda seen=seen: answers.count > seen + 20)
    assert answers.failures == []
    store = WindowStore(sqlite3.connect(":memory:"))
    while store.ingest(gateway.logs):
        pass
    counted = {arm: counts.requests for arm, counts in store.summary("prod").items()}
    assert counted == dict(answers.by_arm)


async def test_a_connection_that_was_idle_at_the_reload_follows_later_weights(
    start_gateway: StartGateway, models: Models
) -> None:
    """The old worker answers its next request, and must not answer by old weights."""
    gateway = await start_gateway(models.split(0))
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = b"GET /prod/x HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(request)
    assert (await read_answer(reader))[1]["x-modeldeploy-arm"] == "stable"

    state = models.split(0)
    await gateway.apply(DataPlane(state.endpoints, (*state.upstreams, upstream("extra", models.stable))))
    workers = await AdminSocket(gateway.directory).workers()
    assert workers
    assert workers.old, "the connection keeps the old worker alive"
    state = models.split(100)
    await gateway.apply(DataPlane(state.endpoints, (*state.upstreams, upstream("extra", models.stable))))

    writer.write(request)
    status, headers = await read_answer(reader)
    assert (status, headers["x-modeldeploy-arm"]) == (200, "canary")
    assert headers["connection"] == "close", "the next request goes to the new worker"
    writer.close()


async def test_requests_in_flight_in_an_old_worker_are_seen_and_finished(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    state = models.split(0)
    gateway = await start_gateway(state)
    slow = asyncio.create_task(ask(client, gateway, "/prod/slow/1"))

    async def in_flight() -> bool:
        return await gateway.in_flight("stable") == 1

    await eventually(in_flight)
    await gateway.apply(DataPlane(state.endpoints, (*state.upstreams, upstream("extra", models.stable))))
    assert await gateway.in_flight("stable") == 1
    assert not await gateway.drain("stable", "r1", 0.05)
    assert await gateway.drain("stable", "r1", 10)
    assert (await slow).status_code == 200
