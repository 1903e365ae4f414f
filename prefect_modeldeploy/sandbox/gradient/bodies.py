"""What the vendor's schema lets in: written from its OpenAPI file (2024-08), independently of our client's checks."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=1, le=1000)]
Word = Annotated[str, Field(min_length=1)]


class Body(BaseModel):
    """`additionalProperties: false` everywhere."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Upsert(Body):
    """POST /deployments."""

    projectId: str
    config: dict[str, Any]
    deploymentId: str | None = None


class _Pair(Body):
    name: Word
    value: Word


class _Percent(Body):
    metric: Literal["cpu", "memory"]
    summary: Literal["average"]
    value: Annotated[float, Field(gt=0, le=100), AfterValidator(lambda v: _whole(v))]


class _Duration(Body):
    metric: Literal["requestDuration"]
    summary: Literal["average"]
    value: float = Field(gt=0.01, le=100)


class _Autoscaling(Body):
    enabled: bool | None = None
    maxReplicas: int = Field(gt=0, le=25)
    metrics: list[Annotated[_Percent | _Duration, Field(discriminator="metric")]]


class _Machine(Body):
    replicas: int | None = Field(None, ge=0)
    autoscaling: _Autoscaling | None = None


class _MachineV0(_Machine):
    instanceType: str


class _MachineV1(_Machine):
    machineType: str
    ports: list[Port]


class _Exec(Body):
    command: list[str]


class _Times(Body):
    timeoutSeconds: Seconds | None = None
    initialDelaySeconds: int | None = Field(None, ge=0, le=1000)
    periodSeconds: Seconds | None = None
    failureThreshold: Seconds | None = None


class _HttpCheck(_Times):
    path: Word
    host: str | None = None
    port: Port | None = None
    headers: list[_Pair] | None = None


class _ExecCheck(_Times):
    exec: _Exec


class _Checks(Body):
    liveness: _HttpCheck | _ExecCheck | None = None
    readiness: _HttpCheck | _ExecCheck | None = None
    startup: _HttpCheck | _ExecCheck | None = None


class _Model(Body):
    id: str
    path: str | None = None


class _Repository(Body):
    url: str
    name: str
    ref: str | None = None
    username: str | None = None
    password: str | None = None


class _Repositories(Body):
    dataset: str
    mountPath: str | None = None
    repositories: list[_Repository]


class _ModelMount(Body):
    type: Literal["model"]
    id: str
    name: str
    path: str | None = None


class _Keys(Body):
    path: str | None = None
    accessKeyId: str | None = None
    secretAccessKey: str | None = Field(None, pattern="secret:")


class _S3(_Keys):
    type: Literal["s3"]
    name: str
    url: str = Field(pattern=r"^s3://[^/]+/")
    region: str | None = None
    endpoint: str | None = None


class _Spaces(_Keys):
    type: Literal["spaces"]
    name: str
    endpoint: str = Field(pattern=r"^https://[^.]+\.[^.]+\.digitaloceanspaces\.com")


class _Volume(Body):
    type: Literal["volume"]
    name: str


class _GitLfs(Body):
    type: Literal["git-lfs"]
    name: str
    url: str
    path: str | None = None


_Integration = Annotated[_ModelMount | _S3 | _Spaces | _Volume | _GitLfs, Field(discriminator="type")]


class _Config(Body):
    name: Word
    image: Word
    enabled: bool | None = None
    command: list[str] | None = None
    containerRegistry: str | None = None
    env: list[_Pair] | None = None
    region: str | None = None
    healthChecks: _Checks | None = Field(None, validation_alias=AliasChoices("healthChecks", "healthchecks"))


class ConfigV0(_Config):
    """apiVersion v0alpha0."""

    apiVersion: Literal["v0alpha0"]
    port: Port | None = None
    models: list[_Model] | None = None
    repositories: _Repositories | None = None
    resources: _MachineV0


class ConfigV1(_Config):
    """apiVersion v0alpha1, v1 and latest."""

    apiVersion: Literal["v0alpha1", "v1", "latest"]
    integrations: list[_Integration] | None = Field(None, max_length=5)
    basicAuthKey: str | None = None
    resources: _MachineV1


class _GraphMetric(Body):
    metric: str | None = None
    summary: str | None = None
    value: float | None = None


class _GraphAutoscaling(Body):
    enabled: bool | None = None
    maxReplicas: int | None = None
    metrics: list[_GraphMetric | None] | None = None


class _GraphResources(Body):
    instanceType: str | None = None
    replicas: int | None = Field(None, ge=0)
    autoscaling: _GraphAutoscaling | None = None


class GraphSpec(Body):
    """DeploymentSpecDataInput: everything is nullable there; `image` is not in what is read back."""

    image: Word
    port: Port | None = None
    protocol: Literal["http", "http2"] | None = None
    command: list[str] | None = None
    enabled: bool | None = None
    containerRegistry: str | None = None
    env: list[_Pair] | None = None
    models: list[_Model] | None = None
    repositories: _Repositories | None = None
    resources: _GraphResources | None = None


class CreateInput(Body):
    """CreateDeploymentInput."""

    name: Word
    projectId: str
    spec: GraphSpec
    clusterId: str | None = None


class UpdateInput(Body):
    """UpdateDeploymentInput."""

    id: str
    name: Word | None = None
    projectId: str | None = None
    spec: GraphSpec | None = None
    clusterId: str | None = None


class DeleteInput(Body):
    """DeleteDeploymentInput."""

    id: str


class Page(BaseModel):
    """The query of a list."""

    after: str | None = None
    limit: int = Field(10, ge=1, le=120)
    orderBy: Literal["dtCreated"] = "dtCreated"
    order: Literal["asc", "desc"] = "desc"
    name: str | None = None
    deploymentId: str | None = None
    instanceId: str | None = None


class RunsQuery(BaseModel):
    """The query of runs."""

    limit: int = Field(10, ge=1)


class MetricsQuery(BaseModel):
    """The query of metrics."""

    metric: Literal[
        "requests_total", "cpu", "memory", "gpu", "requests_per_second", "requests_duration_seconds_1m",
        "requests_duration_seconds_5m",
    ]  # fmt: skip
    timeframe: Literal["hour", "12_hours", "day", "1_week", "2_weeks"] = "hour"


class LogsQuery(BaseModel):
    """The query of the log host."""

    gradientDeploymentId: str
    line: int = Field(1, ge=1)
    limit: int = Field(10_000, ge=1)


class Secret(Body):
    """POST /projects/{id}/secrets."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z][a-zA-Z0-9_]*$")
    value: str = Field(min_length=1, max_length=8192)


def config_model(config: dict[str, Any]) -> type[Body]:
    """By apiVersion."""
    return ConfigV0 if config.get("apiVersion") == "v0alpha0" else ConfigV1


def _whole(value: float) -> float:
    if not value.is_integer():
        raise ValueError("Expected integer, received float")
    return value


GRAPH_INPUTS: dict[str, TypeAdapter[Any]] = {
    "createDeployment": TypeAdapter(CreateInput),
    "updateDeployment": TypeAdapter(UpdateInput),
    "deleteDeployment": TypeAdapter(DeleteInput),
}
