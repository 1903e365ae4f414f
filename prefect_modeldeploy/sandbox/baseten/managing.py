"""The management API's routes on models, deployments and environments."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_modeldeploy.sandbox.baseten.bodies import (
    Autoscaling,
    Backpressure,
    ConfigQuery,
    DeploymentName,
    EnvironmentPatch,
    Filter,
    Name,
    NewEnvironment,
    Promote,
    PromoteTo,
)
from prefect_modeldeploy.sandbox.baseten.core import FAILED, OFF, first, merged
from prefect_modeldeploy.sandbox.baseten.creating import Creating
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.world import Record

Handler = Callable[[Request], Awaitable[Response]]


class Managing(Creating):
    """Models, deployments, environments."""

    # --- models ----------------------------------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        name = self.arguments(request, Filter).name
        found = [one for one in self.world["models"].values() if name is None or one["name"] == name]
        for one in found:
            self.settle_all(one)
        return JSONResponse({"models": [self.model_view(one) for one in found]})

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        model = self.model_of(request)
        self.settle_all(model)
        return JSONResponse(self.model_view(model))

    async def rename_model(self, request: Request) -> Response:
        """PATCH /v1/models/{model}."""
        model = self.model_of(request)
        model["name"] = (await self.body(request, Name)).name
        self.audit("MODEL_RENAMED", model, model_name=model["name"])
        return JSONResponse(self.model_view(model))

    async def delete_model(self, request: Request) -> Response:
        """DELETE /v1/models/{model}."""
        model = self.model_of(request)
        for table in ("deployments", "environments"):
            for key in [key for key, one in self.world[table].items() if one["model_id"] == model["id"]]:
                del self.world[table][key]
        del self.world["models"][model["id"]]
        self.audit("MODEL_DELETED", model)
        return JSONResponse({"id": model["id"], "deleted": True})

    # --- deployments -----------------------------------------------------------------------------------------------

    async def list_deployments(self, request: Request) -> Response:
        """GET /v1/models/{model}/deployments."""
        model, name = self.model_of(request), self.arguments(request, Filter).name
        self.settle_all(model)
        found = [one for one in self.deployments_of(model) if name is None or one["name"] == name]
        return JSONResponse({"deployments": [self.view(one) for one in found if not self.unseen(one)]})

    async def get_deployment(self, request: Request) -> Response:
        """GET /v1/models/{model}/deployments/{deployment}."""
        self.settle_all(self.model_of(request))
        return JSONResponse(self.view(self.deployment_of(request)))

    async def rename_deployment(self, request: Request) -> Response:
        """PATCH /v1/models/{model}/deployments/{deployment}."""
        record = self.deployment_of(request)
        name = (await self.body(request, DeploymentName)).name
        other = first(self.deployments_of(self.model_of(request)), name=name)
        if other is not None and other is not record:
            raise Refusal(400, f"A deployment named {name} already exists.", "VALIDATION_ERROR")
        record["name"] = name
        return JSONResponse(self.view(record))

    async def delete_deployment(self, request: Request) -> Response:
        """DELETE /v1/models/{model}/deployments/{deployment}."""
        model, record = self.model_of(request), self.deployment_of(request)
        self.settle_all(model)
        if environment := self.environment_name(record):
            text = f"Deployment {record['id']} serves {environment}; promote another one first."
            raise Refusal(400, text, "VALIDATION_ERROR")
        del self.world["deployments"][record["id"]]
        self._pools.pop(record["id"], None)
        self.audit("MODEL_DEPLOYMENT_DELETED", record, deployment_id=record["id"])
        return JSONResponse({"id": record["id"], "deleted": True, "model_id": model["id"]})

    async def activate(self, request: Request) -> Response:
        """POST .../activate."""
        return JSONResponse(self._activate(self.deployment_of(request)))

    async def deactivate(self, request: Request) -> Response:
        """POST .../deactivate."""
        return JSONResponse(self._deactivate(self.deployment_of(request)))

    def _activate(self, record: Record) -> Record:
        idle = self.status(record) in OFF
        if idle:
            self.enter(record, "activate")
            self.audit("MODEL_DEPLOYMENT_ACTIVATED", record, deployment_id=record["id"])
        return {"success": True, "no_op": not idle}

    def _deactivate(self, record: Record) -> Record:
        busy = self.status(record) not in OFF
        if busy:
            self.enter(record, "deactivate")
            self.pool(record).restart(0)
            self.audit("MODEL_DEPLOYMENT_DEACTIVATED", record, deployment_id=record["id"])
        return {"success": True, "no_op": not busy}

    async def retry(self, request: Request) -> Response:
        """POST .../retry."""
        record = self.deployment_of(request)
        status = self.status(record)
        retried = status in FAILED
        if retried:
            self.enter(record, "create" if status == "BUILD_FAILED" else "activate")
        reason = None if retried else f"Deployment is {status}; only failed deployments can be retried."
        return JSONResponse({"retried": retried, "reason": reason, "deployment": self.view(record)})

    async def promote_deployment(self, request: Request) -> Response:
        """POST .../deployments/{deployment}/promote."""
        model, record = self.model_of(request), self.deployment_of(request)
        env = self.find_environment(model, "production")
        return JSONResponse(self.view(self.promote(env, record, await self.body(request, Promote))))

    async def set_autoscaling(self, request: Request) -> Response:
        """PATCH .../autoscaling_settings."""
        record = self.deployment_of(request)
        return JSONResponse(self._scale(record, (await self.body(request, Autoscaling)).passed()))

    def _scale(self, record: Record, changes: dict[str, Any]) -> Record:
        self.apply_pending(record)
        after = {**record["autoscaling"], **changes}
        if after.get("min_replica", 0) > after.get("max_replica", 1):
            raise Refusal(400, "min_replica must not be greater than max_replica.", "VALIDATION_ERROR")
        if record["is_development"] and {"min_replica", "max_replica"} & set(changes):
            raise Refusal(400, "A development deployment has 0 to 1 replicas.", "VALIDATION_ERROR")
        if after == record["autoscaling"]:
            return {"status": "UNCHANGED", "message": "The settings are the same."}
        record["pending"] = {"since": self.clock.now(), "settings": changes}
        env = self.environment_name(record)
        if env is not None:
            self.world["environments"][f"{record['model_id']}/{env}"]["autoscaling"].update(changes)
        self.apply_pending(record)
        self.audit("MODEL_DEPLOYMENT_AUTOSCALING_SETTINGS_CHANGED", record, deployment_id=record["id"])
        return {"status": "ACCEPTED", "message": "The settings are being applied."}

    async def set_backpressure(self, request: Request) -> Response:
        """PATCH .../request_backpressure_settings."""
        record = self.deployment_of(request)
        record["backpressure"] = (await self.body(request, Backpressure)).policy
        return JSONResponse({"policy": record["backpressure"]})

    async def terminate_replica(self, request: Request) -> Response:
        """DELETE .../replicas/{replica}."""
        record, replica = self.deployment_of(request), request.path_params["replica"]
        if replica != record["id"][:5] or not self.replicas(record):
            raise Refusal(404, "No replica matches the given query.")
        pool = record["pool"]
        pool["started"] = [*pool["started"][1:], self.clock.now()]
        self.audit("REPLICA_TERMINATED", record, deployment_id=record["id"], replica_id=replica)
        return JSONResponse({"success": True})

    async def config(self, request: Request) -> Response:
        """GET .../config."""
        record, form = self.deployment_of(request), self.arguments(request, ConfigQuery).output_format
        parsed = record["config"] if form != "raw" else None
        return JSONResponse({"config": parsed, "raw_config": record["raw_config"] if form != "parsed" else None})

    async def download_url(self, request: Request) -> Response:
        """GET .../download."""
        record = self.deployment_of(request)
        signed = f"{self.own_url}/download/{record['s3_key']}?signature={self.world.facts['download_secret']}"
        return JSONResponse({"download_url": signed})

    # --- environments ----------------------------------------------------------------------------------------------

    def environment_of(self, request: Request) -> Record:
        """The environment that the path names."""
        return self.find_environment(self.model_of(request), request.path_params["environment"])

    def serving(self, env: Record) -> Record:
        """What serves an environment."""
        record = self.world["deployments"].get(env["current"] or "")
        if record is None:
            raise Refusal(400, f"Environment {env['name']} has no deployment.", "VALIDATION_ERROR")
        return record

    async def list_environments(self, request: Request) -> Response:
        """GET .../environments."""
        found = self.environments_of(self.model_of(request))
        return JSONResponse({"environments": [self.environment_view(one) for one in found]})

    async def get_environment(self, request: Request) -> Response:
        """GET .../environments/{environment}."""
        return JSONResponse(self.environment_view(self.environment_of(request)))

    async def create_environment(self, request: Request) -> Response:
        """POST .../environments."""
        model, asked = self.model_of(request), await self.body(request, NewEnvironment)
        if f"{model['id']}/{asked.name}" in self.world["environments"] or asked.name == "development":
            raise Refusal(400, f"Environment {asked.name} already exists.", "VALIDATION_ERROR")
        changes = EnvironmentPatch(
            autoscaling_settings=asked.autoscaling_settings,
            promotion_settings=asked.promotion_settings,
            request_backpressure_settings=asked.request_backpressure_settings,
        )
        env = self.make_environment(model, asked.name)
        try:
            self._change(env, changes)
        except Refusal:
            del self.world["environments"][env["id"]]
            raise
        return JSONResponse(self.environment_view(env))

    async def update_environment(self, request: Request) -> Response:
        """PATCH .../environments/{environment}."""
        env = self.environment_of(request)
        self._change(env, await self.body(request, EnvironmentPatch))
        answer = {"status": "ACCEPTED", "message": "The settings are being applied."}
        return JSONResponse({"environment": self.environment_view(env), **answer})

    def _change(self, env: Record, changes: EnvironmentPatch) -> None:
        promotion = merged(
            env["promotion_settings"], changes.promotion_settings.model_dump() if changes.promotion_settings else {}
        )
        config = promotion["rolling_deploy_config"]
        if bool(config["max_surge_percent"]) == bool(config["max_unavailable_percent"]):
            text = "Exactly one of max_surge_percent and max_unavailable_percent must be non-zero."
            raise Refusal(400, text, "VALIDATION_ERROR")
        scaling = changes.autoscaling_settings.passed() if changes.autoscaling_settings else {}
        after = {**env["autoscaling"], **scaling}
        if after["min_replica"] > after["max_replica"]:
            raise Refusal(400, "min_replica must not be greater than max_replica.", "VALIDATION_ERROR")
        env.update(promotion_settings=promotion, autoscaling=after)
        if changes.request_backpressure_settings:
            env["backpressure"] = changes.request_backpressure_settings.policy
        self._schedule(env, changes)
        current = self.world["deployments"].get(env["current"] or "")
        if current is not None and scaling:
            self._scale(current, scaling)

    def _schedule(self, env: Record, changes: EnvironmentPatch) -> None:
        asked = changes.autoscaling_schedule_settings
        if asked is None:
            return
        env["timezone"] = asked.timezone or env["timezone"] or "UTC"
        gone = set(asked.delete_schedules or [])
        kept = {one["id"]: one for one in env["schedules"] if one["id"] not in gone}
        for schedule in asked.schedules or []:
            record = schedule.model_dump(exclude_none=True)
            record["id"] = schedule.id or self.world.new_id("schedule")
            kept[record["id"]] = record
        env["schedules"] = list(kept.values())

    async def delete_environment(self, request: Request) -> Response:
        """DELETE .../environments/{environment}."""
        env = self.environment_of(request)
        if env["name"] == "production":
            raise Refusal(400, "The production environment cannot be deleted.", "VALIDATION_ERROR")
        current = self.world["deployments"].get(env["current"] or "")
        if current is not None:
            current["autoscaling"]["min_replica"] = 0
            self.pool(current).restart(0)
        del self.world["environments"][env["id"]]
        return JSONResponse({"name": env["name"], "model_id": env["model_id"], "deleted": True})

    async def activate_environment(self, request: Request) -> Response:
        """POST .../environments/{environment}/activate."""
        return JSONResponse(self._activate(self.serving(self.environment_of(request))))

    async def deactivate_environment(self, request: Request) -> Response:
        """POST .../environments/{environment}/deactivate."""
        return JSONResponse(self._deactivate(self.serving(self.environment_of(request))))

    async def promote_to(self, request: Request) -> Response:
        """POST .../environments/{environment}/promote."""
        env, asked = self.environment_of(request), await self.body(request, PromoteTo)
        source = self.find_deployment(self.model_of(request), asked.deployment_id)
        candidate = self.promote(env, source, asked)
        self.audit("MODEL_DEPLOYMENT_PROMOTED", source, deployment_id=source["id"], environment_name=env["name"])
        return JSONResponse(self.view(candidate))

    async def cancel_promotion(self, request: Request) -> Response:
        """POST .../cancel_promotion."""
        env = self.environment_of(request)
        status = self.cancel(env)
        self._told(env, "GRACEFUL_CANCEL")
        return JSONResponse({"status": status, "message": "The promotion is being canceled."})

    def signal(self, action: str) -> Handler:
        """POST .../{action}_promotion."""

        async def handler(request: Request) -> Response:
            env = self.environment_of(request)
            self.control(env, action)
            self._told(env, action.upper())
            return JSONResponse({"success": True})

        return handler

    def _told(self, env: Record, action: str) -> None:
        self.audit("MODEL_PROMOTION_CONTROL_ACTION", env, environment_name=env["name"], action=action)
