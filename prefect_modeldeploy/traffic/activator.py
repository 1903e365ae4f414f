"""Holds requests while a deployment wakes.

HAProxy sends a request here when none of its upstream's servers can take it, with the upstream's name in a header. This
hop reads no more than the request's head, waits for `wake`, and then copies bytes both ways between HAProxy and the
replica, so that streams and large bodies pass as they are. One connection carries one request.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable

UPSTREAM_HEADER = b"x-modeldeploy-upstream"

_HEAD_LIMIT = 64 * 1024
_PIECE = 64 * 1024
_RETRY_AFTER_SECONDS = 5
_CONNECT_AGAIN_SECONDS = 0.05
_log = logging.getLogger(__name__)


class Activator:
    """A server for requests that find no replica.

    Args:
        wake: Given an upstream's name, returns the address of a ready replica; it is awaited once for all the requests
            that wait for the same upstream. What it raises is told to the clients: 503 with the reason.
        hold_seconds: How long a request waits at most; then 503 with Retry-After. The proxy's `answer_timeout` must be
            longer.
    """

    def __init__(self, wake: Callable[[str], Awaitable[tuple[str, int]]], *, hold_seconds: float = 60.0) -> None:
        self._wake, self._hold_seconds = wake, hold_seconds
        self._waking: dict[str, asyncio.Task[tuple[str, int]]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.held = 0
        """Requests that wait now."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen; returns the address. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, host, port)
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """Stop listening and drop what is held."""
        if self._server is not None:
            self._server.close()
        tasks = [*self._serving, *self._waking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = _Reader(limit=_HEAD_LIMIT)

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

        return asyncio.StreamReaderProtocol(reader, connected)

    async def _serve(self, reader: "_Reader", writer: asyncio.StreamWriter) -> None:
        try:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                writer.write(_refusal(431, "the head of the request is too large"))
                return
            upstream, head = rewritten(head)
            if not upstream:
                writer.write(_refusal(400, f"the header {UPSTREAM_HEADER.decode()} is missing"))
                return
            replica = await self._held(upstream, reader, writer)
            if replica is not None:
                await _splice(head, (reader, writer), replica)
        except (asyncio.IncompleteReadError, ConnectionError):
            _log.debug("a held request was given up by its client")
        finally:
            with contextlib.suppress(ConnectionError):
                await _close(writer)

    async def _held(
        self, upstream: str, reader: "_Reader", writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to a replica; None when the client is gone or was told why not."""
        self.held += 1
        connecting = asyncio.ensure_future(self._connect(upstream))
        gone = asyncio.ensure_future(reader.gone.wait())
        try:
            await asyncio.wait({connecting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                return None
            return connecting.result()
        except TimeoutError:
            writer.write(_refusal(503, f"{upstream} did not wake within {self._hold_seconds:g} s"))
        except Exception as error:  # whatever wake raises is the answer
            writer.write(_refusal(503, f"{upstream} cannot be woken: {error}"))
        finally:
            self.held -= 1
            gone.cancel()
            connecting.cancel()
        return None

    async def _connect(self, upstream: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(self._hold_seconds):
            while True:
                host, port = await self._awake(upstream)
                try:
                    return await asyncio.open_connection(host, port)
                except ConnectionError:  # it died since, so it is woken again
                    await asyncio.sleep(_CONNECT_AGAIN_SECONDS)

    async def _awake(self, upstream: str) -> tuple[str, int]:
        task = self._waking.get(upstream)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._call_wake(upstream))
            self._waking[upstream] = task
            task.add_done_callback(lambda _: self._waking.pop(upstream, None))
        return await asyncio.shield(task)

    async def _call_wake(self, upstream: str) -> tuple[str, int]:
        return await self._wake(upstream)


class _Reader(asyncio.StreamReader):
    """A reader that tells when the other side has gone, also while nobody reads."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


def rewritten(head: bytes) -> tuple[str | None, bytes]:
    """The upstream that a request's head names, and the head that its replica shall see.

    The replica is asked to close after its answer, except where the connection becomes something else (`Upgrade`).
    """
    first, *lines = head[:-4].split(b"\r\n")
    upstream, kept, upgrades = None, [], False
    for line in lines:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"x-modeldeploy-upstream":
                upstream = value.strip().decode("ascii", "replace")
            case b"connection" if b"upgrade" not in value.lower():
                continue
            case other:
                upgrades = upgrades or other == b"upgrade"
                kept.append(line)
    if not upgrades:
        kept.append(b"Connection: close")
    return upstream, b"\r\n".join([first, *kept, b"", b""])


async def _splice(
    head: bytes,
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    replica: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Copy until the replica closes, or the client does."""
    up = asyncio.ensure_future(_copy(client[0], replica[1], head))
    down = asyncio.ensure_future(_copy(replica[0], client[1]))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        if up.done() and up.exception() is not None:  # the replica reads no more, but may still answer
            await down
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        with contextlib.suppress(ConnectionError):
            await _close(replica[1])


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
    writer.write(first)
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def _refusal(status: int, reason: str) -> bytes:
    body = json.dumps({"error": reason}).encode()
    phrase = {400: "Bad Request", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}[status]
    lines = [f"HTTP/1.1 {status} {phrase}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if status == 503:
        lines.append(f"Retry-After: {_RETRY_AFTER_SECONDS}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body
