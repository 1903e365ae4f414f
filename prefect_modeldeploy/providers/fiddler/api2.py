"""Fiddler's v2 API (servers before 24.4), as the official client 2.5.4 uses it. Kept for old installations."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from prefect_modeldeploy.errors import InvalidInput
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
from prefect_modeldeploy.providers.fiddler.api3 import predictions_of
from prefect_modeldeploy.providers.fiddler.notes import Notes
from prefect_modeldeploy.providers.fiddler.wire import DeploymentParams, Job, Model, ModelDeployment, ServerInfo
from prefect_modeldeploy.transport import Transport

_OCTETS = {"Content-Type": "application/octet-stream"}


class Api2:
    """v2: a deployment is addressed by names, in our words `project:model`. A model has one version.

    Args:
        transport: To the server's root.
        organization: Its name, part of every address.
        project: Name of the project whose models are listed; None: nothing can be listed.
        part_bytes: From how many bytes an archive is sent in parts, and how large they are.
    """

    generation: Literal["v2"] = "v2"
    predict_path = "/v2/predict"

    def __init__(
        self, transport: Transport, organization: str, project: str | None, *, part_bytes: int = MULTIPART_FROM
    ) -> None:
        self._transport, self._organization, self._project = transport, organization, project
        self._part_bytes = part_bytes

    async def server_info(self) -> ServerInfo:
        """Version and feature flags."""
        params = {"organization_name": self._organization}
        return ServerInfo.read(data_of(await self._transport.call("GET", "/v2/server-info", params=params)))

    async def models(self, name: str | None = None) -> list[Model]:
        """All models of the project, or the one of a name."""
        if self._project is None:
            raise InvalidInput(
                "project", None, "this server has only the v2 API, which lists models by project: set it"
            )
        params = {"organization_name": self._organization, "project_name": self._project}
        data = data_of(await self._transport.call("GET", "/v2/models", params=params))
        items = data.get("items") or [] if isinstance(data, dict) else data
        found = [self._model(item, self._project) for item in items if isinstance(item, dict)]
        return [model for model in found if name is None or model.name == name]

    async def model(self, id: str) -> Model:
        """One model. Raises NotFound."""
        path = f"/v2/models/{self._address(id)}"
        return self._model(data_of(await self._transport.call("GET", path)), id.partition(":")[0])

    async def deployment(self, id: str) -> ModelDeployment:
        """A model's deployment. Raises NotFound."""
        path = f"/v2/model-deployments/{self._address(id)}"
        return ModelDeployment.read(data_of(await self._transport.call("GET", path)))

    async def patch_deployment(
        self,
        id: str,
        *,
        active: bool | None = None,
        replicas: int | None = None,
        cpu: int | None = None,
        memory: int | None = None,
    ) -> ModelDeployment:
        """Change a deployment; only what changes is sent, like the official client does."""
        body = DeploymentParams.checked(replicas=replicas, cpu=cpu, memory=memory).body()
        if active is not None:
            body["active"] = active
        if not body:
            raise InvalidInput("update", {}, "changes nothing; give active, replicas, cpu or memory")
        path = f"/v2/model-deployments/{self._address(id)}"
        return ModelDeployment.read(data_of(await self._transport.call("PATCH", path, json=body, idempotent=True)))

    @asynccontextmanager
    async def prepared(self, directory: Path) -> AsyncIterator[tuple[Path, list[Row]]]:
        """Pack an artifact; yields the archive, and the list of files that v2 wants to know first."""
        async with packed(directory, "tar") as archive:
            yield archive, _files(directory)

    async def deploy_artifact(
        self, id: str, prepared: tuple[Path, list[Row]], params: DeploymentParams, *, replace: bool
    ) -> str | None:
        """Send the archive: POST for the first one, PUT to replace it."""
        archive, files = prepared
        address = self._address(id)
        await self._transport.call("PATCH", f"/v2/models/{address}", json={"file_list": files}, idempotent=True)
        path, method = f"/v2/models/{address}/deploy-artifacts", "PUT" if replace else "POST"
        if size_of(archive) >= self._part_bytes:
            return await self._in_parts(method, path, archive, params)
        query = {"deployment_params": json.dumps(params.body())} if params.body() else {}
        content = await asyncio.to_thread(archive.read_bytes)
        return job_of(
            data_of(
                await self._transport.call(
                    method, path, params=query, content=content, headers=_OCTETS, timeout=UPLOAD_TIMEOUT_SECONDS
                )
            )
        )

    async def _in_parts(self, method: str, path: str, archive: Path, params: DeploymentParams) -> str | None:
        started = data_of(await self._transport.call(method, f"{path}/multi-part-init", idempotent=True))
        upload_id, parts = str(started.get("upload_id")), list[Row]()
        for number, offset in parts_of(archive, self._part_bytes):
            content = await asyncio.to_thread(read_part, archive, offset, self._part_bytes)
            answer = await self._transport.call(
                method,
                f"{path}/multi-part-upload",
                params={"upload_id": upload_id, "part_number": number},
                content=content,
                headers=_OCTETS,
                idempotent=True,
                timeout=UPLOAD_TIMEOUT_SECONDS,
            )
            part = data_of(answer)
            parts.append({"etag": part.get("etag"), "part_number": part.get("part_number", number)})
        body: Row = {"upload_id": upload_id, "parts": parts}
        if params.body():
            body["deployment_params"] = params.body()
        answer = await self._transport.call(method, f"{path}/multi-part-complete", json=body, idempotent=False)
        return job_of(data_of(answer))

    async def deploy_surrogate(
        self, id: str, dataset_id: str | None, params: DeploymentParams, *, replace: bool
    ) -> str | None:
        """Deploy a surrogate; v2 knows the model's dataset, and `dataset_id` is not sent."""
        project, _, model = id.partition(":")
        body: Row = {"model_name": model, "project_name": project, "organization_name": self._organization}
        if params.body():
            body["deployment_params"] = params.body()
        path = f"/v2/models/{self._address(id)}/deploy-surrogate"
        return job_of(data_of(await self._transport.call("PUT" if replace else "POST", path, json=body)))

    async def download_artifact(self, id: str) -> bytes:
        """The artifact that is deployed, as a tar."""
        path = f"/v2/models/{self._address(id)}/download-artifacts"
        response = await self._transport.send("GET", path, timeout=UPLOAD_TIMEOUT_SECONDS)
        return response.content

    async def job(self, id: str, *, verbose: bool = False) -> Job:
        """A job. Raises NotFound."""
        return Job.read(data_of(await self._transport.call("GET", f"/v2/jobs/{quoted(id)}")))

    async def predict(self, id: str, rows: Sequence[Row], *, chunk_size: int | None = None) -> list[Row]:
        """Predictions, one per row."""
        project, _, model = id.partition(":")
        body: Row = {
            "project_name": project,
            "organization_name": self._organization,
            "model_name": model,
            "data": list(rows),
        }
        if chunk_size is not None:
            body["chunk_size"] = chunk_size
        return predictions_of(await self._transport.call("POST", self.predict_path, json=body, idempotent=True))

    async def delete_model(self, id: str) -> str | None:
        """Delete a model with all its data; v2 names no job."""
        return job_of(data_of(await self._transport.call("DELETE", f"/v2/models/{self._address(id)}")))

    async def note(self, model: Model, notes: Notes) -> None:
        """Keep nothing: v2 has no description, and tells the last job by itself."""

    def _address(self, id: str) -> str:
        project, colon, model = id.partition(":")
        if not (project and colon and model):
            raise InvalidInput("deployment_id", id, "on a server with the v2 API it is `project:model`")
        return ":".join(quoted(part) for part in (self._organization, project, model))

    def _model(self, data: Mapping[str, Any], project: str) -> Model:
        model = Model.read(data)
        project = model.project_name or project
        return model.model_copy(update={"id": f"{project}:{model.name}", "project_name": project})


def _files(directory: Path) -> list[Row]:
    return [
        {"name": path.name, "size": path.stat().st_size, "modified": path.stat().st_mtime}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
