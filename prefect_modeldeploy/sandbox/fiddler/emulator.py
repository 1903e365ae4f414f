"""The emulator of Fiddler: who may come in, the seeded world, and v3's routes."""

import hmac
import io
import tarfile
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.fiddler import _bodies as bodies
from prefect_modeldeploy.sandbox.fiddler.estate import SHOWN
from prefect_modeldeploy.sandbox.fiddler.queries import page
from prefect_modeldeploy.sandbox.fiddler.v2 import V2
from prefect_modeldeploy.sandbox.world import Record

SERVER_VERSION = "25.10.0"
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "ObjectNotFound", 409: "Conflict"}

_SCHEMA = {
    "schema_version": 1,
    "columns": [
        {"name": "age", "data_type": "int", "min": 18, "max": 99},
        {"name": "balance", "data_type": "float", "min": 0.0, "max": 250000.0},
        {"name": "churn", "data_type": "float", "min": 0.0, "max": 1.0},
    ],
}
_SPEC = {
    "schema_version": 1,
    "inputs": ["age", "balance"],
    "outputs": ["churn"],
    "targets": [],
    "decisions": [],
    "metadata": [],
    "custom_features": [],
}


def normal(data: Any, status: int = 200) -> Response:
    """The vendor's NORMAL envelope."""
    return JSONResponse({"api_version": "3.0", "kind": "NORMAL", "data": data}, status)


def listed(data: Record) -> Response:
    """The vendor's PAGINATED envelope."""
    return JSONResponse({"api_version": "3.0", "kind": "PAGINATED", "data": data})


class FiddlerEmulator(V2):
    """Fiddler's server; v2 is in its base class."""

    name = "fiddler"
    longest_body = 128 * 1024 * 1024

    # --- the vendor's manners ----------------------------------------------------------------------------------------

    def seed(self) -> None:
        """An organization with one project, and one model that is deployed."""
        facts = self.world.facts
        facts["organization"] = {"id": self.world.new_uuid("organization"), "name": "acme"}
        facts["user"] = {"id": self.world.new_uuid("user"), "full_name": "Ada Engineer", "email": "ada@acme.example"}
        facts.update(token=self.new_secret("fiddler"), server_version=SERVER_VERSION)
        project = self._add_project("bank_churn")
        fields = {"name": "churn", "version": "v1", "schema": _SCHEMA, "spec": _SPEC, "task": "binary_classification"}
        model = self.add_model(fields, project)
        dataset = self.world.new_uuid("environment")
        self.world["environments"][dataset] = {"id": dataset, "name": "baseline", "row_count": 1000} | {
            "type": "PRE_PRODUCTION",
            "model": {"id": model["id"], "name": "churn", "version": "v1"},
            "project": model["project"],
            "organization": facts["organization"],
        }
        job = self.deploy(model, bodies.Params(), "PYTHON_PACKAGE", _seeded_artifact(), replace=False)
        job["life"]["since"] = self.clock.now() - self.timelines["deploy"].duration
        facts.update(project_id=project["id"], model_id=model["id"], dataset_id=dataset)

    def describe(self, url: str) -> dict[str, Any]:
        """This provider's object in the ready file."""
        facts = self.world.facts
        seed = {"project_id": facts["project_id"], "project_name": "bank_churn"}
        seed |= {"model_id": facts["model_id"], "model_name": "churn", "dataset_id": facts["dataset_id"]}
        return {"base_url": url, "token": facts["token"], "organization": facts["organization"]["name"], "seed": seed}

    def envelope(self, refusal: Refusal) -> Response:
        """`{"error": {"code", "message", "errors": [{"reason", "message", "help"}]}, "kind": "ERROR"}`."""
        reason = refusal.code or _REASONS.get(refusal.status, "InternalServerError")
        details = [{"reason": reason, "message": refusal.message, "help": ""}]
        error = {"code": refusal.status, "message": refusal.message, "errors": details}
        return JSONResponse({"api_version": "3.0", "kind": "ERROR", "error": error}, refusal.status)

    def invalid(self, problems: list[dict[str, Any]]) -> Refusal:
        """A bad body is a 400 that names the field."""
        refusal = super().invalid(problems)
        return Refusal(400, refusal.message, "BadRequest")

    async def authenticate(self, request: Request) -> None:
        """Bearer token on every path."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        expected = str(self.world.facts["token"])
        if scheme != "Bearer" or not hmac.compare_digest(token.encode(), expected.encode()):
            raise Refusal(401, "Invalid token", "Unauthorized")

    def routes(self) -> Sequence[BaseRoute]:
        """v3's paths, v2's, and the one that 1.x asks."""
        model = "/v3/models/{id}"
        return [
            Route("/v3/server-info", self._server_info),
            Route("/v3/version-compatibility", self._compatible),
            Route("/v3/projects", self._list_projects, methods=["GET"]),
            Route("/v3/projects", self._create_project, methods=["POST"]),
            Route("/v3/projects/{id}", self._get_project, methods=["GET"]),
            Route("/v3/projects/{id}", self._delete_project, methods=["DELETE"]),
            Route("/v3/models", self._list_models, methods=["GET"]),
            Route("/v3/models", self._create_model, methods=["POST"]),
            Route(model, self._get_model, methods=["GET"]),
            Route(model, self._patch_model, methods=["PATCH"]),
            Route(model, self._remove_model, methods=["DELETE"]),
            Route(f"{model}/deployment", self._get_deployment, methods=["GET"]),
            Route(f"{model}/deployment", self._patch_deployment, methods=["PATCH"]),
            Route(f"{model}/deploy-artifact", self._deploy_artifact, methods=["POST", "PUT"]),
            Route(f"{model}/deploy-surrogate", self._deploy_surrogate, methods=["POST", "PUT"]),
            Route(f"{model}/download-artifact", self._download, methods=["GET"]),
            Route(f"{model}/environments", self._list_datasets, methods=["GET"]),
            Route("/v3/environments", self._list_datasets, methods=["GET"]),
            Route("/v3/environments/{dataset_id}", self._get_dataset, methods=["GET"]),
            Route("/v3/files/upload", self._upload, methods=["POST"]),
            Route("/v3/files/multipart-init", self._multipart_init, methods=["POST"]),
            Route("/v3/files/multipart-upload", self._multipart_upload, methods=["POST"]),
            Route("/v3/files/multipart-complete", self._multipart_complete, methods=["POST"]),
            Route("/v3/jobs/{id}", self._get_job, methods=["GET"]),
            Route("/v3/predict", self._post_predict, methods=["POST"]),
            Route("/v3/explain", self._post_explain, methods=["POST"]),
            *self.routes_of_v2(),
        ]

    # --- server, projects, datasets ----------------------------------------------------------------------------------

    async def _server_info(self, _: Request) -> Response:
        facts = self.world.facts
        flags = {"enable_model_deployment": True}
        version, organization = facts["server_version"], facts["organization"]
        return normal({"feature_flags": flags, "server_version": version, "organization": organization})

    async def _compatible(self, _: Request) -> Response:
        return normal({})

    def _add_project(self, name: str) -> Record:
        if any(project["name"] == name for project in self.world["projects"].values()):
            raise Refusal(409, "Project already exists", "Conflict")
        id, now = self.world.new_uuid("project"), self.clock.stamp()
        project: Record = {"id": id, "name": name, "created_at": now, "updated_at": now}
        project["organization"] = self.world.facts["organization"]
        self.world["projects"][id] = project
        return project

    async def _list_projects(self, request: Request) -> Response:
        return listed(page(self.world["projects"].values(), self.query(request, bodies.ListQuery)))

    async def _create_project(self, request: Request) -> Response:
        return normal(self._add_project((await self.body(request, bodies.NewProject)).name))

    async def _get_project(self, request: Request) -> Response:
        return normal(self.project(request.path_params["id"]))

    async def _delete_project(self, request: Request) -> Response:
        project = self.project(request.path_params["id"])
        for model in self.models():
            if model["project"]["id"] == project["id"]:
                self.delete_model(model)
        del self.world["projects"][project["id"]]
        about = {"id": project["id"], "name": project["name"], "version": "", "project": project}
        job = self.start_job("delete", about, "Delete project")
        return normal({"job": {"id": job["id"], "name": job["name"]}}, 202)

    async def _list_datasets(self, request: Request) -> Response:
        query, datasets = self.query(request, bodies.ListQuery), list(self.world["environments"].values())
        if "id" in request.path_params:
            model = self.model(request.path_params["id"])
            datasets = [one for one in datasets if one["model"]["id"] == model["id"]]
        return listed(page([one for one in datasets if query.type in (None, one["type"])], query))

    async def _get_dataset(self, request: Request) -> Response:
        found = self.world["environments"].get(request.path_params["dataset_id"])
        if found is None:
            raise Refusal(404, "Dataset not found for the given identifier", "ObjectNotFound")
        return normal(found)

    # --- models ------------------------------------------------------------------------------------------------------

    async def _list_models(self, request: Request) -> Response:
        query = self.query(request, bodies.ListQuery)
        models = [m for m in self.models() if query.project_id is None or m["project"]["id"] == str(query.project_id)]
        if query.latest_only:
            models = list({(m["project"]["id"], m["name"]): m for m in models}.values())
        found = page(models, query)
        found["items"] = [{name: model[name] for name in ("id", "name", "version")} for model in found["items"]]
        return listed(found)

    async def _create_model(self, request: Request) -> Response:
        body = await self.body(request, bodies.NewModel)
        project = self.project(str(body.project_id))
        return normal(self.model_view(self.add_model(body.model_dump(mode="json", by_alias=True), project)))

    async def _get_model(self, request: Request) -> Response:
        return normal(self.model_view(self.model(request.path_params["id"])))

    async def _patch_model(self, request: Request) -> Response:
        model = self.model(request.path_params["id"])
        changes = await self.body(request, bodies.ModelFields)
        self.change_model(model, changes.model_dump(mode="json", by_alias=True, exclude_unset=True))
        return normal(self.model_view(model))

    async def _remove_model(self, request: Request) -> Response:
        job = self.delete_model(self.model(request.path_params["id"]))
        return normal({"job": {"id": job["id"], "name": job["name"]}}, 202)

    # --- deployments -------------------------------------------------------------------------------------------------

    def _deployment_view(self, model: Record, deployment: Record) -> Record:
        named = {name: model[name] for name in ("id", "name", "version")}
        owner = {"model": named, "project": model["project"], "organization": model["organization"]}
        return {"id": deployment["id"], **owner, **{name: deployment[name] for name in SHOWN}}

    async def _get_deployment(self, request: Request) -> Response:
        model = self.model(request.path_params["id"])
        return normal(self._deployment_view(model, self.deployment(model)))

    async def _patch_deployment(self, request: Request) -> Response:
        model = self.model(request.path_params["id"])
        job = self.change(model, await self.body(request, bodies.Change))
        view = self._deployment_view(model, self.world["deployments"][model["id"]])
        return normal({**view, "job": {"id": job["id"], "name": job["name"]}})

    async def _deploy_artifact(self, request: Request) -> Response:
        model, body = self.model(request.path_params["id"]), await self.body(request, bodies.ArtifactDeploy)
        content = self.taken_file(str(body.file_id))
        replace = request.method == "PUT"
        job = self.deploy(model, body.deployment_params, "PYTHON_PACKAGE", content, replace=replace)
        return normal({"job": {"id": job["id"], "name": job["name"]}}, 202)

    async def _deploy_surrogate(self, request: Request) -> Response:
        model, body = self.model(request.path_params["id"]), await self.body(request, bodies.SurrogateDeploy)
        dataset = self.world["environments"].get(str(body.env_id))
        if dataset is None or dataset["model"]["id"] != model["id"]:
            raise Refusal(404, "Dataset not found for the given identifier", "ObjectNotFound")
        job = self.deploy(model, body.deployment_params, "SURROGATE", None, replace=request.method == "PUT")
        return normal({"job": {"id": job["id"], "name": job["name"]}}, 202)

    async def _download(self, request: Request) -> Response:
        content = self.artifact(self.model(request.path_params["id"]))
        return Response(content, media_type="application/x-tar")

    # --- files, jobs, predictions ------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        fields = await bodies.form(request)
        if "file" not in fields:
            raise Refusal(400, "file: is missing", "BadRequest")
        name, content = fields["file"]
        return normal(self.add_file(name or "file", [content]))

    async def _multipart_init(self, request: Request) -> Response:
        file = self.add_file((await self.body(request, bodies.MultipartInit)).filename, [])
        file["status"] = "PENDING"
        return normal(file)

    async def _multipart_upload(self, request: Request) -> Response:
        fields = await bodies.form(request)
        _, id = fields.get("file_id", (None, b""))
        _, number = fields.get("part_number", (None, b""))
        file = self.world["files"].get(id.decode("latin-1"))
        if file is None or file["status"] != "PENDING" or "file" not in fields or not number.isdigit():
            raise Refusal(400, "file, file_id or part_number: is missing or unknown", "BadRequest")
        part_id = f"{file['id']}-{int(number[:9])}"
        self._uploads[part_id] = fields["file"][1]
        return normal({"part_id": part_id})

    async def _multipart_complete(self, request: Request) -> Response:
        body = await self.body(request, bodies.MultipartComplete)
        file = self.world["files"].get(str(body.file_id))
        if file is None or file["status"] != "PENDING" or any(part.id not in self._uploads for part in body.parts):
            raise Refusal(400, "file_id or parts: unknown, or completed already", "BadRequest")
        parts = sorted(body.parts, key=lambda part: part.number)
        content = b"".join(self._uploads.pop(part.id, b"") for part in parts)
        self._uploads[file["id"]] = content
        file.update(status="SUCCESSFUL", bytes=len(content), updated_at=self.clock.stamp())
        return normal(file)

    async def _get_job(self, request: Request) -> Response:
        query = self.query(request, bodies.JobQuery)
        return normal(self.job_view(self.job(request.path_params["id"]), query.verbose))

    async def _post_predict(self, request: Request) -> Response:
        body = await self.body(request, bodies.Predict)
        return normal({"predictions": await self.predict(self.model(str(body.model_id)), body.data)})

    async def _post_explain(self, request: Request) -> Response:
        body = await self.body(request, bodies.Explain)
        model = self.model(str(body.model_id))
        row = body.input_data_source.get("row")
        if body.input_data_source.get("source_type") == "ROW" and not isinstance(row, dict):
            raise Refusal(400, "input_data_source.row: must be a row", "BadRequest")
        [prediction] = await self.predict(model, [row if isinstance(row, dict) else {}])
        inputs = model["spec"].get("inputs") or []
        told: Record = {"model_prediction": prediction, "baseline_prediction": 0.0}
        told["GEM"] = [{"type": "simple", "feature-name": str(name), "attribution": 0.0} for name in inputs]
        return normal(
            {
                "explanation_type": body.explanation_type,
                "num_permutations": body.num_permutations or 50,
                "ci_level": body.ci_level or 0.95,
                "explanations": told,
            }
        )


def _seeded_artifact() -> bytes:
    text = b"def get_model():\n    return None\n"
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        entry = tarfile.TarInfo("package.py")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return kept.getvalue()
