"""Shadow: a sampled share of an endpoint's requests goes to both arms, and how alike the answers are is counted.

HAProxy sends the sampled requests here, with what it asked for in a header. This hop sends each to the stable arm and
gives that answer to the client as it comes; the other arm gets a copy at the same time, on a connection of its own, and
its answer is never returned. Whatever the copy does, the client waits for stable alone: the copy has its own deadline,
there are at most `copies` of them under way, and what cannot be copied (an upgrade, a body without a length or above
1 MiB) or comes while all are busy goes to stable only, and is counted as skipped. Both arms are reached through the
proxy, which knows their servers, their TLS and their credentials.
"""

import asyncio
import contextlib
import gzip
import json
import logging
import os
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httptools

from prefect_modeldeploy.traffic.access_log import SHADOWED
from prefect_modeldeploy.traffic.activator import _close, _splice
from prefect_modeldeploy.traffic.answers import likeness
from prefect_modeldeploy.traffic.endpoint import Shadow
from prefect_modeldeploy.traffic.haproxy_config import DIRECT_SOCKET
from prefect_modeldeploy.traffic.windows import ArmCounts

SHADOW_HEADER = b"x-modeldeploy-shadow"
COPIED_BYTES = 1 << 20
"""Bodies above this, of requests or of answers, are not compared."""

COPY_SECONDS = 10.0
"""A copy that has no whole answer by then has failed."""

COPIES = 16
"""Copies under way at the same time."""

_PIECE = 64 * 1024
_PROXY_SECONDS, _AGAIN_SECONDS = 2.0, 0.05
_NOT_EVIDENCE = frozenset({401, 403, 429})
_log = logging.getLogger(__name__)

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Key = tuple[str, str, str]
"""Endpoint, split and arm."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request's head without this hop's header, and what that header says."""

    head: bytes
    endpoint: str
    split: str
    stable: str
    canary: str
    length: int | None
    """Bytes of its body; None: it cannot be copied."""

    def to(self, upstream: str) -> bytes:
        """The head as this upstream shall get it: the path begins with the stable one's name."""
        return self.head.replace(f" /-/{self.stable}/".encode(), f" /-/{upstream}/".encode(), 1)


@dataclass(slots=True)
class _Answer:
    """An answer as it is collected; `whole` once its end was seen."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    encoding: bytes = b""
    has_end: bool = False
    whole: bool = False
    too_long: bool = False
    parser: Any = None

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def feed(self, piece: bytes) -> None:
        """Take what came; what is no HTTP, or too long, is not collected further."""
        if not (self.too_long or self.whole):
            with contextlib.suppress(httptools.HttpParserError):
                self.parser.feed_data(piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        match name.lower():
            case b"content-encoding":
                self.encoding = value.lower()
            case b"content-length" | b"transfer-encoding":
                self.has_end = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.body += body
        self.too_long = len(self.body) > COPIED_BYTES

    def on_message_complete(self) -> None:
        """Called by the parser. An interim answer (1xx) is none yet."""
        self.whole = self.status >= 200

    def closed(self) -> None:
        """The connection ended, which is the end of an answer that tells no other."""
        self.whole = self.whole or (self.status >= 200 and not self.has_end)

    def decoded(self) -> Any:
        """JSON where it is that, else bytes."""
        body = bytes(self.body)
        with contextlib.suppress(OSError, zlib.error, EOFError):
            body = gzip.decompress(body) if self.encoding == b"gzip" else body
        try:
            return json.loads(body)
        except ValueError:
            return body


class Comparer:
    """A server for sampled requests.

    Args:
        gateway: Directory of the gateway, in which its socket for this hop is.
        shadow_of: An endpoint's settings; None when it has none any more.
        copies: How many copies may be under way.
        copy_seconds: Deadline of a copy.
    """

    def __init__(
        self,
        gateway: Path,
        shadow_of: Callable[[str], Shadow | None],
        *,
        copies: int = COPIES,
        copy_seconds: float = COPY_SECONDS,
    ) -> None:
        self._directory, self._shadow_of = gateway, shadow_of
        self._free, self._copy_seconds = copies, copy_seconds
        self._counts: dict[Key, ArmCounts] = defaultdict(ArmCounts)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen; returns the address. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=_PIECE)
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """Stop listening and drop what is under way."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self) -> Mapping[Key, ArmCounts]:
        """What was counted since the last call."""
        taken, self._counts = self._counts, defaultdict(ArmCounts)
        return taken

    def give_back(self, counts: Mapping[Key, ArmCounts]) -> None:
        """What was taken could not be kept."""
        for key, one in counts.items():
            self._counts[key].add(one)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawn(self._serve(reader, writer))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = read_head(await reader.readuntil(b"\r\n\r\n"))
            if asked is None:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            else:
                await self._answer(asked, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            _log.debug("a sampled request was given up: %s", error)
        finally:
            with contextlib.suppress(OSError):
                await _close(writer)

    async def _answer(self, asked: _Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stable = await self._connect()
        if asked.length is None or asked.length > COPIED_BYTES or not self._free:
            self._count(asked, "shadow_skipped", time.time())
            await _splice(asked.head, (reader, writer), stable)
            return
        started = time.time()
        body = await reader.readexactly(asked.length)
        self._free -= 1
        copy = self._spawn(self._copy(asked, body))
        copy.add_done_callback(self._copied)
        mine = _Answer()
        try:
            await _relay(asked.head + body, stable, writer, mine)
        finally:
            self._spawn(self._compare(asked, mine, copy, started))

    async def _connect(self) -> Streams:
        """To the proxy, which may be between two workers."""
        deadline = time.monotonic() + _PROXY_SECONDS
        while True:
            try:
                return await self._connect_now()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _connect_now(self) -> Streams:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)  # its path may be too long for a socket's
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{DIRECT_SOCKET}")
        finally:
            os.close(descriptor)

    async def _copy(self, asked: _Asked, body: bytes) -> _Answer:
        answer = _Answer()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._copy_seconds):
                reader, writer = await self._connect()
                try:
                    writer.write(asked.to(asked.canary) + body)
                    while not answer.too_long and (piece := await reader.read(_PIECE)):
                        answer.feed(piece)
                    answer.closed()
                finally:
                    writer.close()
        return answer

    def _copied(self, copy: asyncio.Task[_Answer]) -> None:
        self._free += 1

    async def _compare(self, asked: _Asked, mine: _Answer, copy: "asyncio.Task[_Answer]", started: float) -> None:
        outcome = self._outcome(asked.endpoint, mine, await copy)
        if outcome:
            self._count(asked, outcome, started)

    def _outcome(self, endpoint: str, mine: _Answer, copied: _Answer) -> str | None:
        shadow = self._shadow_of(endpoint)
        if shadow is None or not mine.whole or mine.status >= 500 or mine.status in _NOT_EVIDENCE:
            return None  # stable's own trouble says nothing about the canary
        if copied.too_long or mine.too_long:
            return "shadow_skipped"
        if copied.status in _NOT_EVIDENCE:
            return "shadow_refused"
        if not copied.whole or copied.status >= 500:
            return "shadow_failed"
        if mine.status != copied.status:
            return "shadow_different"
        alike = likeness(mine.decoded(), copied.decoded(), tolerance=shadow.tolerance, ignore=shadow.ignore)
        return f"shadow_{alike}"

    def _count(self, asked: _Asked, outcome: str, started: float) -> None:
        shadow = self._shadow_of(asked.endpoint)
        if shadow is not None:
            now = time.time()
            self._counts[asked.endpoint, asked.split, shadow.arm].add(
                ArmCounts(excluded=Counter({outcome: 1}), start=min(started, now), end=now)
            )


def read_head(head: bytes) -> _Asked | None:
    """What a request's head asks for; None without this hop's header."""
    first, *lines = head[:-4].split(b"\r\n")
    kept, told, length, plain = [first], b"", 0, True
    for line in lines:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"x-modeldeploy-shadow":
                told = value.strip()
                continue
            case b"connection":
                plain = plain and b"upgrade" not in value.lower()
                if plain:
                    continue
            case b"content-length":
                length = int(value) if value.strip().isdigit() else -1
            case b"transfer-encoding" | b"upgrade" | b"expect":
                plain = False
        kept.append(line)
    parts = told.decode("ascii", "replace").split(" ")
    if len(parts) != 3:
        return None
    asked, stable, canary = parts
    endpoint, _, split = asked.partition(":")
    if plain:
        kept.append(b"Connection: close")
    whole = b"\r\n".join([*kept, b"", b""])
    return _Asked(whole, endpoint, split.rstrip(SHADOWED), stable, canary, length if plain and length >= 0 else None)


async def _relay(request: bytes, stable: Streams, client: asyncio.StreamWriter, seen: _Answer) -> None:
    reader, writer = stable
    try:
        writer.write(request)
        while piece := await reader.read(_PIECE):
            client.write(piece)
            seen.feed(piece)
            await client.drain()
        seen.closed()
    finally:
        writer.close()
