"""Keep-alive clients that send requests at a steady rate and note every answer and every failure."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

CONNECTIONS = 8
"""Of the clients together: so many requests can be in flight."""


@dataclass
class Answers:
    """What the clients saw. `failures` are answers other than 200 and connections that broke."""

    by_arm: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    of_models: int = 0
    """Failures that are a 500 of a model itself: the proxy names the arm in what comes from one, not in its own."""
    refused: int = 0
    """Connections that nobody took, by clients that try again: nothing was sent, so no request is lost."""

    @property
    def count(self) -> int:
        return self.by_arm.total()


@asynccontextmanager
async def load(
    url: str,
    *,
    rate: float,
    connections: int = CONNECTIONS,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    try_again: bool = False,
) -> AsyncIterator[Answers]:
    """Send `rate` requests a second for as long as the block runs: POST with a JSON body, GET without.

    Clients that `try_again` do so when their connection is refused; it is no failure then.
    """
    answers, stop = Answers(), asyncio.Event()
    request = _request(url, body, headers or {})
    interval = connections / rate
    clients = [asyncio.create_task(_client(request, interval, answers, stop, try_again)) for _ in range(connections)]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*clients)


class Request(NamedTuple):
    """One request, ready to be written."""

    host: str | None
    port: int | None
    raw: bytes


def _request(url: str, body: bytes, headers: Mapping[str, str]) -> Request:
    parts = urlsplit(url)
    method, more = (
        ("POST", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n") if body else ("GET", "")
    )
    more += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    head = f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{more}\r\n"
    return Request(parts.hostname, parts.port, head.encode() + body)


async def _client(request: Request, interval: float, answers: Answers, stop: asyncio.Event, try_again: bool) -> None:
    loop = asyncio.get_running_loop()
    due, streams = loop.time(), None
    while not stop.is_set():
        if streams and streams[0].at_eof():  # closed while nothing was on its way: nothing is lost
            streams[1].close()
            streams = None
        try:
            streams = streams or await asyncio.open_connection(request.host, request.port)
            streams[1].write(request.raw)
            status, headers = await read_answer(streams[0])
            if status == 200:
                answers.by_arm[headers.get("x-modeldeploy-arm", "-")] += 1
            else:
                answers.failures.append(f"status {status}")
                answers.of_models += status == 500 and "x-modeldeploy-arm" in headers
            if headers.get("connection") == "close":
                streams[1].close()
                streams = None
        except (OSError, asyncio.IncompleteReadError) as error:
            if try_again and isinstance(error, ConnectionRefusedError):
                answers.refused += 1
            else:
                answers.failures.append(repr(error))
            streams = None
        due += interval
        await asyncio.sleep(due - loop.time())
    if streams:
        streams[1].close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer with a content length; its body is read and dropped."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers
