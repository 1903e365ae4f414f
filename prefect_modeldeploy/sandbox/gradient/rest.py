"""REST v1 and the endpoints."""

import base64
import binascii
import time
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.behaviours import ModelFailed
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.gradient.bodies import MetricsQuery, Page, RunsQuery, Secret, Upsert, config_model
from prefect_modeldeploy.sandbox.gradient.metrics import samples
from prefect_modeldeploy.sandbox.gradient.world import GradientWorld, spec_hash
from prefect_modeldeploy.sandbox.world import Record

Q = TypeVar("Q", bound=BaseModel)
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class RestRoutes(GradientWorld):
    """The handlers of `/v1` and `/endpoints`."""

    def rest_routes(self) -> Sequence[BaseRoute]:
        """All of them."""
        one = "/v1/deployments/{id}"
        return [
            Route("/v1/health", self._health),
            Route("/v1/auth/session", self._session),
            Route("/v1/projects", self._list_projects, methods=["GET"]),
            Route("/v1/projects/{project}/deployments", self._list_in_project, methods=["GET"]),
            Route("/v1/projects/{project}/activity", self._activity, methods=["GET"]),
            Route("/v1/projects/{project}/secrets", self._set_secret, methods=["POST"]),
            Route("/v1/deployments", self._post_deployment, methods=["POST"]),
            Route("/v1/deployments", self._list_deployments, methods=["GET"]),
            Route(one, self._get_deployment, methods=["GET"]),
            Route(one, self._delete_deployment, methods=["DELETE"]),
            Route(f"{one}/runs", self._get_runs, methods=["GET"]),
            Route(f"{one}/history", self._history, methods=["GET"]),
            Route(f"{one}/logs", self._get_logs, methods=["GET"]),
            Route(f"{one}/metrics", self._get_metrics, methods=["GET"]),
            Route("/endpoints/{id}", self._predict, methods=_METHODS),
            Route("/endpoints/{id}/{path:path}", self._predict, methods=_METHODS),
        ]

    async def _health(self, _: Request) -> Response:
        return JSONResponse("HEALTHY")

    async def _session(self, _: Request) -> Response:
        facts = self.world.facts
        return JSONResponse(
            {"team": {"id": facts["team_id"], "namespace": "sandbox"}, "user": {"id": facts["user_id"]}}
        )

    async def _list_projects(self, request: Request) -> Response:
        projects = [{k: v for k, v in p.items() if k != "secrets"} for p in self.world["projects"].values()]
        return self._page(projects, self.query(request, Page))

    async def _post_deployment(self, request: Request) -> Response:
        upsert = await self.body(request, Upsert)
        try:
            config_model(upsert.config).model_validate(upsert.config)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            raise self.invalid([{**p, "loc": ["body", "config", *p["loc"]]} for p in problems]) from None
        if upsert.deploymentId is not None:
            _checked(upsert.deploymentId, "deploymentId")
        git = {name: value for name, value in request.headers.items() if name.startswith("x-git-")}
        deployment = self.upsert(upsert.projectId, upsert.config, upsert.deploymentId, git)
        return JSONResponse({"deploymentId": deployment["id"]})

    async def _list_deployments(self, request: Request) -> Response:
        return self._list(request, None)

    async def _list_in_project(self, request: Request) -> Response:
        return self._list(request, self.project(request.path_params["project"])["id"])

    def _list(self, request: Request, project_id: str | None) -> Response:
        page = self.query(request, Page)
        found = []
        for deployment in self.world["deployments"].values():
            if project_id is not None and deployment["projectId"] != project_id:
                continue
            if project_id is not None and page.name is not None and deployment["name"] != page.name:
                continue
            if (latest := self.latest(deployment)) is not None:
                found.append(self.view(deployment, latest, request))
        return self._page(found, page)

    async def _get_deployment(self, request: Request) -> Response:
        found = self.world["deployments"].get(_checked(request.path_params["id"], "id"))
        latest = self.latest(found) if found is not None else None
        if found is None or latest is None:
            raise Refusal(404, "Deployment not found")
        return JSONResponse(self.view(found, latest, request))

    async def _delete_deployment(self, request: Request) -> Response:
        deployment = self._asked(request)
        self.delete(deployment)
        return JSONResponse({"id": deployment["id"]})

    async def _get_runs(self, request: Request) -> Response:
        limit = self.query(request, RunsQuery).limit
        return JSONResponse(self.runs(self._asked(request))[:limit])

    async def _history(self, request: Request) -> Response:
        page = self.query(request, Page)
        found = [{**self.version(spec), "workflowRun": None} for spec in self.versions(self._asked(request))]
        return self._page(found[::-1], page)

    async def _get_logs(self, request: Request) -> Response:
        page = self.query(request, Page)
        rows = self._asked(request)["logs"]
        return self._page([r for r in rows if page.instanceId in (None, r["instanceId"])], page)

    async def _get_metrics(self, request: Request) -> Response:
        deployment = self._asked(request)
        query = self.query(request, MetricsQuery)
        return JSONResponse(samples(self, deployment, query.metric, query.timeframe))

    async def _activity(self, request: Request) -> Response:
        project = self.project(request.path_params["project"])["id"]
        page = self.query(request, Page)
        items = [item for item in self.world["activity"].values() if item["projectId"] == project]
        chosen = [i for i in items if page.deploymentId in (None, i["deployment"]["id"])]
        return self._page([{k: v for k, v in item.items() if k != "projectId"} for item in chosen], page)

    async def _set_secret(self, request: Request) -> Response:
        project = self.project(request.path_params["project"])
        secret = await self.body(request, Secret)
        project["secrets"][secret.name] = secret.value
        return JSONResponse({"name": secret.name})

    # --- views ----------------------------------------------------------------------------------------------------

    def view(self, deployment: Record, latest: Record, request: Request) -> Record:
        """A Deployment as REST shows it."""
        return {
            "id": deployment["id"], "name": deployment["name"], "projectId": deployment["projectId"],
            "teamId": self.world.facts["team_id"], "endpoint": self.endpoint(deployment, request),
            "dtCreated": deployment["dtCreated"], "latestSpecHash": spec_hash(latest["data"]),
            "basicAuthKey": latest["data"].get("basicAuthKey"), "latestSpec": self.version(latest),
        }  # fmt: skip

    def version(self, spec: Record) -> Record:
        """A SpecVersion as REST shows it."""
        self.sign(spec)
        names = ("id", "deploymentId", "data", "externalApplied", "dtHealthy", "error", "userId", "metadata")
        return {name: spec[name] for name in names}

    def endpoint(self, deployment: Record, request: Request) -> str:
        """Where it answers: without a scheme, like the vendor's."""
        return f"{request.headers.get('host', '127.0.0.1')}/endpoints/{deployment['id']}"

    # --- endpoints ------------------------------------------------------------------------------------------------

    async def _predict(self, request: Request) -> Response:
        deployment = self.world["deployments"].get(request.path_params["id"])
        if deployment is None:
            raise Refusal(404, "no such endpoint")
        spec = self.serving(deployment)
        self._let_in(deployment, spec, request)
        if spec is None:
            raise Refusal(503, "no replica is ready")
        try:
            payload = await request.json() if await request.body() else None
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is not JSON") from None
        names = [deployment["id"], deployment["name"], spec["data"]["image"]]
        started = time.monotonic()
        async with self.pods(spec).request(self.scaling(spec["data"])):
            try:
                answer = await self.shared.behaviours.answer(self.name, names, payload)
                content = JSONResponse(answer)
            except ModelFailed as error:
                raise Refusal(500, str(error)) from error
            except (TypeError, ValueError):
                raise Refusal(500, "the model's answer is not JSON") from None
            finally:
                self.hit(deployment, time.monotonic() - started)
        self.log(deployment, f"{request.method} /{request.path_params.get('path', '')} 200", f"{deployment['name']}-0")
        return content

    def _let_in(self, deployment: Record, spec: Record | None, request: Request) -> None:
        """HTTP Basic, user paperspace, where the spec has a basicAuthKey. Public by default."""
        key = (spec or self.versions(deployment)[0])["data"].get("basicAuthKey")
        if not key:
            return
        if key.startswith("secret:"):
            key = self.project(deployment["projectId"])["secrets"].get(key.removeprefix("secret:"))
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            user, password = "", ""
        if key is None or scheme.lower() != "basic" or (user, password) != ("paperspace", key):
            raise Refusal(401, "wrong user or password")

    # --- inside ---------------------------------------------------------------------------------------------------

    def _asked(self, request: Request) -> Record:
        return self.deployment(_checked(request.path_params["id"], "id"))

    def _page(self, items: list[Any], page: Page) -> Response:
        """`items` are the oldest first."""
        ordered = items if page.order == "asc" else items[::-1]
        start = 0
        if page.after is not None:
            ids = [item["id"] for item in ordered]
            if page.after not in ids:
                raise self.invalid([{"loc": ["query", "after"], "msg": "Invalid cursor", "type": "cursor"}])
            start = ids.index(page.after) + 1
        shown = ordered[start : start + page.limit]
        more = start + page.limit < len(ordered)
        return JSONResponse({"hasMore": more, "items": shown, "nextPage": shown[-1]["id"] if more else None})


def _checked(text: str, field: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise Refusal(400, "Input validation failed", issues=[{"message": "Invalid uuid", "path": [field]}]) from None
