"""Scale's SGP: the V4 API (models, deployments, templates, groups, model servers, usage) and V5 models.

Facts: the public OpenAPI document of "Get Deployment" and the official clients scale-gp 0.1.0a62, scale-gp-beta 0.7.0.
What nobody outside knows, and what the emulator does: the table in docs/sandbox.md.
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
