"""A way to a real Prefect server on which answers get lost, as behind a load balancer or on a bad line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from prefect.settings import get_current_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.conftest import serve

_METHODS = ["GET", "POST", "PATCH", "PUT", "DELETE"]


@dataclass
class FlakyPrefect:
    """Passes requests on to the server; the client never hears of what is to be lost, and it is closed to all at will.

    Attributes:
        url: Its API, for PREFECT_API_URL.
        to_lose: Words. The answer to the next request whose body has one is lost, after the server has done it.
        closed: Whether nothing gets through.
    """

    url: str = ""
    to_lose: set[str] = field(default_factory=set)
    closed: bool = False

    async def answer(self, request: Request) -> Response:
        if self.closed:
            return Response(status_code=503)
        body, headers = await request.body(), {"content-type": "application/json"}
        url = f"{self._server}{request.url.path.removeprefix('/api')}?{request.url.query}"
        answer = await self._client.request(request.method, url, content=body, headers=headers)
        for word in self.to_lose:
            if word.encode() in body:
                self.to_lose.remove(word)
                return Response(status_code=502)
        kind = answer.headers.get("content-type")
        return Response(answer.content, status_code=answer.status_code, media_type=kind)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FlakyPrefect"]:
        self._server = get_current_settings().api.url
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=_METHODS)])
        async with httpx.AsyncClient(trust_env=False, timeout=60) as self._client, serve(app) as url:
            self.url = f"{url}/api"
            yield self
