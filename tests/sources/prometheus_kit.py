"""A stand-in for Prometheus over a real socket: instant queries of `time()` and of raw samples, as 2.x answers them."""

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.conftest import serve

_RANGE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)?(\{(?P<matchers>.*)\})?\[(?P<range>\d+)ms\]")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:\\.|[^"\\])*)"')


@dataclass
class Store:
    """What was scraped: samples by labels. `now` is its clock."""

    samples: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    token: str | None = None
    down: bool = False
    asked: list[str] = field(default_factory=list)
    scrape: Callable[["Store", float], None] = lambda store, now: None
    """Called before each answer, to let the store catch up with its time."""

    def add(self, name: str, at: float, value: float, **labels: str) -> None:
        """One sample. Labels default to one target."""
        labels = {"__name__": name, "job": "models", "instance": "one:80", **labels}
        self.samples.setdefault(tuple(sorted(labels.items())), []).append((at, value))

    async def query(self, request: Request) -> Response:
        """`POST /api/v1/query`."""
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return Response("Unauthorized\n", 401)
        if self.down:
            return Response("Service Unavailable", 503)
        form = dict(parse_qsl((await request.body()).decode()))
        query, now = form["query"], self.now()
        self.asked.append(query)
        self.scrape(self, now)
        if query == "time()":
            return _success("scalar", [now, str(now)])
        found = _RANGE.fullmatch(query)
        if not found:
            error = {"status": "error", "errorType": "bad_data", "error": "invalid parameter: parse error"}
            return JSONResponse(error, 400)
        end = float(form["time"])
        return _success("matrix", self._select(found, end - int(found["range"]) / 1000, end))

    def _select(self, wanted: re.Match[str], begin: float, end: float) -> list[dict[str, object]]:
        matchers = _MATCHER.findall(wanted["matchers"] or "")
        if wanted["name"]:
            matchers.append(("__name__", "=", wanted["name"]))
        result = []
        for key, samples in self.samples.items():
            labels = dict(key)
            inside = [[at, str(value)] for at, value in samples if begin <= at <= end]
            if inside and all(_matches(labels.get(name, ""), how, text) for name, how, text in matchers):
                result.append({"metric": labels, "values": inside})
        return result


def _matches(value: str, how: str, wanted: str) -> bool:
    wanted = re.sub(r"\\(.)", r"\1", wanted) if how in ("=", "!=") else wanted
    found = value == wanted if how in ("=", "!=") else re.fullmatch(wanted, value) is not None
    return found == (how in ("=", "=~"))


def _success(kind: str, result: object) -> Response:
    return JSONResponse({"status": "success", "data": {"resultType": kind, "result": result}})


@asynccontextmanager
async def prometheus(store: Store) -> AsyncIterator[str]:
    """Serve the store; yields its address."""
    async with serve(Starlette(routes=[Route("/api/v1/query", store.query, methods=["POST"])])) as url:
        yield url
