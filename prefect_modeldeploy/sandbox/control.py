"""The control API of a sandbox: JSON over HTTP on loopback.

    GET    /v1/status                         {"providers", "speed", "now"}
    GET    /v1/providers/{name}/state         the emulator's whole state: tables, facts, counters
    POST   /v1/reset                          {"provider"?}: first world, no faults, fates, behaviours, requests
    POST   /v1/clock                          {"advance_seconds"?, "speed"?}
    GET    /v1/faults      POST (a Fault), DELETE;  DELETE /v1/faults/{id}
    GET    /v1/fates       POST (a Fate), DELETE;   DELETE /v1/fates/{id}
    POST   /v1/release                        {"provider"?, "match"?: [ids or names]}: stuck life cycles go on
    GET    /v1/behaviours  POST (a Behaviour), DELETE;  DELETE /v1/behaviours/{id}
    GET    /v1/requests?provider=&method=&path=&after=     globs; DELETE forgets them
    GET    /v1/crashes                        tracebacks of faults of the emulators themselves

Errors are {"error": {"message", "field"?}} with 400, 403, 404, 405. A behaviour names code to import, so a page in a
browser must not reach this: a foreign Host is refused, and a body must be `application/json`, which a browser sends
across origins only after a question that is not answered here.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.sandbox.behaviours import Behaviour, Behaviours
from prefect_modeldeploy.sandbox.emulator import Emulator
from prefect_modeldeploy.sandbox.faults import Fault, Faults
from prefect_modeldeploy.sandbox.house import House
from prefect_modeldeploy.sandbox.lifecycle import Fate, Fates

M = TypeVar("M", bound=BaseModel)
Book = Faults | Fates | Behaviours


def make_control(house: House) -> Starlette:
    """The ASGI application of the control API."""
    return _Control(house).app()


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Reset(_Body):
    provider: str | None = None


class _ClockChange(_Body):
    advance_seconds: float = 0.0
    speed: float | None = None


class _Release(_Body):
    provider: str | None = None
    match: list[str] | None = None


class _Control:
    def __init__(self, house: House) -> None:
        self._house, self._shared = house, house.shared

    def app(self) -> Starlette:
        shared = self._shared
        return Starlette(
            routes=[
                Route("/v1/status", self.status),
                Route("/v1/providers/{name}/state", self.state),
                Route("/v1/reset", self.reset, methods=["POST"]),
                Route("/v1/clock", self.clock, methods=["POST"]),
                Route("/v1/release", self.release, methods=["POST"]),
                *_book("faults", shared.faults, Fault),
                *_book("fates", shared.fates, Fate),
                *_book("behaviours", shared.behaviours, Behaviour),
                Route("/v1/requests", self.requests, methods=["GET"]),
                Route("/v1/requests", self.forget, methods=["DELETE"]),
                Route("/v1/crashes", self.crashes),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "::1"])],
            exception_handlers={InvalidInput: _on_invalid, HTTPException: _on_http},
        )

    def _emulators(self, provider: str | None) -> list[Emulator]:
        known = self._house.emulators
        if provider is not None and provider not in known:
            raise HTTPException(404, f"no such provider here: {provider!r}; there are {', '.join(known)}")
        return list(known.values()) if provider is None else [known[provider]]

    async def status(self, _: Request) -> Response:
        clock = self._shared.clock
        return JSONResponse({"providers": list(self._house.emulators), "speed": clock.speed, "now": clock.now()})

    async def state(self, request: Request) -> Response:
        [emulator] = self._emulators(request.path_params["name"])
        return JSONResponse(emulator.world.dump())

    async def reset(self, request: Request) -> Response:
        provider = (await _body(request, _Reset)).provider
        for emulator in self._emulators(provider):
            emulator.reset()
        if provider is None:
            for book in (self._shared.faults, self._shared.fates, self._shared.behaviours):
                book.remove()
            self._shared.journal.clear()
        return JSONResponse({})

    async def clock(self, request: Request) -> Response:
        change = await _body(request, _ClockChange)
        self._shared.clock.advance(change.advance_seconds)
        if change.speed is not None:
            self._shared.clock.speed = change.speed
        return await self.status(request)

    async def release(self, request: Request) -> Response:
        body = await _body(request, _Release)
        return JSONResponse({"released": sum(e.release(body.match) for e in self._emulators(body.provider))})

    async def requests(self, request: Request) -> Response:
        asked = request.query_params
        after = asked.get("after", "0")
        if not after.isdecimal():
            raise InvalidInput("after", after, "must be the number of a request")
        globs = {name: asked[name] for name in ("provider", "method", "path") if name in asked}
        found = self._shared.journal.find(**globs, after=int(after))
        return JSONResponse({"requests": [entry.model_dump(mode="json") for entry in found]})

    async def forget(self, _: Request) -> Response:
        self._shared.journal.clear()
        return JSONResponse({})

    async def crashes(self, _: Request) -> Response:
        return JSONResponse({"crashes": self._shared.journal.crashes})


def _book(name: str, book: Book, model: type[BaseModel]) -> list[BaseRoute]:
    async def read(_: Request) -> Response:
        return JSONResponse({name: [entry.model_dump(mode="json") for entry in book.all()]})

    async def add(request: Request) -> Response:
        added: BaseModel = book.add(await _body(request, model))  # type: ignore[arg-type]
        return JSONResponse(added.model_dump(mode="json"), 201)

    async def remove(request: Request) -> Response:
        book.remove(request.path_params.get("id"))
        return JSONResponse({})

    return [
        Route(f"/v1/{name}", read, methods=["GET"]),
        Route(f"/v1/{name}", add, methods=["POST"]),
        Route(f"/v1/{name}", remove, methods=["DELETE"]),
        Route(f"/v1/{name}/{{id}}", remove, methods=["DELETE"]),
    ]


async def _body(request: Request, model: type[M]) -> M:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(400, "Content-Type must be application/json")
    try:
        return model.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(".".join(map(str, first["loc"])) or "body", _plain(first["input"]), first["msg"]) from None


def _plain(value: Any) -> object:
    return value if isinstance(value, str | int | float | None) else type(value).__name__


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput)
    return JSONResponse({"error": {"message": str(error), "field": error.field}}, 400)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": {"message": str(error.detail)}}, error.status_code)
