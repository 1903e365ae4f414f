"""Scale's SGP: the V4 API (models, deployments, templates, groups, model servers, usage) and V5 models.

Facts: the public OpenAPI document of "Get Deployment" and the official clients scale-gp 0.1.0a62, scale-gp-beta 0.7.0.
Where nobody outside knows what the vendor does, this is what the emulator does, and no client may rely on it:

| vendor behaviour that is unknown                | what the emulator does                                           |
|-------------------------------------------------|------------------------------------------------------------------|
| status words beyond READY                       | the Launch backend's: UPDATE_PENDING, UPDATE_IN_PROGRESS, READY, |
|                                                 | UPDATE_FAILED, DELETE_IN_PROGRESS, then 404                      |
| bodies of 400, 401, 403, 404, 409, 5xx          | `{"detail": "<text>"}`                                           |
| a wrong API key; another account                | 401; 403                                                         |
| unknown fields of a body                        | ignored                                                          |
| PATCH of vendor_configuration, metadata,        | replaces the object whole; absent fields go back to their        |
| creation parameters                             | defaults; another vendor is a 400                                |
| bounds of workers                               | Launch's: 0 <= min, 0 <= max <= 250, per_worker > 0, else 400    |
| PATCH while an update runs                      | accepted; the life cycle starts again                            |
| uniqueness of names and aliases                 | names are not unique; a server's alias is (409)                  |
| execute before the first READY                  | 503                                                              |
| execute while updated                           | served: Launch rolls with maxUnavailable 0                       |
| execute at zero workers                         | held up to 30 s of our time while a worker starts, then 504      |
| execute with max_workers 0                      | 400                                                              |
| the model raises                                | 500 `{"detail": ...}`                                            |
| workers while idle                              | down to min_workers after 300 s without need                     |
| changing the deployment of a built-in model     | 400                                                              |
| deleting a model that has deployments           | 409; deleting one behind a server: allowed, the server then 404s |
| rollback of a server                            | one step: swaps the current and the former backend; 400 if none  |
| PUT of the backend that it has already          | accepted, and the former backend becomes the same                |
| sort_by, joined with commas                     | split at commas; an unknown field is a 422                       |
| V5: update or delete while deploying            | 409                                                              |
| V5: vendors that need no deployment             | ready at once                                                    |
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.lifecycle import Timeline
from prefect_modeldeploy.sandbox.scale import parts
from prefect_modeldeploy.sandbox.scale.catalog import Catalog
from prefect_modeldeploy.sandbox.scale.deployments import Deployments
from prefect_modeldeploy.sandbox.scale.serving import Servers
from prefect_modeldeploy.sandbox.scale.v5 import V5Models

_PENDING, _PROGRESS = ("UPDATE_PENDING", 5.0), ("UPDATE_IN_PROGRESS", 90.0)


class ScaleEmulator(Emulator):
    """The emulator of api.egp.scale.com."""

    name = "scale"
    timelines: ClassVar = {
        "create": Timeline((_PENDING, _PROGRESS), "READY", failed="UPDATE_FAILED"),
        "update": Timeline((_PENDING, _PROGRESS), "READY", failed="UPDATE_FAILED"),
        "delete": Timeline((("DELETE_IN_PROGRESS", 10.0),), None, failed="UPDATE_FAILED"),
        "builtin": Timeline((), "READY"),
        "v5": Timeline((("deploying", 120.0),), "ready", failed="failed"),
        "hosted": Timeline((), "ready"),
    }

    def routes(self) -> Sequence[BaseRoute]:
        """V4 and V5."""
        deployments = Deployments(self)
        return [
            *deployments.routes(),
            *Servers(self, deployments).routes(),
            *Catalog(self, deployments).routes(),
            *V5Models(self).routes(),
        ]

    def seed(self) -> None:
        """An account with one model and its healthy deployment."""
        facts = self.world.facts
        facts["account_id"] = self.world.new_uuid("account")
        facts["user_id"] = self.world.new_uuid("user")
        deployments = Deployments(self)
        model = Catalog(self, deployments).make_model(
            {
                "name": "fraud",
                "model_type": "GENERIC",
                "model_vendor": "LAUNCH",
                "account_id": facts["account_id"],
            }
        )
        one = {"vendor": "LAUNCH", "min_workers": 1, "max_workers": 2, "per_worker": 10}
        record = deployments.make(model, {"name": "fraud-v1", "vendor_configuration": one})
        # It has been there for long: its life cycle is over at any speed.
        record["life"]["since"] -= self.timelines["create"].duration
        record["pool"] = {"started": [self.clock.now() - parts.POD_START_SECONDS], "busy_at": self.clock.now()}
        facts["model_instance_id"], facts["deployment_id"] = model["id"], record["id"]
        facts["api_key"] = self.new_secret("scale")

    def describe(self, url: str) -> dict[str, Any]:
        """As issue 3 says."""
        facts = self.world.facts
        return {
            "base_url": url,
            "api_key": facts["api_key"],
            "account_id": facts["account_id"],
            "seed": {"model_instance_id": facts["model_instance_id"]},
        }

    def envelope(self, refusal: Refusal) -> Response:
        """FastAPI's: a list of problems for 422, a text for everything else."""
        detail: Any = refusal.details.get("problems", refusal.message)
        return JSONResponse({"detail": detail}, refusal.status)

    def invalid(self, problems: list[dict[str, Any]]) -> Refusal:
        """422, without values that JSON cannot hold."""
        kept = [{name: problem[name] for name in ("loc", "msg", "type")} for problem in problems]
        return Refusal(422, "Validation Error", problems=kept)

    async def authenticate(self, request: Request) -> None:
        """The API key, and the account if one is selected."""
        if request.headers.get("x-api-key") != self.world.facts["api_key"]:
            raise Refusal(401, "Unauthorized")
        account = request.headers.get("x-selected-account-id")
        if account not in (None, self.world.facts["account_id"]):
            raise Refusal(403, "Forbidden")
        if account is None and request.url.path.startswith("/v5/"):
            raise Refusal(403, "x-selected-account-id is required")


EMULATOR = ScaleEmulator
