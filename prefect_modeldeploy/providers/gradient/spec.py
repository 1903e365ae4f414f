"""The vendor's Deployment Spec, checked before it is sent: an error names the field, the value and what is accepted.

Bounds are those of the vendor's OpenAPI file (2024-08), where unknown keys are refused everywhere. There are three
dialects: `v0alpha0`; `v0alpha1`, `v1` and `latest` (one schema); and the retired GraphQL API's.

| meaning      | v1                       | v0alpha0, GraphQL          |
|--------------|--------------------------|----------------------------|
| machine      | `resources.machineType`  | `resources.instanceType`   |
| port         | `resources.ports` (list) | `port`                     |
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefect_modeldeploy.errors import InvalidInput

Config = dict[str, Any]
Api = Literal["rest", "graphql"]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class EnvVariable(_Part):
    """An environment variable; the value `secret:NAME` stands for a stored secret."""

    name: Text
    value: Text


class Metric(_Part):
    """What the autoscaler aims at: percent of cpu or memory, or seconds of a request (5-minute average)."""

    metric: Literal["cpu", "memory", "requestDuration"]
    summary: Literal["average"]
    value: float = Field(gt=0, le=100)

    @model_validator(mode="after")
    def _by_metric(self) -> Self:
        if self.metric == "requestDuration" and self.value <= 0.01:
            raise ValueError("value: requestDuration is in seconds, and must be above 0.01")
        if self.metric != "requestDuration" and not self.value.is_integer():
            raise ValueError(f"value: {self.metric} is a whole number of percent")
        return self


class AutoscalingPart(_Part):
    """Replicas stay between `replicas` and `maxReplicas`; several metrics: the highest proposal wins."""

    enabled: bool | None = None
    maxReplicas: int = Field(gt=0, le=25)
    metrics: list[Metric]


class _Resources(_Part):
    replicas: int | None = Field(None, ge=0)
    autoscaling: AutoscalingPart | None = None


class ResourcesV0(_Resources):
    """Machine and replicas of v0alpha0 and GraphQL."""

    instanceType: str


class ResourcesV1(_Resources):
    """Machine, ports and replicas of v1."""

    machineType: str
    ports: list[Port]


class Header(_Part):
    """A header of a health check."""

    name: str
    value: str


class Exec(_Part):
    """A command whose exit code is the health."""

    command: list[str]


class HealthCheck(_Part):
    """Either a path (an answer 200 to 399 is healthy) or a command."""

    path: Text | None = None
    host: str | None = None
    port: int | None = Field(None, gt=0, le=65535)
    headers: list[Header] | None = None
    exec: Exec | None = None
    timeoutSeconds: int | None = Field(None, ge=1, le=1000)
    initialDelaySeconds: int | None = Field(None, ge=0, le=1000)
    periodSeconds: int | None = Field(None, ge=1, le=1000)
    failureThreshold: int | None = Field(None, ge=1, le=1000)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.path is None) == (self.exec is None):
            raise ValueError("path: give either path or exec")
        return self


class HealthChecks(_Part):
    """When a replica is alive, ready, and started."""

    liveness: HealthCheck | None = None
    readiness: HealthCheck | None = None
    startup: HealthCheck | None = None


class ModelPart(_Part):
    """A model of the model registry that is mounted (v0alpha0 and GraphQL)."""

    id: str
    path: str | None = None


class Repository(_Part):
    """A git repository that is mounted (v0alpha0 and GraphQL)."""

    url: str
    name: str
    ref: str | None = None
    username: str | None = None
    password: str | None = Field(None, repr=False)


class Repositories(_Part):
    """Git repositories and the dataset that they are copied to."""

    dataset: str
    mountPath: str | None = None
    repositories: list[Repository]


_NEEDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("id", "name"), ("path",)),
    "s3": (("name", "url"), ("path", "region", "endpoint", "accessKeyId", "secretAccessKey")),
    "spaces": (("name", "endpoint"), ("path", "accessKeyId", "secretAccessKey")),
    "volume": (("name",), ()),
    "git-lfs": (("name", "url"), ("path",)),
}
"""Type of an integration -> fields that it needs, fields that it may have."""


class Integration(_Part):
    """Content that is fetched once, when the deployment is created, into a volume that all replicas share."""

    type: Literal["model", "s3", "spaces", "volume", "git-lfs"]
    id: str | None = None
    name: str | None = None
    url: str | None = None
    path: str | None = None
    region: str | None = None
    endpoint: str | None = None
    accessKeyId: str | None = Field(None, repr=False)
    secretAccessKey: str | None = Field(None, repr=False)

    @model_validator(mode="after")
    def _by_type(self) -> Self:
        needed, allowed = _NEEDS[self.type]
        for field in needed:
            if getattr(self, field) is None:
                raise ValueError(f"{field}: an integration of type {self.type} needs it")
        for field in self.model_fields_set - {"type", *needed, *allowed}:
            raise ValueError(f"{field}: an integration of type {self.type} has no such field")
        if self.type == "s3" and not re.match(r"^s3://[^/]+/", self.url or ""):
            raise ValueError("url: must be s3://BUCKET/...")
        if self.type == "spaces" and not re.match(
            r"^https://[^./]+\.[^./]+\.digitaloceanspaces\.com", self.endpoint or ""
        ):
            raise ValueError("endpoint: must be https://SPACE.REGION.digitaloceanspaces.com")
        if self.secretAccessKey is not None and "secret:" not in self.secretAccessKey:
            raise ValueError("secretAccessKey: must name a stored secret, as secret:NAME")
        return self


class _Spec(_Part):
    image: Text
    enabled: bool | None = None
    command: list[str] | None = None
    containerRegistry: str | None = None
    env: list[EnvVariable] | None = None


class _RestSpec(_Spec):
    name: Text
    region: str | None = None
    healthChecks: HealthChecks | None = Field(None, validation_alias=AliasChoices("healthChecks", "healthchecks"))


class SpecV0(_RestSpec):
    """The spec of apiVersion v0alpha0."""

    apiVersion: Literal["v0alpha0"]
    port: Port | None = None
    models: list[ModelPart] | None = None
    repositories: Repositories | None = None
    resources: ResourcesV0


class SpecV1(_RestSpec):
    """The spec of apiVersion v0alpha1, v1 and latest."""

    apiVersion: Literal["v0alpha1", "v1", "latest"]
    integrations: list[Integration] | None = Field(None, max_length=5)
    basicAuthKey: str | None = Field(None, repr=False)
    resources: ResourcesV1


class SpecGraph(_Spec):
    """The spec of the GraphQL API; the name travels beside it."""

    name: Text
    port: Port | None = None
    protocol: Literal["http", "http2"] | None = None
    models: list[ModelPart] | None = None
    repositories: Repositories | None = None
    resources: ResourcesV0


def is_v0(config: Config) -> bool:
    """Whether a spec is of the older dialect."""
    resources = config.get("resources")
    older = isinstance(resources, dict) and "instanceType" in resources
    return config.get("apiVersion") == "v0alpha0" or ("apiVersion" not in config and older)


def schema(config: Config, api: Api) -> type[_Spec]:
    """The model that a spec must fit."""
    if api == "graphql":
        return SpecGraph
    return SpecV0 if is_v0(config) else SpecV1


_UNSHOWN = frozenset({"env", "password", "accessKeyId", "secretAccessKey", "basicAuthKey"})


def check(config: Config, api: Api, *, known: Config | None = None, field: str = "spec") -> Config:
    """Return the spec when it can be sent.

    Args:
        config: The whole spec, in the vendor's words.
        api: Which API it is for.
        known: The spec as the vendor has it: fields of it that this version does not know are let through, so that an
            update never loses what the vendor added since.
        field: Name of the parameter, for the message.

    Raises:
        InvalidInput: Names the first field that cannot work.
    """
    try:
        schema(config, api).model_validate(config)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            where = tuple(part for part in problem["loc"])
            if problem["type"] == "extra_forbidden" and _has(known, where):
                continue
            raise _refused(where, problem, field, api) from None
    return config


def _refused(where: tuple[int | str, ...], problem: Mapping[str, Any], field: str, api: Api) -> InvalidInput:
    message = str(problem["msg"]).removeprefix("Value error, ")
    inner, colon, rest = message.partition(": ")
    value = problem.get("input")
    if problem["type"] == "value_error" and colon and inner.isidentifier():
        where, message = (*where, inner), rest
        value = value.get(inner) if isinstance(value, dict) else getattr(value, inner, None)
    if problem["type"] == "extra_forbidden":
        message = f"{'GraphQL' if api == 'graphql' else 'the spec of this apiVersion'} has no such field"
    if problem["type"] == "missing":
        value, message = None, "is required"
    if _UNSHOWN & set(where):
        value = "..."
    return InvalidInput(".".join([field, *map(str, where)]), value, message)


def _has(known: Any, where: tuple[int | str, ...]) -> bool:
    for part in where:
        try:
            known = known[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
