"""What truss asks by GraphQL: a handful of queries, known by their names, not a GraphQL engine."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_modeldeploy.sandbox.baseten.bodies import GraphQL, ModelSource, Payload
from prefect_modeldeploy.sandbox.baseten.core import INSTANCE_TYPES, first
from prefect_modeldeploy.sandbox.baseten.serving import Serving
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.world import Record

_WORDS = {
    "BUILDING": "BUILDING_MODEL",
    "DEPLOYING": "DEPLOYING_MODEL",
    "LOADING_MODEL": "MODEL_LOADING",
    "ACTIVE": "MODEL_READY",
    "UNHEALTHY": "MODEL_UNHEALTHY",
    "INACTIVE": "DEACTIVATED_MODEL",
    "WAKING_UP": "SCALING_FROM_ZERO",
}


class Graph(Serving):
    """The endpoint `/graphql/`."""

    async def graphql(self, request: Request) -> Response:
        """POST /graphql/."""
        asked = await self.body(request, GraphQL)
        try:
            data = self._resolve(asked.query, asked.variables or {})
        except Refusal as refusal:
            raise Refusal(200, refusal.message, refusal.code, graphql=1) from None
        return JSONResponse({"data": data})

    def _resolve(self, query: str, variables: Record) -> Record:
        fields: dict[str, Callable[[], Record]] = {
            "truss_validation": lambda: {"success": True, "details": json.dumps({"errors": [], "warnings": []})},
            "model_s3_upload_credentials": lambda: {**self.ticket(), "region_name": "us-west-2"},
            "create_model_from_truss": lambda: self._push(query, variables, new=True),
            "create_model_version_from_truss": lambda: self._push(query, variables, new=False),
            "deploy_draft_truss": lambda: self._draft(query, variables),
        }
        for name, resolve in fields.items():
            if re.search(rf"\b{name}\b", query):
                return {name: resolve()}
        if "listed_instances" in query:
            return {"listedInstances": [_listed(one) for one in INSTANCE_TYPES.values()]}
        if re.search(r"\bmodel_version\s*\(", query):
            return {"model_version": self._version(self._deployment(_argument(query, "id") or ""))}
        if re.search(r"\bmodel\s*\(", query):
            return {"model": self._model(_argument(query, "id"), _argument(query, "name"))}
        if re.search(r"\bmodels\s*\(", query):
            return {"models": [self._short(one) for one in self.world["models"].values()]}
        if re.search(r"\bteams\b", query):
            return {"teams": [{name: self.team()[name] for name in ("id", "name", "default")}]}
        if "organization" in query or "user" in query:
            return {"organization": {"workspace_name": "sandbox"}, "user": {"email": "sandbox@example.com"}}
        raise Refusal(400, "Cannot query this field", "GRAPHQL_VALIDATION_FAILED")

    def _push(self, query: str, variables: Record, *, new: bool) -> Record:
        key = _argument(query, "s3_key")
        payload = _payload(query, variables)
        if new:
            source = ModelSource(
                kind="model_archive", name=_argument(query, "name") or "", deployment=payload, s3_key=key
            )
            _, record = self.new_model(source)
        else:
            model = self.find_model(_argument(query, "model_id") or "")
            record = self.new_deployment(model, payload, key)
        return {"model_version": self._version(record)}

    def _draft(self, query: str, variables: Record) -> Record:
        name = _argument(query, "name") or ""
        payload = _payload(query, variables).model_copy(
            update={"is_development": True, "environment_name": None, "deployment_name": None}
        )
        model = first(self.world["models"].values(), name=name) or self.add_model(name)
        return {"model_version": self._version(self.new_deployment(model, payload, _argument(query, "s3_key")))}

    def _deployment(self, deployment_id: str) -> Record:
        record = self.world["deployments"].get(deployment_id)
        if record is None:
            raise Refusal(404, "OracleVersion not found", "NOT_FOUND")
        return record

    def _model(self, model_id: str | None, name: str | None) -> Record:
        found = self.world["models"].get(model_id or "") or first(self.world["models"].values(), name=name)
        if found is None:
            raise Refusal(404, "Oracle not found", "NOT_FOUND")
        versions = [self._semver(one) for one in self.deployments_of(found)]
        primary = next((one for one in versions if one["is_primary"]), None)
        return {**self._short(found), "hostname": self._host(found), "versions": versions, "primary_version": primary}

    def _short(self, model: Record) -> Record:
        team = {"id": self.world.facts["team_id"], "name": "Default"}
        return {"id": model["id"], "name": model["name"], "team": team}

    def _host(self, model: Record) -> str:
        return f"{self.own_url}/inference/model-{model['id']}"

    def _semver(self, record: Record) -> Record:
        status = self.status(record)
        return {
            "id": record["id"],
            "semver": "0.0.1" if record["is_development"] else "1.0.0",
            "truss_hash": None,
            "truss_signature": None,
            "is_draft": record["is_development"],
            "is_primary": self.environment_name(record) == "production",
            "current_model_deployment_status": {"status": _WORDS.get(status, status)},
        }

    def _version(self, record: Record) -> Record:
        model = self.world["models"][record["model_id"]]
        return {
            **self._semver(record),
            "oracle": {"id": model["id"], "name": model["name"], "hostname": self._host(model)},
            "instance_type": {"name": record["instance_type"]},
        }


def _argument(query: str, name: str) -> str | None:
    found = re.search(rf'\b{name}\s*:\s*"([^"]*)"', query)
    return found.group(1) if found else None


def _payload(query: str, variables: Record) -> Payload:
    metadata = variables.get("userDeployMetadata")
    fields: dict[str, Any] = {
        "config": _decoded(_argument(query, "config")),
        "raw_config": _text(variables.get("rawConfig")),
        "environment_name": _argument(query, "environment_name"),
        "deployment_name": _named(query),
        "labels": json.loads(metadata) if isinstance(metadata, str) and metadata.startswith("{") else None,
        "preserve_env_instance_type": "preserve_env_instance_type: false" not in query,
    }
    try:
        return Payload.model_validate(fields)
    except (ValidationError, ValueError) as error:
        raise Refusal(400, f"Invalid truss: {error}", "VALIDATION_ERROR") from None


def _named(query: str) -> str | None:
    """The deployment's name; with a new model `name` is the model's, and `version_name` the deployment's."""
    if "create_model_version_from_truss" in query:
        return _argument(query, "name")
    return _argument(query, "version_name")


def _decoded(config: str | None) -> Any:
    try:
        return json.loads(base64.b64decode(config or "", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise Refusal(400, "config is no JSON in base64", "VALIDATION_ERROR") from None


def _text(raw: Any) -> str | None:
    if not isinstance(raw, str):
        return None
    try:
        return base64.b64decode(raw, validate=True).decode()
    except (ValueError, binascii.Error):
        return raw


def _listed(kind: Record) -> Record:
    return {
        "id": kind["id"],
        "name": kind["name"],
        "displayName": kind["name"],
        "millicpuLimit": kind["millicpu_limit"],
        "memoryLimit": kind["memory_limit_mib"],
        "gpuCount": kind["gpu_count"],
        "gpuType": kind["gpu_type"],
        "gpuMemory": kind["gpu_memory_limit_mib"],
        "default": kind["name"] == "1x4",
        "nodeCount": 1,
        "price": kind["price"],
        "limitedCapacity": False,
    }
