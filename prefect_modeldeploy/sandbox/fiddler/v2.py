"""v2's routes, over the same world: models by name, jobs by `job_uuid`, artifacts as raw tars."""

import json
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.fiddler import _bodies as bodies
from prefect_modeldeploy.sandbox.fiddler.estate import SHOWN, Estate
from prefect_modeldeploy.sandbox.world import Record


def normal(data: Any) -> Response:
    """The vendor's envelope."""
    return JSONResponse({"api_version": "2.0", "kind": "NORMAL", "data": data})


class V2(Estate):
    """The old API, as clients 1.x and 2.x use it."""

    def routes_of_v2(self) -> list[BaseRoute]:
        """v2's paths."""
        model = "/v2/models/{address}"
        deploy, either = f"{model}/deploy-artifacts", ["POST", "PUT"]
        return [
            Route("/get_supported_features/{org}", self._features_of_1),
            Route("/v2/server-info", self._server_info_2),
            Route("/v2/version-compatibility", self._compatible_2),
            Route("/v2/models", self._list_models_2, methods=["GET"]),
            Route("/v2/models", self._create_model_2, methods=["POST"]),
            Route(model, self._get_model_2, methods=["GET"]),
            Route(model, self._patch_model_2, methods=["PATCH"]),
            Route(model, self._delete_model_2, methods=["DELETE"]),
            Route("/v2/model-deployments/{address}", self._get_deployment_2, methods=["GET"]),
            Route("/v2/model-deployments/{address}", self._patch_deployment_2, methods=["PATCH"]),
            Route(deploy, self._deploy_artifacts_2, methods=either),
            Route(f"{deploy}/multi-part-init", self._parts_init_2, methods=either),
            Route(f"{deploy}/multi-part-upload", self._parts_upload_2, methods=either),
            Route(f"{deploy}/multi-part-complete", self._parts_complete_2, methods=either),
            Route(f"{model}/deploy-surrogate", self._deploy_surrogate_2, methods=either),
            Route(f"{model}/download-artifacts", self._download_2, methods=["GET"]),
            Route("/v2/jobs/{id}", self._get_job_2, methods=["GET"]),
            Route("/v2/predict", self._predict_2, methods=["POST"]),
        ]

    # --- server ------------------------------------------------------------------------------------------------------

    async def _features_of_1(self, request: Request) -> Response:
        self._organization(request.path_params["org"])
        result = {"features": {}, "server_version": self.world.facts["server_version"]}
        return JSONResponse({"status": "SUCCESS", "result": result})

    async def _server_info_2(self, _: Request) -> Response:
        return normal({"feature_flags": {}, "server_version": self.world.facts["server_version"]})

    async def _compatible_2(self, _: Request) -> Response:
        return normal({})

    # --- models ------------------------------------------------------------------------------------------------------

    def _organization(self, name: str) -> None:
        if name != self.world.facts["organization"]["name"]:
            raise Refusal(404, "Organization not found for the given identifier", "ObjectNotFound")

    def _named(self, project: str, name: str) -> Record:
        found = [m for m in self.models() if m["project"]["name"] == project and m["name"] == name]
        if not found:
            raise Refusal(404, f"Model not found for {project}/{name}", "ObjectNotFound")
        return found[-1]

    def _addressed(self, request: Request) -> Record:
        parts = request.path_params["address"].split(":")
        if len(parts) != 3:
            raise Refusal(404, "Model not found for the given identifier", "ObjectNotFound")
        self._organization(parts[0])
        return self._named(parts[1], parts[2])

    def _model_view_2(self, model: Record) -> Record:
        kept = {name: model.get(name) for name in ("info", "file_list", "framework", "requirements")}
        owner = {"project_name": model["project"]["name"], "organization_name": model["organization"]["name"]}
        return {"id": model["number"], "name": model["name"], **owner, **kept, "info": kept["info"] or {}}

    async def _list_models_2(self, request: Request) -> Response:
        asked = request.query_params
        self._organization(asked.get("organization_name", ""))
        project = asked.get("project_name", "")
        named = {m["name"]: m for m in self.models() if m["project"]["name"] == project}
        return normal({"items": [self._model_view_2(model) for model in named.values()]})

    async def _create_model_2(self, request: Request) -> Response:
        body = await self.body(request, bodies.NewModel2)
        self._organization(body.organization_name)
        project = next((p for p in self.world["projects"].values() if p["name"] == body.project_name), None)
        if project is None:
            raise Refusal(404, "Project not found for the given identifier", "ObjectNotFound")
        fields: Record = {"name": body.name, "schema": {"columns": []}, "spec": {"inputs": [], "outputs": []}}
        model = self.add_model(fields, project)
        model.update(body.model_dump(mode="json", include={"info", "framework", "requirements"}, exclude_none=True))
        return normal(self._model_view_2(model))

    async def _get_model_2(self, request: Request) -> Response:
        return normal(self._model_view_2(self._addressed(request)))

    async def _patch_model_2(self, request: Request) -> Response:
        model = self._addressed(request)
        model.update((await self.body(request, bodies.Model2)).model_dump(mode="json", exclude_none=True))
        return normal(self._model_view_2(model))

    async def _delete_model_2(self, request: Request) -> Response:
        self.delete_model(self._addressed(request))
        return normal({})

    # --- deployments -------------------------------------------------------------------------------------------------

    def _deployment_view_2(self, model: Record, deployment: Record) -> Record:
        user = {**self.world.facts["user"], "id": 4839}
        names = {"model_name": model["name"], "project_name": model["project"]["name"]}
        names["organization_name"] = model["organization"]["name"]
        who = {"created_by": user, "updated_by": user, "job_uuid": deployment["job"]}
        numbers = {"id": deployment["number"], "uuid": deployment["id"]}
        return {**numbers, **names, **{name: deployment[name] for name in SHOWN if not name.endswith("_by")}, **who}

    async def _get_deployment_2(self, request: Request) -> Response:
        model = self._addressed(request)
        return normal(self._deployment_view_2(model, self.deployment(model)))

    async def _patch_deployment_2(self, request: Request) -> Response:
        model = self._addressed(request)
        self.change(model, await self.body(request, bodies.Change))
        return normal(self._deployment_view_2(model, self.world["deployments"][model["id"]]))

    async def _deploy_artifacts_2(self, request: Request) -> Response:
        model = self._addressed(request)
        params = _params(request.query_params.get("deployment_params"))
        return self._deployed(request, model, params, await request.body())

    def _deployed(self, request: Request, model: Record, params: bodies.Params, content: bytes) -> Response:
        replace = request.method == "PUT"
        return normal({"job_uuid": self.deploy(model, params, "PYTHON_PACKAGE", content, replace=replace)["id"]})

    async def _parts_init_2(self, request: Request) -> Response:
        return normal({"upload_id": self.add_file(self._addressed(request)["name"], [])["id"]})

    async def _parts_upload_2(self, request: Request) -> Response:
        self._addressed(request)
        query = self.query(request, bodies.PartQuery)
        self.taken_file(query.upload_id)
        etag = f"{query.upload_id}-{query.part_number}"
        self._uploads[etag] = await request.body()
        return normal({"etag": etag, "part_number": query.part_number})

    async def _parts_complete_2(self, request: Request) -> Response:
        model, body = self._addressed(request), await self.body(request, bodies.Complete2)
        self.taken_file(body.upload_id)
        parts = sorted(body.parts, key=lambda part: part.part_number)
        content = b"".join(self.taken_file(part.etag) for part in parts)
        return self._deployed(request, model, body.deployment_params, content)

    async def _deploy_surrogate_2(self, request: Request) -> Response:
        model, body = self._addressed(request), await self.body(request, bodies.SurrogateDeploy2)
        params, replace = body.deployment_params or bodies.Params(), request.method == "PUT"
        return normal({"job_uuid": self.deploy(model, params, "SURROGATE", None, replace=replace)["id"]})

    async def _download_2(self, request: Request) -> Response:
        return Response(self.artifact(self._addressed(request)), media_type="application/x-tar")

    async def _get_job_2(self, request: Request) -> Response:
        return normal(self.job_view(self.job(request.path_params["id"]), verbose=True))

    async def _predict_2(self, request: Request) -> Response:
        body = await self.body(request, bodies.Predict2)
        self._organization(body.organization_name)
        model = self._named(body.project_name, body.model_name)
        return normal({"predictions": await self.predict(model, body.data)})


def _params(text: str | None) -> bodies.Params:
    try:
        return bodies.Params.model_validate(json.loads(text)) if text else bodies.Params()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"deployment_params.{where}: {first['msg']}", "BadRequest") from None
    except (ValueError, RecursionError):
        raise Refusal(400, "deployment_params: is not JSON", "BadRequest") from None
