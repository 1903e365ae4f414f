"""Every request that the emulators got, for tests to ask: how often was this posted?"""

import itertools
import json
import time
from collections import deque
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict

KEPT = 50_000
"""Requests that are kept; older ones are forgotten."""

_LONGEST_BODY = 64 * 1024
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization"})
_REDACTED = "**********"


class Request(BaseModel):
    """One request as it came, and what became of it. Credentials are not kept."""

    model_config = ConfigDict(extra="ignore")

    number: int
    provider: str
    method: str
    path: str
    query: list[tuple[str, str]] = []
    headers: dict[str, str] = {}
    body: Any = None
    """Decoded JSON, else the text; None when there was none. A large or binary body is `{"bytes": n}`."""
    at: float = 0.0
    """Our time, seconds since the epoch."""
    seconds: float | None = None
    """How long the answer took, in our time; None while it is being answered."""
    status: int | None = None
    """What the emulator answered, even when the answer was lost; None when it was not asked."""
    fault: str | None = None
    """Id of the fault that struck it."""


class Journal:
    """The requests, the oldest first, and the faults of our own ("crashes"), which tests forbid."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=KEPT)
        self._numbers = itertools.count(1)
        self.crashes: list[str] = []

    def open(self, provider: str, scope: Any, body: bytes, secrets: Collection[str]) -> Request:
        """Enter a request that has just come."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(
            number=next(self._numbers),
            provider=provider,
            method=scope["method"],
            path=scope["path"],
            query=[
                (name, _hide(value, secrets))
                for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            ],
            headers={n: _REDACTED if n in _SECRET_HEADERS else _hide(v, secrets) for n, v in headers.items()},
            body=_decoded(body, secrets),
            at=time.time(),
        )
        self._requests.append(request)
        return request

    def find(self, *, provider: str = "*", method: str = "*", path: str = "*", after: int = 0) -> list[Request]:
        """Those that match these globs and came after that number."""
        return [
            request
            for request in self._requests
            if request.number > after
            and fnmatchcase(request.provider, provider)
            and fnmatchcase(request.method, method)
            and fnmatchcase(request.path, path)
        ]

    def clear(self) -> None:
        """Forget all requests; numbers go on."""
        self._requests.clear()
        self.crashes.clear()


def _decoded(body: bytes, secrets: Iterable[str]) -> Any:
    if not body:
        return None
    if len(body) > _LONGEST_BODY:
        return {"bytes": len(body)}
    try:
        text = _hide(body.decode(), secrets)
    except UnicodeDecodeError:
        return {"bytes": len(body)}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _hide(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
    return text
