"""The retired GraphQL API and its log host."""

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.gradient.bodies import GRAPH_INPUTS, LogsQuery
from prefect_modeldeploy.sandbox.gradient.query import BadQuery, Operation, answer, parse
from prefect_modeldeploy.sandbox.gradient.rest import RestRoutes
from prefect_modeldeploy.sandbox.gradient.world import machine_of, replicas_of
from prefect_modeldeploy.sandbox.world import Record

_DATA = (
    "image", "port", "protocol", "command", "enabled", "containerRegistry", "env", "models", "repositories",
)  # fmt: skip
_PHASES = {"healthy": "Running", "errored": "Failed", "failed": "Failed"}


class GraphRoutes(RestRoutes):
    """The handlers of `/graphql` and `/jobs/logs`."""

    def graph_routes(self) -> Sequence[BaseRoute]:
        """All of them."""
        return [
            Route("/graphql", self._graphql, methods=["POST"]),
            Route("/jobs/logs", self._log_host, methods=["GET"]),
        ]

    async def _graphql(self, request: Request) -> Response:
        query, variables = await _document(request)
        try:
            operation = parse(query, variables)
            data = {name: self._root(operation, name, request) for name in operation.selection}
        except BadQuery as error:
            raise graph_refusal(error.message, error.code) from None
        except Refusal as refusal:
            if "graphql" in refusal.details:
                raise
            raise graph_refusal(refusal.message, "NOT_FOUND" if refusal.status == 404 else "BAD_USER_INPUT") from None
        return JSONResponse({"data": data})

    async def _log_host(self, request: Request) -> Response:
        query = self.query(request, LogsQuery)
        rows = self.deployment(query.gradientDeploymentId)["logs"]
        shown = [
            {"jobId": None, "line": number, "timestamp": row["dtCreated"], "message": row["message"]}
            for number, row in enumerate(rows, 1)
        ][query.line - 1 : query.line - 1 + query.limit]
        if query.line - 1 + len(shown) >= len(rows):
            shown.append({"line": len(rows) + 1, "timestamp": self.clock.stamp(), "message": "PSEOF"})
        return JSONResponse(shown)

    def _root(self, operation: Operation, name: str, request: Request) -> Any:
        asked = operation.selection[name]
        roots: dict[str, dict[str, Callable[..., Any]]] = {
            "query": {"deployment": self._deployment, "deployments": self._deployments},
            "mutation": {
                "createDeployment": self._create_one,
                "updateDeployment": self._update_one,
                "deleteDeployment": self._delete_one,
            },
        }
        known = roots[operation.kind].get(name)
        if known is None:
            raise BadQuery(f'Cannot query field "{name}" on type "{operation.kind.capitalize()}".')
        return answer(known(asked.arguments, request), asked.selection, name)

    # --- queries --------------------------------------------------------------------------------------------------

    def _deployment(self, arguments: Record, request: Request) -> Record | None:
        deployment = self.world["deployments"].get(_uuid(arguments.get("id"), "id"))
        if deployment is None or self.latest(deployment) is None:
            return None
        return self._node(deployment, request)

    def _deployments(self, arguments: Record, request: Request) -> Record:
        project, name = arguments.get("projectId"), arguments.get("name")
        found = [
            self._node(deployment, request)
            for deployment in reversed(self.world["deployments"].values())
            if project in (None, deployment["projectId"])
            and name in (None, deployment["name"])
            and self.latest(deployment) is not None
        ]
        return _connection(found, arguments)

    def _node(self, deployment: Record, request: Request) -> Record:
        def specs(**arguments: Any) -> Record:
            cluster = arguments.pop("clusterId", None)
            shown = self.versions(deployment) if cluster in (None, deployment["clusterId"]) else []
            return _connection([self._spec(deployment, spec, request) for spec in shown], arguments)

        return {
            "id": deployment["id"], "name": deployment["name"], "dtCreated": deployment["dtCreated"],
            "dtModified": self.versions(deployment)[0]["dtCreated"], "dtDeleted": None, "deploymentSpecs": specs,
        }  # fmt: skip

    def _spec(self, deployment: Record, spec: Record, request: Request) -> Record:
        self.sign(spec)

        def runs(**arguments: Any) -> Record:
            own = [run for run in self.runs(deployment) if run["id"] == spec["runId"]]
            return _connection([_run(run, spec) for run in own], arguments)

        return {
            "id": spec["id"], "data": _data(spec["data"]), "endpointUrl": self.endpoint(deployment, request),
            "actor": {"avatarUrl": None, "fullName": "Sandbox User"}, "cluster": {"id": deployment["clusterId"]},
            "dtCreated": spec["dtCreated"], "dtInvalid": None, "error": spec["error"],
            "externalApplied": spec["externalApplied"], "deploymentRuns": runs,
        }  # fmt: skip

    # --- mutations ------------------------------------------------------------------------------------------------

    def _create_one(self, arguments: Record, _: Request) -> Record:
        given = _input("createDeployment", arguments)
        if self.project(given["projectId"]) and self.named(given["projectId"], given["name"]):
            raise graph_refusal(f"A deployment named {given['name']!r} exists in this project", "BAD_USER_INPUT")
        deployment = self.upsert(given["projectId"], _config(given["name"], given["spec"]))
        if given.get("clusterId"):
            deployment["clusterId"] = given["clusterId"]
        return {"deployment": {"id": deployment["id"]}}

    def _update_one(self, arguments: Record, _: Request) -> Record:
        given = _input("updateDeployment", arguments)
        deployment = self.deployment(_uuid(given["id"], "id"))
        name = given.get("name") or deployment["name"]
        project = given.get("projectId") or deployment["projectId"]
        self.project(project)
        taken = self.named(project, name)
        if taken is not None and taken["id"] != deployment["id"]:
            raise graph_refusal(f"A deployment named {name!r} exists in this project", "BAD_USER_INPUT")
        deployment.update(name=name, projectId=project, clusterId=given.get("clusterId") or deployment["clusterId"])
        if given.get("spec") is not None:
            self.upsert(project, _config(name, given["spec"]), deployment["id"])
        return {"deployment": {"id": deployment["id"]}}

    def _delete_one(self, arguments: Record, _: Request) -> Record:
        deployment = self.deployment(_uuid(_input("deleteDeployment", arguments)["id"], "id"))
        self.delete(deployment)
        return {"deployment": {"id": deployment["id"]}}


def graph_refusal(message: str, code: str) -> Refusal:
    """An error as GraphQL tells it."""
    return Refusal(200, message, code, graphql=True)


async def _document(request: Request) -> tuple[str, dict[str, Any]]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise graph_refusal("POST body missing or not JSON.", "BAD_REQUEST") from None
    query = body.get("query") if isinstance(body, dict) else None
    variables = (body.get("variables") or {}) if isinstance(body, dict) else {}
    if not isinstance(query, str) or not isinstance(variables, dict):
        raise graph_refusal("GraphQL operations must contain a query.", "BAD_REQUEST")
    return query, variables


def _input(mutation: str, arguments: Record) -> Record:
    given = arguments.get("input")
    try:
        GRAPH_INPUTS[mutation].validate_python(given)
    except ValidationError:
        # What the vendor says, and all that it says: users complain that no field is named.
        raise graph_refusal("One or more invalid values were supplied.", "BAD_USER_INPUT") from None
    assert isinstance(given, dict)
    return given


def _config(name: str, spec: Record) -> Record:
    return {"apiVersion": "v0alpha0", "name": name, **{k: v for k, v in spec.items() if v is not None}}


def _data(config: Record) -> Record:
    resources = config.get("resources") or {}
    scaling = resources.get("autoscaling")
    data = {name: config.get(name) for name in _DATA}
    if data["port"] is None and resources.get("ports"):
        data["port"] = resources["ports"][0]
    if data["models"]:
        data["models"] = [{"path": None, **model} for model in data["models"]]
    if data["repositories"]:
        blank = {"ref": None, "username": None, "password": None}
        listed = [{**blank, **one} for one in data["repositories"]["repositories"]]
        data["repositories"] = {"mountPath": None, **data["repositories"], "repositories": listed}
    if scaling:
        metrics = [{"metric": None, "summary": None, "value": None, **(m or {})} for m in scaling.get("metrics") or []]
        scaling = {"enabled": None, "maxReplicas": None, **scaling, "metrics": metrics}
    data["resources"] = {
        "instanceType": machine_of(config), "replicas": replicas_of(config), "autoscaling": scaling,
    }  # fmt: skip
    return data


def _run(run: Record, spec: Record) -> Record:
    def instances(**arguments: Any) -> Record:
        found = [
            {
                "id": one["id"], "phase": _PHASES.get(one["state"], "Pending"), "state": one["state"],
                "stateMessage": one["stateMessage"], "dtStarted": spec["externalApplied"], "dtFinished": None,
            }
            for one in run["instances"]
        ]  # fmt: skip
        return _connection(found, arguments)

    names = ("id", "availableReplicas", "readyReplicas", "replicas")
    return {**{name: run[name] for name in names}, "deploymentRunInstances": instances}


def _connection(nodes: list[Record], arguments: Record) -> Record:
    """A page of a Relay connection; the cursor is the last node's id."""
    if unknown := set(arguments) - {"first", "after", "projectId", "name", "orderBy"}:
        raise BadQuery(f"Unknown argument {sorted(unknown)[0]!r}.")
    first, after = arguments.get("first"), arguments.get("after")
    if first is not None and (not isinstance(first, int) or isinstance(first, bool) or first < 0):
        raise graph_refusal("One or more invalid values were supplied.", "BAD_USER_INPUT")
    ids = [node["id"] for node in nodes]
    start = ids.index(after) + 1 if after in ids else 0
    shown = nodes[start:] if first is None else nodes[start : start + first]
    more = start + len(shown) < len(nodes)
    info = {
        "hasNextPage": more, "hasPreviousPage": start > 0, "startCursor": shown[0]["id"] if shown else None,
        "endCursor": shown[-1]["id"] if shown else None,
    }  # fmt: skip
    return {"nodes": shown, "edges": [{"cursor": n["id"], "node": n} for n in shown], "pageInfo": info}


def _uuid(value: Any, name: str) -> str:
    try:
        return str(uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise graph_refusal(f'Variable "${name}" got an invalid value; Expected type UUID.', "BAD_USER_INPUT") from None
