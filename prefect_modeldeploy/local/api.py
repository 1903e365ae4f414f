"""The control API: HTTP on loopback with a bearer token, JSON in our vocabulary.

    GET    /v1/status
    GET    /v1/deployments                       POST (a DeploymentSpec: 201, or 200 if it exists just so, else 409)
    GET    /v1/deployments/{id}                  PATCH (a DeploymentUpdate), DELETE (202: it drains first)
    POST   /v1/deployments/{id}/scale            {"replicas": n} or {"autoscaling": {...}}
    POST   /v1/deployments/{id}/stop|start|wake
    GET    /v1/deployments/{id}/logs?tail=100    {"lines": [...]}
    GET    /v1/deployments/{id}/activity         {"idle_seconds": s | null, "in_flight": n,
                                                 "watched_seconds": s | null}, see `Routing.activity`
    GET    /v1/endpoints
    GET    /v1/endpoints/{name}                  PUT {"arms": [...], "sticky_header", "shadow",
                                                 "expected_epoch"}, DELETE
    PUT    /v1/endpoints/{name}/weights          {"weights": {arm: percent}, "expected_epoch": n | null}
    GET    /v1/arms                              without any secret
    PUT    /v1/arms/{id}                         a RemoteArm: a deployment at a provider; twice is the same as once
    DELETE /v1/arms/{id}                         also done when the last endpoint lets go of it
    GET    /v1/arms/{id}/activity                as of a deployment: what came through this gateway
    POST   /v1/endpoints/{name}/epoch            takes the endpoint over: raises the epoch and returns it
    GET    /v1/endpoints/{name}/windows?after=&since=   what the arms experienced since a cursor, or since a time in
                                                 seconds; after=now: only the cursor
    GET    /v1/endpoints/{name}/audit?after=     POST {"who", "event"}: append-only
    POST   /v1/gateway/{path}                    one request to a model, passed on to the gateway; its very answer

Errors are {"error": {"code", "message"}} with 400, 401, 404, 405, 409 or 503; a fault of ours is 500 and its traceback
goes to the node's log only.
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_modeldeploy.deployments import DeploymentSpec, DeploymentUpdate
from prefect_modeldeploy.errors import GatewayError, InvalidInput
from prefect_modeldeploy.local.bodies import AuditBody, EndpointBody, ScaleBody, WeightsBody
from prefect_modeldeploy.local.keeper import Keeper
from prefect_modeldeploy.local.logs import deployment_log
from prefect_modeldeploy.local.measured import to_json
from prefect_modeldeploy.local.refusals import STATUS_CODES, Refused, invalid
from prefect_modeldeploy.local.relay import Relay
from prefect_modeldeploy.local.service import Node
from prefect_modeldeploy.traffic.arm import RemoteArm
from prefect_modeldeploy.traffic.windows import PAGE

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]

MAX_BODY_BYTES = 1024 * 1024
MAX_TAIL = 10_000


class Bearer:
    """Lets nothing in, not even to a 404, without the token."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        self._app, self._expected = app, f"Bearer {token.get_secret_value()}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                await _error("unauthorized", "wrong or missing bearer token")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def make_app(node: Node, token: SecretStr) -> Starlette:
    """The ASGI application of a node."""
    deployments, endpoints, arms = _Deployments(node), _Endpoints(node), _Arms(node)
    return Starlette(
        routes=[
            Route("/v1/status", _Status(node).get),
            *deployments.routes(),
            *endpoints.routes(),
            *arms.routes(),
            Route("/v1/gateway/{path:path}", Relay(lambda: node.routing.url).post, methods=["POST"]),
        ],
        middleware=[Middleware(Bearer, token=token)],
        exception_handlers={
            Refused: _on_refused,
            InvalidInput: _on_invalid,
            GatewayError: _on_gateway_error,
            HTTPException: _on_http_exception,
            Exception: _on_fault,
        },
    )


async def _body(request: Request, model: type[M]) -> M:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise InvalidInput("body", f"{len(raw)} bytes and more", f"at most {MAX_BODY_BYTES} bytes are taken")
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        raise invalid(error) from None


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or int(text) > most:
        raise InvalidInput(name, text, f"must be a whole number from 0 to {most}")
    return int(text)


def _seconds(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(name, text, "must be seconds since the epoch") from None


class _Status:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def get(self, request: Request) -> Response:
        return JSONResponse(dict(await self._node.status()))


class _Deployments:
    def __init__(self, node: Node) -> None:
        self._node, self._supervisor = node, node.supervisor

    def routes(self) -> list[Route]:
        one = "/v1/deployments/{id}"
        return [
            Route("/v1/deployments", self.list_all, methods=["GET"]),
            Route("/v1/deployments", self.create, methods=["POST"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.update, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(one + "/scale", self.scale, methods=["POST"]),
            Route(one + "/{command:str}", self.command, methods=["POST"]),
            Route(one + "/logs", self.logs, methods=["GET"]),
            Route(one + "/activity", self.activity, methods=["GET"]),
        ]

    def _keeper(self, request: Request) -> Keeper:
        return self._supervisor.get(request.path_params["id"])

    def _answer(self, keeper: Keeper, status_code: int = 200) -> Response:
        return JSONResponse(self._supervisor.view(keeper).model_dump(mode="json"), status_code)

    async def list_all(self, request: Request) -> Response:
        return JSONResponse({"deployments": [d.model_dump(mode="json") for d in self._supervisor.all()]})

    async def create(self, request: Request) -> Response:
        keeper, made = self._supervisor.create(await _body(request, DeploymentSpec))
        await self._node.routing.publish()  # from now on its address holds requests instead of refusing them
        return self._answer(keeper, 201 if made else 200)

    async def get(self, request: Request) -> Response:
        return self._answer(self._keeper(request))

    async def update(self, request: Request) -> Response:
        keeper = self._keeper(request)
        self._supervisor.update(keeper, await _body(request, DeploymentUpdate))
        return self._answer(keeper)

    async def delete(self, request: Request) -> Response:
        keeper = self._keeper(request)
        if users := self._node.endpoints.using(keeper.record.id):
            raise Refused("in_use", f"deployment {keeper.record.id} is an arm of {users}; change those endpoints first")
        self._supervisor.delete(keeper)
        return self._answer(keeper, 202)

    async def scale(self, request: Request) -> Response:
        keeper, body = self._keeper(request), await _body(request, ScaleBody)
        if (body.replicas is None) == (body.autoscaling is None):
            raise InvalidInput("body", body.model_dump(), "give either replicas or autoscaling")
        if body.replicas is not None:
            self._supervisor.scale(keeper, body.replicas)
        if body.autoscaling is not None:
            self._supervisor.autoscale(keeper, body.autoscaling)
        return self._answer(keeper)

    async def command(self, request: Request) -> Response:
        keeper, command = self._keeper(request), request.path_params["command"]
        if command not in ("stop", "start", "wake"):
            raise Refused("not_found", f"no command {command!r}; there are stop, start, wake and scale")
        self._supervisor.command(keeper, command)
        return self._answer(keeper)

    async def logs(self, request: Request) -> Response:
        keeper, tail = self._keeper(request), _number(request, "tail", 100, MAX_TAIL)
        text = deployment_log(self._node.home.replica_logs, keeper.record.id, tail)
        return JSONResponse({"lines": text.splitlines()})

    async def activity(self, request: Request) -> Response:
        keeper = self._keeper(request)
        return JSONResponse(await self._node.routing.activity(keeper.record.id))


class _Endpoints:
    def __init__(self, node: Node) -> None:
        self._node, self._endpoints = node, node.endpoints

    def routes(self) -> list[Route]:
        one = "/v1/endpoints/{name}"
        return [
            Route("/v1/endpoints", self.list_all, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(one + "/weights", self.weights, methods=["PUT"]),
            Route(one + "/epoch", self.claim, methods=["POST"]),
            Route(one + "/windows", self.windows, methods=["GET"]),
            Route(one + "/audit", self.read_audit, methods=["GET"]),
            Route(one + "/audit", self.append_audit, methods=["POST"]),
        ]

    async def list_all(self, request: Request) -> Response:
        return JSONResponse({"endpoints": [e.model_dump(mode="json") for e in self._endpoints.all()]})

    async def get(self, request: Request) -> Response:
        return JSONResponse(self._endpoints.get(request.path_params["name"]).model_dump(mode="json"))

    async def put(self, request: Request) -> Response:
        body = await _body(request, EndpointBody)
        endpoint = self._endpoints.put(
            request.path_params["name"], body.arms, body.sticky_header, body.expected_epoch, body.shadow
        )
        await self._node.routing.publish()
        return JSONResponse(endpoint.model_dump(mode="json"))

    async def delete(self, request: Request) -> Response:
        self._endpoints.delete(request.path_params["name"])
        await self._node.routing.publish()
        return Response(status_code=204)

    async def weights(self, request: Request) -> Response:
        body = await _body(request, WeightsBody)
        endpoint = self._endpoints.set_weights(request.path_params["name"], body.weights, body.expected_epoch)
        await self._node.routing.publish()
        return JSONResponse(endpoint.model_dump(mode="json"))

    async def claim(self, request: Request) -> Response:
        return JSONResponse({"epoch": self._endpoints.claim(request.path_params["name"]).epoch})

    async def windows(self, request: Request) -> Response:
        endpoint, routing = self._endpoints.get(request.path_params["name"]), self._node.routing
        if request.query_params.get("after") == "now":
            return JSONResponse({"windows": [], "cursor": await routing.cursor(), "more": False})
        after, since = _number(request, "after", 0, 2**62), _seconds(request, "since")
        windows, cursor = await routing.windows(endpoint.name, after, since)
        more = len(windows) >= PAGE
        return JSONResponse({"windows": [to_json(window) for window in windows], "cursor": cursor, "more": more})

    async def read_audit(self, request: Request) -> Response:
        after = _number(request, "after", 0, 2**62)
        return JSONResponse(
            {"entries": [asdict(e) for e in self._node.store.audit(request.path_params["name"], after)]}
        )

    async def append_audit(self, request: Request) -> Response:
        body, name = await _body(request, AuditBody), request.path_params["name"]
        return JSONResponse(asdict(self._node.store.append_audit(name, body.who, dict(body.event))), 201)


class _Arms:
    def __init__(self, node: Node) -> None:
        self._node, self._arms = node, node.arms

    def routes(self) -> list[Route]:
        one = "/v1/arms/{id:path}"
        return [
            Route("/v1/arms", self.list_all, methods=["GET"]),
            Route(one + "/activity", self.activity, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    async def list_all(self, request: Request) -> Response:
        return JSONResponse({"arms": self._arms.all()})

    async def put(self, request: Request) -> Response:
        try:
            arm = await _body(request, RemoteArm)
        except InvalidInput as error:  # the value may be a secret
            raise InvalidInput(f"arm.{error.field}", "**********", error.hint) from None
        if arm.id != request.path_params["id"]:
            raise InvalidInput("id", arm.id, "must be the one in the path")
        if any(deployment.id == arm.id for deployment in self._node.supervisor.all()):
            raise Refused("conflict", f"{arm.id} is a deployment of this node, which needs no arm")
        try:
            await self._arms.put(arm)
        except GatewayError as error:  # unlike the proxy's, which are made good later
            raise Refused("unavailable", str(error)) from error
        await self._node.routing.publish()
        return JSONResponse(self._arms.get(arm.id))

    async def activity(self, request: Request) -> Response:
        return JSONResponse(await self._node.routing.activity(self._arms.get(request.path_params["id"])["upstream"]))

    async def delete(self, request: Request) -> Response:
        arm_id = request.path_params["id"]
        if users := self._node.endpoints.using(arm_id):
            raise Refused("in_use", f"arm {arm_id} is behind {users}; change those endpoints first")
        self._arms.delete(arm_id)
        await self._node.routing.publish()
        return Response(status_code=204)


# --- how it says no --------------------------------------------------------------------------------------------------


def _error(code: str, message: str, status_code: int | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code or STATUS_CODES[code])


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error.code, str(error))


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput)
    value = error.value if isinstance(error.value, str | int | float | None) else repr(error.value)
    details = {"field": error.field, "value": value, "hint": error.hint}
    return JSONResponse({"error": {"code": "invalid", "message": str(error), **details}}, 400)


async def _on_gateway_error(_: Request, error: Exception) -> Response:
    return _error("unavailable", f"{error} (the change is kept and will be applied)")


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
    return _error(code, str(error.detail), error.status_code)


async def _on_fault(_: Request, error: Exception) -> Response:
    return _error("internal", "a fault of the node; its log has the details", 500)
