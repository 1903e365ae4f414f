"""Fiddler's v3 API (servers from 24.4 on), as the official client 3.14.1 uses it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect_modeldeploy.errors import InvalidInput, Problem, ProviderError
from prefect_modeldeploy.providers.fiddler.api import (
    MULTIPART_FROM,
    UPLOAD_TIMEOUT_SECONDS,
    Row,
    data_of,
    job_of,
    packed,
    parts_of,
    quoted,
    read_part,
    size_of,
)
from prefect_modeldeploy.providers.fiddler.notes import Notes, with_notes
from prefect_modeldeploy.providers.fiddler.wire import (
    Dataset,
    DeploymentParams,
    File,
    Job,
    Model,
    ModelDeployment,
    Project,
    ServerInfo,
)
from prefect_modeldeploy.transport import Transport, create_once

PAGE = 50
"""Items asked for at once (DEFAULT_PAGE_SIZE of client 3.14.1)."""


class Api3:
    """v3: a deployment is addressed by the UUID of its model version.

    Args:
        transport: To the server's root.
        project: Name or UUID of the project that models are looked for and created in; None: all projects.
    """

    generation: Literal["v3"] = "v3"
    predict_path = "/v3/predict"

    def __init__(self, transport: Transport, project: str | None = None) -> None:
        self._transport, self._project = transport, project
        self._project_id: str | None = project if project and is_uuid(project) else None

    # --- server, projects, datasets ----------------------------------------------------------------------------------

    async def server_info(self) -> ServerInfo:
        """Version, feature flags and organization."""
        return ServerInfo.read(await self._get("/v3/server-info"))

    async def projects(self, name: str | None = None) -> list[Project]:
        """All projects, or the one of a name."""
        return [Project.read(item) for item in await self._pages("/v3/projects", {"name": name} if name else {})]

    async def create_project(self, name: str) -> Project:
        """Create a project, or return the one that a lost answer was about. Raises Conflict when the name is taken."""

        async def create() -> Project:
            return Project.read(data_of(await self._transport.call("POST", "/v3/projects", json={"name": name})))

        async def look_up() -> Project | None:
            return next(iter(await self.projects(name)), None)

        return await create_once(create, look_up)

    async def delete_project(self, project_id: str) -> str | None:
        """Delete a project with all its models. Returns the job's id."""
        return job_of(data_of(await self._transport.call("DELETE", f"/v3/projects/{quoted(project_id)}")))

    async def project_id(self) -> str | None:
        """UUID of the client's project; None: it has none. Raises InvalidInput when no project has that name."""
        if self._project is not None and self._project_id is None:
            found = await self.projects(self._project)
            if not found or not found[0].id:
                raise InvalidInput("project", self._project, "there is no such project; give its name or its UUID")
            self._project_id = found[0].id
        return self._project_id

    async def datasets(self, model_id: str) -> list[Dataset]:
        """A model's pre-production datasets: what a surrogate can be made from."""
        path = f"/v3/models/{quoted(model_id)}/environments"
        return [Dataset.read(item) for item in await self._pages(path, {}, {"type": "PRE_PRODUCTION"})]

    # --- models ------------------------------------------------------------------------------------------------------

    async def models(self, name: str | None = None, version: str | None = None) -> list[Model]:
        """All model versions of the project, or those of one name."""
        rules = {"name": name, "project_id": await self.project_id(), "version": version}
        return [Model.read(item) for item in await self._pages("/v3/models", rules)]

    async def newest(self, name: str) -> Model | None:
        """The newest version of a model, with all its fields; None when there is none."""
        rules = _filter({"name": name, "project_id": await self.project_id()})
        params = {**rules, "limit": 1, "ordering": "-created_at"}
        items = data_of(await self._transport.call("GET", "/v3/models", params=params)).get("items") or []
        return await self.model(str(items[0]["id"])) if items else None

    async def model(self, id: str) -> Model:
        """One model version. Raises NotFound."""
        return Model.read(await self._get(f"/v3/models/{quoted(id)}"))

    async def create_model(self, fields: Mapping[str, Any]) -> Model:
        """Create a model version, or return the one that a lost answer was about.

        Name and version are unique in a project, so that nothing is ever created twice.

        Args:
            fields: name, project_id, schema, spec, input_type, task, and what else `Model.create` sends.

        Raises:
            Conflict: The version exists.
        """

        async def create() -> Model:
            return Model.read(data_of(await self._transport.call("POST", "/v3/models", json=dict(fields))))

        async def look_up() -> Model | None:
            found = await self.models(str(fields["name"]), str(fields["version"]))
            return await self.model(found[0].id) if found and found[0].id else None

        return await create_once(create, look_up)

    async def update_model(self, id: str, changes: Mapping[str, Any]) -> Model:
        """Change a model version's fields; nested objects are replaced whole."""
        answer = await self._transport.call("PATCH", f"/v3/models/{quoted(id)}", json=dict(changes), idempotent=True)
        return Model.read(data_of(answer))

    async def delete_model(self, id: str) -> str | None:
        """Delete a model version with all its data. Returns the job's id."""
        return job_of(data_of(await self._transport.call("DELETE", f"/v3/models/{quoted(id)}")))

    async def note(self, model: Model, notes: Notes) -> None:
        """Write our notes into the model's description, unless they are there."""
        description = with_notes(model.description, notes)
        if description != (model.description or ""):
            await self.update_model(str(model.id), {"description": description})

    # --- deployments -------------------------------------------------------------------------------------------------

    async def deployment(self, id: str) -> ModelDeployment:
        """A model's deployment. Raises NotFound."""
        return ModelDeployment.read(await self._get(f"/v3/models/{quoted(id)}/deployment"))

    async def patch_deployment(
        self,
        id: str,
        *,
        active: bool | None = None,
        replicas: int | None = None,
        cpu: int | None = None,
        memory: int | None = None,
    ) -> ModelDeployment:
        """Change a deployment. `active` is always sent, null for "as it is", like the official client does."""
        params = DeploymentParams.checked(replicas=replicas, cpu=cpu, memory=memory)
        answer = await self._transport.call(
            "PATCH", f"/v3/models/{quoted(id)}/deployment", json={"active": active, **params.body()}, idempotent=True
        )
        return ModelDeployment.read(data_of(answer))

    @asynccontextmanager
    async def prepared(self, directory: Path) -> AsyncIterator[str]:
        """Pack and upload an artifact; yields the file's id."""
        async with packed(directory, "gztar") as archive:
            file = await self.upload_file(archive)
        yield str(file.id)

    async def deploy_artifact(self, id: str, prepared: str, params: DeploymentParams, *, replace: bool) -> str | None:
        """Deploy the uploaded file (POST), or put it in the place of what is deployed (PUT)."""
        body = {"file_id": prepared, "deployment_params": params.body()}
        return await self._deploy(f"/v3/models/{quoted(id)}/deploy-artifact", body, replace)

    async def deploy_surrogate(
        self, id: str, dataset_id: str | None, params: DeploymentParams, *, replace: bool
    ) -> str | None:
        """Deploy a surrogate (POST), or replace it (PUT)."""
        if dataset_id is None:
            raise InvalidInput("dataset_id", None, "a surrogate is made from a dataset: give its UUID")
        body = {"env_id": dataset_id, "deployment_params": params.body()}
        return await self._deploy(f"/v3/models/{quoted(id)}/deploy-surrogate", body, replace)

    async def _deploy(self, path: str, body: Row, replace: bool) -> str | None:
        return job_of(data_of(await self._transport.call("PUT" if replace else "POST", path, json=body)))

    async def download_artifact(self, id: str) -> bytes:
        """The artifact that is deployed, as a tar."""
        path = f"/v3/models/{quoted(id)}/download-artifact"
        response = await self._transport.send("GET", path, timeout=UPLOAD_TIMEOUT_SECONDS)
        return response.content

    # --- files, jobs, predictions ------------------------------------------------------------------------------------

    async def upload_file(self, path: Path, *, part_bytes: int = MULTIPART_FROM) -> File:
        """Upload a file, in parts when it is as large as a part. A file by itself deploys nothing: it may go twice."""
        if size_of(path) < part_bytes:
            content = await asyncio.to_thread(path.read_bytes)
            return File.read(await self._upload("/v3/files/upload", {"file": (path.name, content)}))
        for left in reversed(range(3)):
            try:
                return await self._upload_in_parts(path, part_bytes)
            except ProviderError as error:
                if not error.effect_unknown or not left:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def _upload_in_parts(self, path: Path, part_bytes: int) -> File:
        body = {"filename": path.name}
        started = data_of(await self._transport.call("POST", "/v3/files/multipart-init", json=body, idempotent=True))
        file_id = str(started.get("id"))
        parts: list[Row] = []
        for number, offset in parts_of(path, part_bytes):
            content = await asyncio.to_thread(read_part, path, offset, part_bytes)
            form = {
                "file": (f"part_{number}_{path.name}", content),
                "file_id": (None, file_id),
                "part_number": (None, str(number)),
            }
            parts.append({"number": number, "id": (await self._upload("/v3/files/multipart-upload", form))["part_id"]})
        complete = {"file_id": file_id, "parts": parts}
        return File.read(data_of(await self._transport.call("POST", "/v3/files/multipart-complete", json=complete)))

    async def _upload(self, path: str, form: Mapping[str, Any]) -> Row:
        answer = await self._transport.call("POST", path, files=form, idempotent=True, timeout=UPLOAD_TIMEOUT_SECONDS)
        return dict(data_of(answer))

    async def job(self, id: str, *, verbose: bool = False) -> Job:
        """A job, with its tasks when `verbose`. Raises NotFound."""
        params = {"verbose": "True"} if verbose else {}
        return Job.read(data_of(await self._transport.call("GET", f"/v3/jobs/{quoted(id)}", params=params)))

    async def predict(self, id: str, rows: Sequence[Row], *, chunk_size: int | None = None) -> list[Row]:
        """Predictions, one per row."""
        body: Row = {"model_id": id, "data": list(rows)}
        if chunk_size is not None:
            body["chunk_size"] = chunk_size
        return predictions_of(await self._transport.call("POST", self.predict_path, json=body, idempotent=True))

    async def explain(self, body: Mapping[str, Any]) -> Row:
        """Explain a prediction: the vendor's body in, its `data` out."""
        return dict(data_of(await self._transport.call("POST", "/v3/explain", json=dict(body), idempotent=True)))

    # --- plumbing ----------------------------------------------------------------------------------------------------

    async def _get(self, path: str) -> Any:
        return data_of(await self._transport.call("GET", path))

    async def _pages(
        self, path: str, rules: Mapping[str, str | None], params: Mapping[str, str] | None = None
    ) -> list[Row]:
        """All items of a list; a server that repeats a page or never ends is left when a page brings nothing new."""
        query: dict[str, Any] = {**(params or {}), **_filter(rules)}
        found: dict[str, Row] = {}
        offset = 0
        while True:
            data = data_of(await self._transport.call("GET", path, params={**query, "limit": PAGE, "offset": offset}))
            items = [item for item in data.get("items") or [] if isinstance(item, dict)]
            fresh = {str(item.get("id")): item for item in items if str(item.get("id")) not in found}
            found.update(fresh)
            if not fresh or int(data.get("page_index") or 1) >= int(data.get("page_count") or 1):
                return list(found.values())
            offset += PAGE


def is_uuid(text: str) -> bool:
    """Whether a text is an UUID."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def predictions_of(answer: Any) -> list[Row]:
    """The rows of a predict answer. Raises ProviderError when it holds none."""
    data = data_of(answer)
    rows = data.get("predictions") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise ProviderError("fiddler", "predict", Problem(f"the answer holds no predictions: {str(answer)[:200]}"))
    return rows


def _filter(rules: Mapping[str, str | None]) -> dict[str, str]:
    wanted = [{"field": f, "operator": "equal", "value": v} for f, v in rules.items() if v is not None]
    if not wanted:
        return {}
    return {"filter": json.dumps({"condition": "AND", "rules": wanted}, separators=(",", ":"))}
