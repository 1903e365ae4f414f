"""The emulator as a whole: who may come in, and how it says no."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.gradient.graphql import GraphRoutes, graph_refusal

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_SUPPORTED",
    408: "TIMEOUT",
    409: "CONFLICT",
    412: "PRECONDITION_FAILED",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    499: "CLIENT_CLOSED_REQUEST",
}


class GradientEmulator(GraphRoutes):
    """Paperspace Gradient on one port."""

    name = "gradient"

    def routes(self) -> Sequence[BaseRoute]:
        """REST v1, GraphQL, the log host, the endpoints."""
        return [*self.rest_routes(), *self.graph_routes()]

    def describe(self, url: str) -> dict[str, Any]:
        """The provider's object in the ready file."""
        facts = self.world.facts
        return {
            "base_url": f"{url}/v1", "graphql_url": f"{url}/graphql", "api_key": facts["api_key"],
            "seed": {"project_id": facts["project_id"]},
        }  # fmt: skip

    async def authenticate(self, request: Request) -> None:
        """A bearer token; the log host takes `X-API-Key`; endpoints have their own password."""
        path, key = request.url.path, self.world.facts["api_key"]
        if path.startswith("/endpoints/") or path == "/v1/health":
            return
        if path == "/jobs/logs":
            if request.headers.get("x-api-key") != key:
                raise Refusal(401, "Invalid API key")
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or given != key:
            if path == "/graphql":
                raise graph_refusal("No auth token provided.", "UNAUTHENTICATED")
            raise Refusal(401, "Unauthorized")

    def invalid(self, problems: list[dict[str, Any]]) -> Refusal:
        """400 with the vendor's issues."""
        issues = [{"message": str(p["msg"]), "path": [*p["loc"][1:]]} for p in problems]
        return Refusal(400, "Input validation failed", "BAD_REQUEST", issues=issues)

    def envelope(self, refusal: Refusal) -> Response:
        """REST's `{code, message, issues?}`, or GraphQL's errors."""
        if refusal.details.get("graphql"):
            error = {"message": refusal.message, "locations": [{"line": 1, "column": 1}]}
            return JSONResponse({"errors": [{**error, "extensions": {"code": refusal.code}}], "data": None})
        body: dict[str, Any] = {
            "code": refusal.code or _CODES.get(refusal.status, "INTERNAL_SERVER_ERROR"), "message": refusal.message,
        }  # fmt: skip
        if issues := refusal.details.get("issues"):
            body["issues"] = issues
        return JSONResponse(body, refusal.status)
