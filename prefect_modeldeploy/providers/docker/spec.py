"""What a deployment on Docker can be asked for, checked before anything is sent."""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import InvalidInput

NAMESPACE = "modeldeploy."
"""Prefix of our labels."""


class Options(BaseModel):
    """The fields of `DeploymentSpec.options`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(8000, ge=1, le=65535, description="Port that the model listens on, in its container.")
    health_path: str | None = Field(
        "/v2/health/ready",
        pattern=r"^/[A-Za-z0-9._~/-]*$",
        description="A replica is ready when GET of this answers 2xx. None: when it runs, and the image's own "
        "HEALTHCHECK is healthy if it has one.",
    )
    predict_path: str = Field("/predict", pattern=r"^/[A-Za-z0-9._~/-]*$", description="Where predictions are sent.")
    start_seconds: float = Field(
        300.0, gt=0, description="A replica that runs and is not ready after so many seconds has failed."
    )
    stop_seconds: int = Field(
        10, ge=0, description="Seconds that a replica has after SIGTERM to answer what is in flight."
    )
    command: tuple[str, ...] | None = Field(None, description="Command and arguments instead of the image's.")
    host_port: int | None = Field(
        None, ge=1, le=65535, description="Port on the Docker host. None: a free one of the block's range."
    )
    labels: dict[str, str] = Field({}, description="Further labels of the containers.")
    pull: Literal["missing", "always", "never"] = Field("missing", description="When to pull the image.")

    @field_validator("labels")
    @classmethod
    def _not_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        if ours := [name for name in labels if name.startswith(NAMESPACE)]:
            raise ValueError(f"{ours[0]!r} is not yours to set: {NAMESPACE}* is where the state is kept")
        return labels


def options_of(spec: DeploymentSpec) -> Options:
    """The spec's options. Raises InvalidInput, which names the one that cannot be."""
    try:
        return Options.model_validate(dict(spec.options))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["options", *(str(part) for part in first["loc"])])
        hint = f"{first['msg'].removeprefix('Value error, ')}; known are {', '.join(Options.model_fields)}"
        raise InvalidInput(field, first["input"], hint) from None


def checked(spec: DeploymentSpec) -> DeploymentSpec:
    """Return the spec with its number of replicas written out. Raises InvalidInput for what Docker cannot do."""
    if not spec.source:
        raise InvalidInput("source", spec.source, "name the container image")
    options, replicas = options_of(spec), replicas_of(spec.autoscaling)
    if replicas > 1 and options.host_port is not None:
        raise InvalidInput(
            "options.host_port", options.host_port, f"{replicas} replicas cannot share it: leave it out, or ask for one"
        )
    limits_of(spec.resources)
    plain = DeploymentSpec.model_validate_json(spec.model_dump_json())  # as a label gives it back
    return plain.model_copy(update={"autoscaling": Autoscaling(min_replicas=replicas, max_replicas=replicas)})


def replicas_of(autoscaling: Autoscaling | None, present: int = 1) -> int:
    """How many replicas are asked for; `present` where nothing is said. Raises InvalidInput for an autoscaler's."""
    if autoscaling is None:
        return present
    for field in ("target_concurrency", "scale_down_delay_seconds", "window_seconds"):
        if (value := getattr(autoscaling, field)) is not None:
            raise InvalidInput(f"autoscaling.{field}", value, "Docker has no autoscaler: leave it out")
    least, most = autoscaling.min_replicas, autoscaling.max_replicas
    if least == 0:
        raise InvalidInput("autoscaling.min_replicas", 0, "no request wakes a container: ask for 1 or more, or stop it")
    if least is None:
        return min(present, most or present)
    if most not in (None, least):
        raise InvalidInput(
            "autoscaling.max_replicas", most, f"Docker has no autoscaler: leave it out, or set it to {least}"
        )
    return least


def limits_of(resources: Resources | None) -> dict[str, Any]:
    """What one container gets, in the words of docker-py. Raises InvalidInput for what Docker has no word for."""
    if resources is None:
        return {}
    for field in ("gpu_type", "instance_type"):
        if (value := getattr(resources, field)) is not None:
            raise InvalidInput(f"resources.{field}", value, "Docker has no such thing: give cpu, memory and gpu_count")
    limits: dict[str, Any] = {}
    if resources.cpu_millicores:
        limits["nano_cpus"] = resources.cpu_millicores * 1_000_000
    if resources.memory_mib:
        limits["mem_limit"] = limits["memswap_limit"] = resources.memory_mib << 20
    if resources.gpu_count:
        limits["gpu_count"] = resources.gpu_count
    return limits


def merged(spec: DeploymentSpec, update: DeploymentUpdate, replicas: int) -> DeploymentSpec:
    """The spec after an update; `options` are merged by name, and None takes one away. Raises InvalidInput."""
    changes = {name: value for name, value in update if value is not None}
    if update.options is not None:
        options = {**spec.options, **update.options}
        changes["options"] = {name: value for name, value in options.items() if value is not None or name in _NULLABLE}
    count = replicas_of(update.autoscaling, replicas)
    changes["autoscaling"] = Autoscaling(min_replicas=count, max_replicas=count)
    return checked(spec.model_copy(update=changes))


_NULLABLE = frozenset({"health_path"})
"""Options for which None is a value."""


def same(one: DeploymentSpec, other: DeploymentSpec) -> bool:
    """Whether containers of two specs are alike: all but the number of replicas counts."""
    return one.model_copy(update={"autoscaling": None}) == other.model_copy(update={"autoscaling": None})


def digest(spec: DeploymentSpec) -> str:
    """Tells whether two specs are the same."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:32]
