"""What the emulator knows: models, deployments, their words, replicas, logs and counts."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.lifecycle import Timeline
from prefect_modeldeploy.sandbox.pool import Scaling
from prefect_modeldeploy.sandbox.world import Record

M = TypeVar("M", bound=BaseModel)

START_SECONDS = 25.0
"""From zero to a replica that answers."""

AUTOSCALING: Mapping[str, Any] = {
    "min_replica": 0,
    "max_replica": 1,
    "autoscaling_window": 60,
    "scale_down_delay": 900,
    "concurrency_target": 1,
    "target_utilization_percentage": 70,
    "target_in_flight_tokens": None,
    "max_scale_down_rate": 50,
}
PROMOTION: Mapping[str, Any] = {
    "redeploy_on_promotion": False,
    "rolling_deploy": True,
    "promotion_cleanup_strategy": "SCALE_TO_ZERO",
    "rolling_deploy_config": {
        "rolling_deploy_strategy": "REPLICA",
        "max_surge_percent": 25,
        "max_unavailable_percent": 0,
        "stabilization_time_seconds": 0,
        "replica_overhead_percent": 0,
    },
    "ramp_up_while_promoting": False,
    "ramp_up_duration_seconds": 600,
}
INSTANCE_TYPES: Mapping[str, Record] = {
    name: {
        "id": name,
        "name": name,
        "memory_limit_mib": memory,
        "millicpu_limit": cpu,
        "gpu_count": 1 if gpu else 0,
        "gpu_type": gpu,
        "gpu_memory_limit_mib": gpu_memory,
        "price": price,
    }
    for name, cpu, memory, gpu, gpu_memory, price in (
        ("1x2", 1000, 2048, None, None, 0.00058),
        ("1x4", 1000, 4096, None, None, 0.00086),
        ("4x16", 4000, 16384, None, None, 0.00346),
        ("T4x4x16", 4000, 16384, "T4", 16384, 0.01052),
        ("L4:4x16", 4000, 16384, "L4", 24576, 0.01414),
        ("A10Gx4x16", 4000, 16384, "A10G", 24576, 0.02012),
        ("H100", 26000, 239616, "H100", 81920, 0.10833),
    )
}
FAILED = frozenset({"BUILD_FAILED", "BUILD_STOPPED", "DEPLOY_FAILED", "FAILED"})
OFF = frozenset({"DEACTIVATING", "INACTIVE"})


class Core(Emulator):
    """Records, their views, and the vendor's ways to answer."""

    name = "baseten"
    timelines: ClassVar[Mapping[str, Timeline]] = {
        "create": Timeline((("BUILDING", 60), ("DEPLOYING", 20), ("LOADING_MODEL", 30)), "ACTIVE"),
        "push": Timeline(
            (
                *(("BUILDING", 10), ("DEPLOYING", 2), ("SCALED_TO_ZERO", 11)),
                *(("WAKING_UP", 100), ("LOADING_MODEL", 20)),
            ),
            "ACTIVE",
        ),
        "activate": Timeline((("DEPLOYING", 60), ("LOADING_MODEL", 30)), "ACTIVE"),
        "deactivate": Timeline((("DEACTIVATING", 8),), "INACTIVE"),
        "promotion": Timeline((("RELEASING", 5),), "RELEASED"),
    }
    own_url = ""

    # --- answers ---------------------------------------------------------------------------------------------------

    def envelope(self, refusal: Refusal) -> Response:
        """Baseten's error answers: management, rate limit, inference, GraphQL."""
        details = refusal.details
        if details.get("graphql"):
            extensions = {"code": refusal.code or "ERROR", "description": refusal.message}
            return JSONResponse({"data": None, "errors": [{"message": refusal.message, "extensions": extensions}]})
        if details.get("inference"):
            body = {"error": refusal.message, **({"error_code": refusal.code} if refusal.code else {})}
            return JSONResponse(body, refusal.status)
        if refusal.status == 429:
            text = "Rate limit exceeded. Please try again later."
            return JSONResponse({"error": text, "retry_after": details.get("retry_after", 1)}, 429)
        code = refusal.code or _CODES.get(refusal.status, "ERROR")
        return JSONResponse({"code": code, "message": refusal.message}, refusal.status)

    def invalid(self, problems: list[dict[str, Any]]) -> Refusal:
        """A bad body or query is a 400."""
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return Refusal(400, f"{where}: {first['msg']}" if where else str(first["msg"]), "VALIDATION_ERROR")

    async def body(self, request: Request, model: type[M]) -> M:
        """As every emulator's, but numbers must be numbers: NaN and infinity could not be told back."""
        _check_finite(await request.body())
        return await super().body(request, model)

    def arguments(self, request: Request, model: type[M], *lists: str) -> M:
        """The query, with keys that repeat as lists."""
        given: dict[str, Any] = dict(request.query_params)
        for name in lists:
            if name in given:
                given[name] = request.query_params.getlist(name)
        return self.from_query(given, model)

    def from_query(self, given: dict[str, Any], model: type[M]) -> M:
        """Validate a query that has been taken apart."""
        try:
            return model.model_validate(given)  # lax: numbers come as strings
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            raise self.invalid([{**problem, "loc": ["query", *problem["loc"]]} for problem in problems]) from None

    # --- finding ---------------------------------------------------------------------------------------------------

    def model_of(self, request: Request) -> Record:
        """The model that the path names."""
        return self.find_model(request.path_params["model"])

    def find_model(self, model_id: str) -> Record:
        """A model, or the vendor's 404: a model is an Oracle inside."""
        record = self.world["models"].get(model_id)
        if record is None:
            raise Refusal(404, "No Oracle matches the given query.")
        return record

    def deployment_of(self, request: Request) -> Record:
        """The deployment that the path names: an id, or production or development."""
        model = self.model_of(request)
        return self.find_deployment(model, request.path_params["deployment"])

    def find_deployment(self, model: Record, deployment: str) -> Record:
        """A deployment of a model, or a 404; one that is very new may not be seen yet."""
        if deployment == "production":
            deployment = self.production_of(model) or ""
        elif deployment == "development":
            found = (one["id"] for one in self.deployments_of(model) if one["is_development"])
            deployment = next(found, "")
        record = self.world["deployments"].get(deployment)
        if record is None or record["model_id"] != model["id"] or self.unseen(record):
            raise Refusal(404, "No OracleVersion matches the given query.")
        return record

    def deployments_of(self, model: Record) -> list[Record]:
        """All deployments of a model."""
        return [one for one in self.world["deployments"].values() if one["model_id"] == model["id"]]

    def environments_of(self, model: Record) -> list[Record]:
        """All environments of a model."""
        return [one for one in self.world["environments"].values() if one["model_id"] == model["id"]]

    def production_of(self, model: Record) -> str | None:
        """Id of what serves production."""
        env = self.world["environments"].get(f"{model['id']}/production")
        return str(env["current"]) if env and env["current"] else None

    def environment_name(self, record: Record) -> str | None:
        """Which environment a deployment serves."""
        keys = (one for one in self.world["environments"].values() if one["current"] == record["id"])
        found = next(keys, None)
        return str(found["name"]) if found else None

    # --- what a deployment is doing --------------------------------------------------------------------------------

    def enter(self, record: Record, timeline: str) -> None:
        """Begin a life cycle of a deployment."""
        model = self.world["models"].get(record["model_id"], {})
        self.begin(record, timeline, [str(model.get("id", "")), str(model.get("name", ""))])
        record["up"] = False
        self.log(record, "INFO", f"{timeline}: {record['name']}")

    def scaling(self, record: Record) -> Scaling:
        """How the replicas of a deployment behave."""
        settings = {**AUTOSCALING, **record["autoscaling"]}
        target = settings["concurrency_target"] * (settings["target_utilization_percentage"] or 100) / 100
        return Scaling(
            settings["min_replica"],
            max(1, settings["max_replica"], settings["min_replica"]),
            target=max(1, math.ceil(target)),
            start_seconds=START_SECONDS,
            scale_down_seconds=float(settings["scale_down_delay"] or 0),
            window_seconds=float(settings["autoscaling_window"] or 60),
        )

    def status(self, record: Record) -> str:
        """The vendor's word now."""
        self.apply_pending(record)
        word = self.word(record)
        if word == "FAILED":
            return self._failed_word(record)
        if word != "ACTIVE":
            return str(word)
        self._come_up(record)
        replicas = self.pool(record).settle(self.scaling(record))
        if replicas.ready:
            return "ACTIVE"
        return "WAKING_UP" if replicas.running else "SCALED_TO_ZERO"

    def replicas(self, record: Record) -> int:
        """Replicas that answer."""
        if self.status(record) != "ACTIVE":
            return 0
        return self.pool(record).settle(self.scaling(record)).ready

    def apply_pending(self, record: Record) -> None:
        """Settings are accepted first, and applied two seconds later."""
        pending = record.get("pending")
        if pending and self.clock.elapsed(pending["since"]) >= 2:
            record["autoscaling"].update(pending["settings"])
            record["pending"] = None

    def _come_up(self, record: Record) -> None:
        """The first replica is there when a life cycle has reached ACTIVE."""
        if record["up"]:
            return
        life = record["life"]
        at = min(self.clock.now(), life["since"] + self.timelines[life["timeline"]].duration)
        first = max(1, int(record["autoscaling"].get("min_replica", 0)))
        self.pool(record).restart(first)
        record["pool"].update(started=[at - START_SECONDS] * first, busy_at=at)
        record["up"] = True
        self.log(record, "INFO", "model loaded")

    def _failed_word(self, record: Record) -> str:
        fate = record["life"]["fate"]
        if "capacity" in fate["reason"]:
            return "INACTIVE"
        if "unhealthy" in fate["reason"]:
            return "UNHEALTHY"
        return "BUILD_FAILED" if fate["stage"] == "BUILDING" else "DEPLOY_FAILED"

    # --- views -----------------------------------------------------------------------------------------------------

    def model_view(self, record: Record) -> Record:
        """A model as the vendor shows it."""
        deployments = self.deployments_of(record)
        development = next((one["id"] for one in deployments if one["is_development"]), None)
        production = self.production_of(record)
        serving = self.world["deployments"].get(production or "", {})
        return {
            "id": record["id"],
            "created_at": record["created_at"],
            "name": record["name"],
            "deployments_count": len(deployments),
            "production_deployment_id": production,
            "development_deployment_id": development,
            "instance_type_name": serving.get("instance_type", "1x4"),
            "team_name": "Default",
        }

    def view(self, record: Record) -> Record:
        """A deployment as the vendor shows it."""
        status = self.status(record)
        environment = self.environment_name(record)
        deployed = record["up"] or environment is not None or status not in ("BUILDING", "DEPLOYING")
        return {
            "id": record["id"],
            "created_at": record["created_at"],
            "name": record["name"],
            "model_id": record["model_id"],
            "is_production": environment == "production",
            "is_development": record["is_development"],
            "status": status,
            "active_replica_count": self.replicas(record),
            "autoscaling_settings": {**AUTOSCALING, **record["autoscaling"]} if deployed else None,
            "instance_type_name": record["instance_type"],
            "environment": environment,
            "labels": record["labels"],
            "request_backpressure_settings": {"policy": record["backpressure"]},
        }

    # --- logs and counts -------------------------------------------------------------------------------------------

    def log(self, record: Record, level: str, message: str, request_id: str | None = None) -> None:
        """Add a line to a deployment's log."""
        replica = record["id"][:5] if record.get("up") else None
        lines = record.setdefault("log", [])
        at = max(int(self.clock.now() * 1e9), lines[-1][0] + 1 if lines else 0)
        lines.append([at, level, message, replica, request_id])
        del lines[:-500]

    def count(self, record: Record, status: int, seconds: float) -> None:
        """Count a request, by second."""
        kind = f"{status // 100}xx"
        counts = record.setdefault("requests", {}).setdefault(str(int(self.clock.ours())), {})
        counts[kind] = counts.get(kind, 0) + 1
        counts["seconds"] = counts.get("seconds", 0.0) + seconds

    def audit(self, event: str, record: Record, **data: Any) -> None:
        """Write down who did what."""
        number = self.world.count("audit")
        self.world["audit"][f"{number:08d}"] = {
            "id": f"audit{number}",
            "created": self.clock.stamp(),
            "event_type": event,
            "event_data": {"event_type": event, "model_id": record.get("model_id", record["id"]), **data},
            "actor": {"type": "API_KEY", "name": "sandbox"},
        }


_CODES = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}


def _check_finite(raw: bytes) -> None:
    def refuse(constant: str) -> None:
        raise Refusal(400, f"{constant} is no JSON", "VALIDATION_ERROR")

    try:
        json.dumps(json.loads(raw or b"{}", parse_constant=refuse), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON that can be stored: {error}", "VALIDATION_ERROR") from None


def merged(settings: Record, changes: Mapping[str, Any]) -> Record:
    """Settings after a change: what is null or missing stays."""
    after = dict(settings)
    for name, value in changes.items():
        if isinstance(value, dict):
            after[name] = merged(after.get(name) or {}, value)
        elif value is not None:
            after[name] = value
    return after


def first(items: Iterable[Record], **fields: Any) -> Record | None:
    """The first record with these values."""
    return next((one for one in items if all(one.get(name) == value for name, value in fields.items())), None)
