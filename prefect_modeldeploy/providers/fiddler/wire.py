"""Fiddler's own objects, typed: requests are strict, answers are read tolerantly and kept whole.

Bounds of the deployment's numbers: docs.fiddler.ai/reference/fdldeploymentparams. Fields of the answers: the official
clients 3.14.1 (v3) and 2.5.4 (v2), and the vendor's page "fdl.ModelDeployment". A field that the vendor requires is
optional here: an answer is never refused because something in it is missing, new, or breaks the vendor's own rules.
"""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from prefect_modeldeploy.errors import InvalidInput

_moment = TypeAdapter(datetime)


def _time(value: Any) -> datetime | None:
    try:
        return None if value is None else _moment.validate_python(value)
    except ValidationError:
        return None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


Time = Annotated[datetime | None, BeforeValidator(_time)]
"""`2023-11-22 16:50:57.705784` and ISO 8601 alike; anything else is None, and stays in the raw answer."""

Text = Annotated[str | None, BeforeValidator(_text)]
"""An id may be an int (v2), an UUID (v3), or (in the vendor's own example) an UUID that is not hexadecimal."""


Flag = Annotated[bool | None, BeforeValidator(_flag)]
"""True, false, or None for anything else: an unreadable flag must not count as true."""


class ArtifactType(StrEnum):
    """What a deployment serves."""

    SURROGATE = "SURROGATE"
    PYTHON_PACKAGE = "PYTHON_PACKAGE"


class DeploymentType(StrEnum):
    """Who makes the pods: Fiddler, or (MANUAL, since client 1.8.4) the customer's own Kubernetes people."""

    BASE_CONTAINER = "BASE_CONTAINER"
    MANUAL = "MANUAL"


class DeploymentParams(BaseModel):
    """How an artifact or a surrogate shall run. Only what is set is sent; the server has its own defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact_type: ArtifactType | None = Field(None, description="Default at the vendor: PYTHON_PACKAGE.")
    deployment_type: DeploymentType | None = Field(None, description="Default at the vendor: BASE_CONTAINER.")
    image_uri: str | None = Field(
        None, min_length=1, description="Docker image of the runtime, e.g. md-base/python/python-311:1.0.0."
    )
    replicas: int | None = Field(None, ge=1, le=10, description="Replicas; default at the vendor: 1.")
    cpu: int | None = Field(None, ge=10, le=4000, description="Milli-CPU per replica; default at the vendor: 100.")
    memory: int | None = Field(None, ge=150, le=16384, description="MiB per replica; default at the vendor: 256.")

    @classmethod
    def checked(cls, names: dict[str, str] | None = None, **values: Any) -> Self:
        """Build one. Raises InvalidInput naming the field, as the caller knows it (`names`)."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise InvalidInput((names or {}).get(field, field), first["input"], first["msg"]) from None

    def body(self) -> dict[str, Any]:
        """What is sent: only the fields that are set, as the official client does."""
        return self.model_dump(mode="json", exclude_none=True)


class Answer(BaseModel):
    """Base of what Fiddler answers: unknown fields are kept."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    @classmethod
    def read(cls, data: Any) -> Self:
        """Read an answer's `data`; a field of a wrong type is left out rather than refused."""
        data = dict(data) if isinstance(data, dict) else {}
        while True:
            try:
                return cls.model_validate(data)
            except ValidationError as error:
                for problem in error.errors():
                    data.pop(str(problem["loc"][0]), None)


class UserCompact(Answer):
    """Who created or changed a record."""

    id: Text = None
    full_name: str | None = None
    email: str | None = None


class Named(Answer):
    """A model, project, organization or job, by id and name."""

    id: Text = None
    name: str | None = None
    version: str | None = None


class ModelDeployment(Answer):
    """A model's deployment. v2 names its model, project and organization, v3 has objects; both are read."""

    id: Text = Field(None, description="v2: an auto-incrementing integer; v3: an UUID.")
    uuid: Text = Field(None, description="v2 only: the UUID.")
    organization: Named | None = Field(None, description="v3 only.")
    project: Named | None = Field(None, description="v3 only.")
    model: Named | None = Field(None, description="v3 only.")
    organization_name: str | None = None
    project_name: str | None = None
    model_name: str | None = None
    artifact_type: str | None = Field(None, description="SURROGATE or PYTHON_PACKAGE.")
    deployment_type: str | None = Field(None, description="BASE_CONTAINER or MANUAL.")
    active: Flag = Field(True, description="Whether it has pods. The vendor's default: true; unreadable: None.")
    image_uri: str | None = Field(None, description="Docker image of the runtime.")
    replicas: int | None = Field(None, description="Pods.")
    cpu: int | None = Field(None, description="Milli-CPU reserved per replica.")
    memory: int | None = Field(None, description="MiB reserved per replica.")
    created_by: UserCompact | None = None
    updated_by: UserCompact | None = None
    created_at: Time = None
    updated_at: Time = None
    job_uuid: Text = Field(None, description="v2: the last job.")
    job: Named | None = Field(None, description="v3: the job of this change; in answers to PATCH, not always.")

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        for part in ("organization", "project", "model"):
            named: Named | None = getattr(self, part)
            if named is not None and getattr(self, f"{part}_name") is None:
                setattr(self, f"{part}_name", named.name)
        return self

    @property
    def job_id(self) -> str | None:
        """The job that this answer speaks of, if it does."""
        return self.job.id if self.job is not None and self.job.id else self.job_uuid


class JobStatus(StrEnum):
    """PENDING, STARTED, then SUCCESS, FAILURE or REVOKED; RETRY between attempts."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"


class Job(Answer):
    """An asynchronous job (docs.fiddler.ai/api/rest-api/rest-api/jobs)."""

    id: Text = None
    uuid: Text = Field(None, description="v2's name of the id.")
    name: str = ""
    status: str = Field("", description="A JobStatus; an unknown word is kept.")
    progress: float = Field(0.0, description="0 to 100: tasks done of all tasks.")
    info: dict[str, Any] = Field(default_factory=dict, description="resource_type, resource_name, project_name...")
    error_message: str | None = None
    error_reason: str | None = Field(None, description="Such as ModelServeError: too little memory or cpu.")
    extras: dict[str, Any] | None = Field(None, description="Per task: status, result, error_message (verbose).")

    @property
    def running(self) -> bool:
        """Whether it will still change."""
        return self.status in (JobStatus.PENDING, JobStatus.STARTED, JobStatus.RETRY)

    @property
    def failed(self) -> bool:
        """REVOKED too: the official client takes it for success, although nothing was done."""
        return self.status in (JobStatus.FAILURE, JobStatus.REVOKED)

    @property
    def reason(self) -> str:
        """Why it failed, in the vendor's words."""
        words = ": ".join(word for word in (self.error_reason, self.error_message) if word)
        return f"job {self.name or self.id} ended as {self.status}" + (f": {words}" if words else "")


class Model(Answer):
    """A model version: Fiddler's unit of deployment. v3 has one per version, v2 one per name."""

    id: Text = None
    name: str = ""
    version: str | None = None
    project: Named | None = None
    project_name: str | None = Field(None, description="v2 only.")
    description: str | None = None
    artifact_status: str | None = Field(None, description="no_model, surrogate or user_uploaded.")
    created_at: Time = None
    updated_at: Time = None
    created_by: UserCompact | None = None
    updated_by: UserCompact | None = None


class ServerInfo(Answer):
    """What a server says of itself."""

    server_version: str = ""
    feature_flags: dict[str, Any] = Field(default_factory=dict)
    organization: Named | None = None


class File(Answer):
    """An uploaded file."""

    id: Text = None
    filename: str | None = None
    status: str | None = None
    type: str | None = None


class Dataset(Answer):
    """A pre-production environment of a model: what a surrogate is made from."""

    id: Text = None
    name: str = ""
    row_count: int | None = None
    type: str | None = None


class Project(Answer):
    """A project."""

    id: Text = None
    name: str = ""
    created_at: Time = None
    updated_at: Time = None
    organization: Named | None = None


def checked_directory(field: str, directory: str | Path) -> Path:
    """A model's directory. Raises InvalidInput unless it is one that holds a package.py, as Fiddler demands."""
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise InvalidInput(field, str(directory), "must be the directory of a model artifact")
    if not (path / "package.py").is_file():
        raise InvalidInput(field, str(directory), "must hold a package.py with get_model(), which Fiddler imports")
    return path
