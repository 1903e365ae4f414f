"""Streams and large bodies pass untouched."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import httpx
from pydantic import SecretStr

from prefect_modeldeploy.traffic.dataplane import DataPlane
from tests.traffic.conftest import Models, StartGateway, upstream
from tests.traffic.model_server import MEGABYTE


async def test_pieces_of_a_stream_arrive_when_they_are_sent(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    arrived: list[float] = []
    async with client.stream("GET", gateway.url + "/prod/stream/5/0.2") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = [piece async for piece in noted(answer.aiter_raw(), arrived)]
    assert b"".join(pieces) == b"".join(f"data: {number}\n\n".encode() for number in range(5))
    assert len(pieces) == 5
    assert arrived[-1] - arrived[0] > 0.5, "the first pieces came long before the last"


async def noted(pieces: AsyncIterator[bytes], arrived: list[float]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        arrived.append(time.monotonic())
        yield piece


async def test_fifty_megabytes_up_and_down(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    answer = await client.post(gateway.url + "/prod/digest", content=megabytes(50))
    expected = hashlib.sha256(b"".join([piece async for piece in megabytes(50)])).hexdigest()
    assert (answer.json()["bytes"], answer.json()["sha256"]) == (50 * MEGABYTE, expected)
    down = hashlib.sha256()
    async with client.stream("GET", gateway.url + "/prod/megabytes/50") as stream:
        async for piece in stream.aiter_raw():
            down.update(piece)
    assert down.hexdigest() == expected


async def test_a_long_token_leaves_room_for_a_large_body(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    token = {"Authorization": SecretStr(f"Bearer {'t' * 8000}")}
    gateway = await start_gateway(DataPlane((), (upstream("vendor", models.stable, headers=token),)))
    answer = await client.post(gateway.url + "/-/vendor/digest", content=b"x" * 200_000)
    assert (answer.status_code, answer.json()["bytes"]) == (200, 200_000)


async def megabytes(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number]) * MEGABYTE
        await asyncio.sleep(0)
