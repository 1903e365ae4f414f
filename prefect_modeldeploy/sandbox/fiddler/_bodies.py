"""What Fiddler's routes take, and how multipart forms are read."""

import email.parser
import email.policy
import json
import math
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints
from starlette.requests import Request

from prefect_modeldeploy.sandbox.emulator import Refusal

Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Count = Annotated[StrictInt, Field(ge=1, le=10)]
Cpu = Annotated[StrictInt, Field(ge=10, le=4000)]
Memory = Annotated[StrictInt, Field(ge=150, le=16384)]


class Body(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Change(Body):
    active: StrictBool | None = None
    replicas: Count | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None


class Params(Body):
    artifact_type: Literal["SURROGATE", "PYTHON_PACKAGE"] | None = None
    deployment_type: Literal["BASE_CONTAINER", "MANUAL"] | None = None
    image_uri: Text | None = None
    replicas: Count | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None


class ArtifactDeploy(Body):
    file_id: UUID
    deployment_params: Params = Params()


class SurrogateDeploy(Body):
    env_id: UUID
    deployment_params: Params = Params()


class NewProject(Body):
    name: Text


class ModelFields(Body):
    """What a PATCH may change; of a POST too, with what is required there."""

    version: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    spec: dict[str, Any] | None = None
    task_params: dict[str, Any] | None = None
    xai_params: dict[str, Any] | None = None
    description: str | None = None
    event_id_col: str | None = None
    event_ts_col: str | None = None
    event_ts_format: str | None = None


class NewModel(ModelFields):
    name: Text
    project_id: UUID
    schema_: dict[str, Any] = Field(alias="schema")
    spec: dict[str, Any]
    input_type: Literal["structured", "text", "mixed"] = "structured"
    task: Literal["binary_classification", "multiclass_classification", "regression", "ranking", "llm", "not_set"] = (
        "not_set"
    )


class Predict(Body):
    model_id: UUID
    data: list[dict[str, Any]]
    chunk_size: Annotated[StrictInt, Field(ge=1)] | None = None


class Explain(Body):
    model_id: UUID
    input_data_source: dict[str, Any]
    explanation_type: Text
    num_permutations: StrictInt | None = None
    ci_level: float | None = None
    top_n_class: StrictInt | None = None


class MultipartInit(Body):
    filename: Text


class Part(Body):
    number: StrictInt
    id: Text


class MultipartComplete(Body):
    file_id: UUID
    parts: list[Part]


class ListQuery(Body):
    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0
    ordering: str = ""
    filter: str = ""
    search: str = ""
    project_id: UUID | None = None
    latest_only: bool = False
    type: Literal["PRODUCTION", "PRE_PRODUCTION"] | None = None


class JobQuery(Body):
    verbose: bool = False


class SurrogateDeploy2(Body):
    deployment_params: Params | None = None


class Model2(Body):
    info: dict[str, Any] | None = None
    file_list: list[dict[str, Any]] | None = None
    framework: str | None = None
    requirements: str | None = None


class NewModel2(Model2):
    name: Text
    project_name: Text
    organization_name: Text


class Predict2(Body):
    project_name: Text
    organization_name: Text
    model_name: Text
    data: list[dict[str, Any]]
    chunk_size: Annotated[StrictInt, Field(ge=1)] | None = None


class PartQuery(Body):
    upload_id: Text
    part_number: Annotated[int, Field(ge=1, le=10_000)]


class Part2(Body):
    etag: Text
    part_number: StrictInt


class Complete2(Body):
    upload_id: Text
    parts: list[Part2]
    deployment_params: Params = Params()


async def form(request: Request) -> dict[str, tuple[str | None, bytes]]:
    """A multipart form: name -> (file name, content). Refuses what is none."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data") or not kind.isascii():
        raise Refusal(400, "the body must be multipart/form-data", "BadRequest")
    raw = f"Content-Type: {kind}\r\n\r\n".encode() + await request.body()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
    found: dict[str, tuple[str | None, bytes]] = {}
    for part in message.iter_parts() if message.is_multipart() else []:
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str) and not part.is_multipart():
            content = part.get_payload(decode=True)
            found[name] = (part.get_filename(), content if isinstance(content, bytes) else b"")
    return found


def plain(value: Any) -> Any:
    """The value without what JSON cannot say (a model may answer NaN or infinity)."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None if isinstance(value, float) and not math.isfinite(value) else json.loads(_loose(value))
    return value


def _loose(value: Any) -> str:
    try:
        return (
            json.dumps(value, default=str).replace("NaN", "null").replace("Infinity", "null").replace("-null", "null")
        )
    except (ValueError, RecursionError):
        return json.dumps(str(type(value)))
