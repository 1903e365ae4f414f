"""What both generations of Fiddler's API have in common, and how the right one is chosen."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import httpx
from packaging.version import InvalidVersion, Version

from prefect_modeldeploy.errors import InvalidInput, NotFound, Problem
from prefect_modeldeploy.providers.fiddler.notes import Notes
from prefect_modeldeploy.providers.fiddler.wire import DeploymentParams, Job, Model, ModelDeployment, ServerInfo
from prefect_modeldeploy.transport import read_problem, retry_after

Row = dict[str, Any]
Generation = Literal["auto", "v3", "v2"]

FIRST_V3 = Version("24.4")
"""Servers from here on have v3 (MIN_SERVER_VERSION of client 3.14.1)."""

MULTIPART_FROM = 100 * 1024 * 1024
"""Bytes from which an archive is sent in parts, and the size of a part: as the official clients do."""

LARGEST = 500 * 1024 * 1024
"""Bytes above which the vendor takes no file (MAX_UPLOAD_FILE_SIZE of client 3.14.1)."""

UPLOAD_TIMEOUT_SECONDS = 600.0


class Api(Protocol):
    """One generation of the API. `id` is the deployment's id in our words: v3 a model UUID, v2 `project:model`."""

    @property
    def generation(self) -> Literal["v3", "v2"]:
        """Which one."""

    @property
    def predict_path(self) -> str:
        """Where predictions are asked for."""

    async def models(self, name: str | None = None) -> list[Model]:
        """All model versions of the project, or those of one name."""

    async def model(self, id: str) -> Model:
        """One model version, with its description. Raises NotFound."""

    async def deployment(self, id: str) -> ModelDeployment:
        """A model's deployment. Raises NotFound."""

    async def patch_deployment(
        self,
        id: str,
        *,
        active: bool | None = None,
        replicas: int | None = None,
        cpu: int | None = None,
        memory: int | None = None,
    ) -> ModelDeployment:
        """Change a deployment; the answer names the job, not always."""

    def prepared(self, directory: Path) -> AbstractAsyncContextManager[Any]:
        """Pack (v3: and upload) an artifact; yields what `deploy_artifact` takes."""

    async def deploy_artifact(self, id: str, prepared: Any, params: DeploymentParams, *, replace: bool) -> str | None:
        """Deploy an artifact (POST), or replace the one that is deployed (PUT). Returns the job's id."""

    async def deploy_surrogate(
        self, id: str, dataset_id: str | None, params: DeploymentParams, *, replace: bool
    ) -> str | None:
        """Deploy a surrogate made from a dataset, or replace it. Returns the job's id."""

    async def download_artifact(self, id: str) -> bytes:
        """The artifact that is deployed, as a tar."""

    async def job(self, id: str, *, verbose: bool = False) -> Job:
        """A job. Raises NotFound."""

    async def predict(self, id: str, rows: Sequence[Row], *, chunk_size: int | None = None) -> list[Row]:
        """Predictions, one per row."""

    async def delete_model(self, id: str) -> str | None:
        """Delete a model with all its data. Returns the job's id."""

    async def note(self, model: Model, notes: Notes) -> None:
        """Keep our notes with the model; v2 keeps none."""


def read_error(response: httpx.Response) -> Problem:
    """Fiddler's envelope: `{"error": {"code", "message", "errors": [{"reason", "message", "help"}]}, "kind": "ERROR"}`.

    The first reason becomes the problem's code (the vendor's `code` is the HTTP status again); the envelope is kept.
    """
    problem = read_problem(response)
    try:
        error = response.json()["error"]
        details = [entry for entry in error.get("errors") or [] if isinstance(entry, dict)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return problem
    message = str(error.get("message") or problem.message)
    told = [str(entry["message"]) for entry in details if entry.get("message") not in (None, "", message)]
    code = next(
        (str(entry["reason"]) for entry in details if entry.get("reason")), str(error.get("code") or "") or None
    )
    return Problem("; ".join([message, *told]), response.status_code, code, dict(error), retry_after(response))


def data_of(answer: Any) -> Any:
    """The `data` of an answer's envelope; {} when it has none."""
    data = answer.get("data") if isinstance(answer, dict) else None
    return {} if data is None else data


def job_of(data: Any) -> str | None:
    """The job that an answer names: `job.id` in v3, `job_uuid` in v2; None when it names none."""
    if not isinstance(data, dict):
        return None
    job = data.get("job")
    found = job.get("id") if isinstance(job, dict) else data.get("job_uuid")
    return str(found) if found else None


def quoted(part: str) -> str:
    """For use in a path."""
    return quote(part, safe="")


@asynccontextmanager
async def packed(directory: Path, kind: Literal["gztar", "tar"]) -> AsyncIterator[Path]:
    """The directory as an archive of the official client's form, gone afterwards.

    Raises:
        InvalidInput: It is larger than Fiddler takes.
    """
    with tempfile.TemporaryDirectory(prefix="modeldeploy-") as temporary:
        base = str(Path(temporary) / "files")
        archive = Path(await asyncio.to_thread(shutil.make_archive, base, kind, str(directory), "."))
        if size_of(archive) > LARGEST:
            hint = f"packs to more than the {LARGEST >> 20} MiB that Fiddler takes"
            raise InvalidInput("source", str(directory), hint)
        yield archive


def size_of(file: Path) -> int:
    """Bytes of a file."""
    return file.stat().st_size


def parts_of(archive: Path, part_bytes: int) -> list[tuple[int, int]]:
    """(number from 1, offset) of the parts of a file."""
    return [(index + 1, offset) for index, offset in enumerate(range(0, max(size_of(archive), 1), part_bytes))]


def read_part(archive: Path, offset: int, part_bytes: int) -> bytes:
    """One part of a file."""
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(part_bytes)


def is_v3(info: ServerInfo) -> bool:
    """Whether a server has v3; a version that cannot be read counts as new, and a pre-release as its release."""
    try:
        return Version(Version(info.server_version).base_version) >= FIRST_V3
    except InvalidVersion:
        return True


async def job_if_known(api: Api, job_id: str | None) -> Job | None:
    """The job, or None when there is none, or Fiddler has forgotten it."""
    if job_id is None:
        return None
    try:
        return await api.job(job_id)
    except NotFound:
        return None
