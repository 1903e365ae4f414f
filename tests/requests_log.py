"""Which requests Prefect's server was sent, by its own access log."""

import asyncio
import re
import time
from collections import Counter
from pathlib import Path

_REQUEST = re.compile(r' ([\d.]+):\d+ - "(GET|POST|PUT|PATCH|DELETE|WebSocket) (/\S*?)(?:\?\S*)?(?: HTTP/[\d.]+)?" ')
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
_NAME = re.compile(r"(/name/|/v2/leases/|/gather/|/work_pools/|/block_types/slug/[^/]+/block_documents/name/)[^/]+")
_QUIET_SECONDS = 5.0


class RequestsLog:
    """Counts by route what was asked since the last look. Opening a stream of events counts as one request.

    Args:
        path: The access log.
        client: Address of the client whose requests count; None: everybody's.
    """

    def __init__(self, path: Path, client: str | None = None) -> None:
        self._path, self._client, self._read = path, client, 0

    def take(self) -> Counter[str]:
        """Requests by method and route since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        found = _REQUEST.findall(whole.decode())
        return Counter(f"{method} {_route(path)}" for who, method, path in found if self._client in (None, who))

    async def take_when_quiet(self) -> Counter[str]:
        """The same, after the last log lines and events of what has run are there too."""
        taken, since = self.take(), time.monotonic()
        while time.monotonic() - since < _QUIET_SECONDS:
            await asyncio.sleep(0.2)
            if more := self.take():
                taken, since = taken + more, time.monotonic()
        return taken


def _route(path: str) -> str:
    return _NAME.sub(r"\1{name}", _ID.sub("{id}", path.removeprefix("/api").rstrip("/")))
