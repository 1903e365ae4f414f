"""The emulator: who may come in, how it says no, and its first world."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal, Shared
from prefect_modeldeploy.sandbox.foundry.live import Live
from prefect_modeldeploy.sandbox.foundry.models import DEFAULT_BRANCH, Models
from prefect_modeldeploy.sandbox.foundry.oauth import TOKEN_SECONDS, OAuth
from prefect_modeldeploy.sandbox.lifecycle import Timeline
from prefect_modeldeploy.sandbox.world import World

SEED_FOLDER = "ri.compass.main.folder.sandbox"

_CODES = {
    400: ("INVALID_ARGUMENT", "Default:InvalidArgument"),
    401: ("UNAUTHORIZED", "Default:Unauthorized"),
    403: ("PERMISSION_DENIED", "Default:PermissionDenied"),
    404: ("NOT_FOUND", "Default:NotFound"),
    405: ("INVALID_ARGUMENT", "Default:MethodNotAllowed"),
    409: ("CONFLICT", "Default:Conflict"),
    413: ("REQUEST_ENTITY_TOO_LARGE", "Default:RequestEntityTooLarge"),
    415: ("INVALID_ARGUMENT", "Conjure:UnsupportedMediaType"),
    422: ("INVALID_ARGUMENT", "Conjure:UnprocessableEntity"),
    429: ("CUSTOM_CLIENT", "Default:RateLimited"),
    500: ("INTERNAL", "Default:Internal"),
    503: ("CUSTOM_SERVER", "Default:ServiceUnavailable"),
    504: ("TIMEOUT", "Default:Timeout"),
}

_API: dict[str, Any] = {
    "inputs": [
        {
            "type": "tabular",
            "name": "input_df",
            "required": False,
            "columns": [{"name": "feature_1", "required": True, "dataType": {"type": "double"}}],
            "format": "PANDAS",
        },
        {"type": "parameter", "name": "x", "required": False, "dataType": {"type": "any"}},
    ],
    "outputs": [{"type": "parameter", "name": "sum", "required": True, "dataType": {"type": "double"}}],
}

Handler = Callable[[Request], Awaitable[Response]]


class FoundryEmulator(Emulator):
    """Palantir Foundry."""

    name = "foundry"
    timelines: ClassVar = {
        # DEGRADED lasts no time by itself: a fate can hold a deployment there.
        "create": Timeline((("STARTING", 60.0), ("DEGRADED", 0.0)), "ACTIVE"),
        "start": Timeline((("STARTING", 45.0), ("DEGRADED", 0.0)), "ACTIVE"),
        "disable": Timeline((), "DISABLED"),
        "upgrade": Timeline((("UPGRADING", 90.0),), "LIVE", failed="FORMER"),
        "version": Timeline((), "PUBLISHED"),
    }

    one_per_branch: ClassVar[bool] = True
    """Whether a second deployment of a model's branch is refused; False shows a client that creates twice."""

    token_seconds: ClassVar[float] = TOKEN_SECONDS
    """How long a token lives, in sandbox seconds."""

    def __init__(self, shared: Shared, world: World) -> None:
        self.oauth = OAuth(self)
        self.shared, self.world = shared, world
        self.models, self.live = Models(self), Live(self)
        super().__init__(shared, world)

    def seed(self) -> None:
        """A model with one version on master, and a healthy deployment of it."""
        model = self.models.make("sandbox-model", SEED_FOLDER)["rid"]
        fields = {"modelApi": _API, "condaRequirements": [], "backingRepositories": [], "source": {"type": "sdk"}}
        version = self.models.add_version(model, DEFAULT_BRANCH, fields)["rid"]
        config = {
            "minReplicas": 1, "maxReplicas": 3, "cpu": 1.0, "memory": "256MiB", "threadCount": 32,
            "sources": [], "environmentVariables": {},
        }  # fmt: skip
        live = self.live.make(model, DEFAULT_BRANCH, version, config)
        long_ago = self.clock.now() - 3600
        live["life"] = {"timeline": "create", "since": long_ago, "fate": None}
        live["pool"]["started"] = [long_ago]
        self.world.facts.update(
            token=self.new_secret("foundry"),
            client_id=self.world.new_id("client", 12),
            client_secret=self.new_secret("foundry-app"),
            model_rid=model,
            model_version_rid=version,
            live_deployment_rid=live["id"],
            branch=DEFAULT_BRANCH,
        )

    def describe(self, url: str) -> dict[str, Any]:
        """The stack's address, a user's token, an application, and the seeded model."""
        facts = self.world.facts
        keys = ("token", "client_id", "client_secret")
        seed = {name: facts[name] for name in ("model_rid", "model_version_rid", "branch")}
        return {"base_url": url, **{name: facts[name] for name in keys}, "seed": seed}

    @property
    def secrets(self) -> list[str]:
        """Also the tokens that were given out."""
        return [*super().secrets, *self.world["tokens"]]

    def routes(self) -> Sequence[BaseRoute]:
        """All paths."""
        return [*self.oauth.routes(), *self.live.routes(), *self.models.routes()]

    def route(self, method: str, path: str, handler: Handler, scope: str) -> Route:
        """A path of the API: in preview, with an operation scope, and with JSON if with a body."""
        needed = f"api:models-{scope}"

        async def guarded(request: Request) -> Response:
            if needed not in request.scope["foundry.scopes"]:
                raise Refusal(403, "The token lacks a scope.", "ApiUsageDenied", missingScope=needed)
            if request.query_params.get("preview") != "true":
                raise Refusal(400, "This endpoint is in preview.", "ApiFeaturePreviewUsageOnly")
            kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
            if kind != "application/json" and await request.body():
                raise Refusal(415, "The body must be JSON.")
            return await handler(request)

        return Route(path, guarded, methods=[method])

    async def authenticate(self, request: Request) -> None:
        """A bearer token, but not at the token endpoint."""
        if request.url.path.startswith("/multipass/"):
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal(401, "No credentials.", "MissingCredentials")
        request.scope["foundry.scopes"] = self.oauth.scopes(token.strip())

    def envelope(self, refusal: Refusal) -> Response:
        """errorCode, errorName, errorInstanceId, parameters, errorDescription."""
        fallback = ("INTERNAL", "Default:Internal") if refusal.status >= 500 else ("INVALID_ARGUMENT", "Default:Other")
        code, name = _CODES.get(refusal.status, fallback)
        if refusal.code == "InferenceTimeout":
            code = "TIMEOUT"
        body = {
            "errorCode": code,
            "errorName": refusal.code or name,
            "errorDescription": refusal.message,
            "errorInstanceId": str(uuid4()),
            "parameters": refusal.details,
        }
        return JSONResponse(body, refusal.status)

    def invalid(self, problems: list[dict[str, Any]]) -> Refusal:
        """400 with the field."""
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"])
        return Refusal(400, str(first["msg"]), "Default:InvalidArgument", parameter=where)
