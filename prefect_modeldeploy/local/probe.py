"""A GET to a process on this machine, small enough to need no HTTP library."""

import asyncio
import json
from typing import Any


class ProbeFailed(Exception):
    """The process did not answer, or not with 200."""


async def get_json(port: int, path: str) -> tuple[dict[str, str], Any]:
    """GET a path from 127.0.0.1; the answer's headers (lower case) and JSON body. Waits as long as it takes.

    The kernel queues the request while the process has not yet begun to accept, so that waiting for readiness is one
    request and no polling; when the process dies, the connection is reset.

    Raises:
        ProbeFailed: no answer with status 200.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    except OSError as error:
        raise ProbeFailed(f"no answer on port {port}: {error}") from error
    status, *lines = head.decode("latin-1").split("\r\n")
    if " 200 " not in f"{status} ":
        raise ProbeFailed(f"port {port} answered {status or 'nothing'!r} to {path}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        return headers, json.loads(body)
    except ValueError as error:
        raise ProbeFailed(f"port {port} answered something else than JSON to {path}") from error
