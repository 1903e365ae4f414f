"""Our specs in Fiddler's terms, checked before anything is sent."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, Resources
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.fiddler.wire import DeploymentParams, DeploymentType, checked_directory

_NAMES = {
    "replicas": "autoscaling.min_replicas",
    "cpu": "resources.cpu_millicores",
    "memory": "resources.memory_mib",
    "image_uri": "options.image_uri",
}

MODEL_FIELDS = (
    "schema", "spec", "input_type", "task", "task_params", "description",
    "event_id_col", "event_ts_col", "event_ts_format", "xai_params",
)  # fmt: skip
"""What a model version is made of, besides name, version and project; a new version copies them from the newest one."""


class Options(BaseModel):
    """What `DeploymentSpec.options` may hold for Fiddler. The model's fields are the vendor's (`Model.create`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    deployment_type: DeploymentType | None = Field(None, description="BASE_CONTAINER, or MANUAL: pods made by hand.")
    image_uri: str | None = Field(None, min_length=1, description="Docker image of the runtime.")
    dataset: str | None = Field(None, description="Deploy a surrogate made from this dataset (name or UUID).")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="Columns of the model.")
    spec: dict[str, Any] | None = Field(None, description="Inputs, outputs, targets...")
    input_type: str | None = Field(None, description="structured, text or mixed.")
    task: str | None = Field(None, description="binary_classification, regression...")
    task_params: dict[str, Any] | None = None
    event_id_col: str | None = None
    event_ts_col: str | None = None
    event_ts_format: str | None = None
    xai_params: dict[str, Any] | None = None

    @classmethod
    def checked(cls, options: Any) -> "Options":
        """Read a spec's options. Raises InvalidInput naming the one that is wrong."""
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            raise InvalidInput(f"options.{name}", first["input"], f"{first['msg']}; known are: {known}") from None

    def model_fields_set_by_user(self) -> dict[str, Any]:
        """The model's own fields that were given, under the vendor's names."""
        given = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {name: value for name, value in given.items() if name in MODEL_FIELDS}


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked spec: what to do at Fiddler."""

    spec: DeploymentSpec
    options: Options
    directory: Path | None
    params: DeploymentParams
    digest: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.spec.model} {self.spec.version}"


def plan_of(spec: DeploymentSpec) -> Plan:
    """Check a spec. Raises InvalidInput naming the field; nothing is sent."""
    options = Options.checked(spec.options)
    if spec.env:
        raise InvalidInput(
            "env", sorted(spec.env), "Fiddler has no environment variables; put values into the artifact"
        )
    if not 1 <= len(spec.version) <= 64:
        raise InvalidInput("version", spec.version, "must have 1 to 64 characters")
    if (spec.source is None) == (options.dataset is None):
        hint = "give the directory of an artifact as source, or options.dataset for a surrogate, and not both"
        raise InvalidInput("source", spec.source, hint)
    directory = checked_directory("source", spec.source) if spec.source is not None else None
    params = params_of(spec.autoscaling, spec.resources, options)
    return Plan(spec, options, directory, params, _digest(spec, directory))


def params_of(
    autoscaling: Autoscaling | None, resources: Resources | None, options: Options | None = None
) -> DeploymentParams:
    """Replicas, cpu, memory and image in the vendor's words and bounds. Raises InvalidInput naming the field."""
    cpu, memory = (resources.cpu_millicores, resources.memory_mib) if resources else (None, None)
    for field in ("gpu_type", "gpu_count", "instance_type"):
        if resources is not None and getattr(resources, field):
            raise InvalidInput(f"resources.{field}", getattr(resources, field), "Fiddler has only cpu and memory")
    return DeploymentParams.checked(
        _NAMES,
        deployment_type=options.deployment_type if options else None,
        image_uri=options.image_uri if options else None,
        replicas=replicas_of(autoscaling) if autoscaling else None,
        cpu=cpu,
        memory=memory,
    )


def replicas_of(autoscaling: Autoscaling) -> int | None:
    """The fixed number of replicas. Raises InvalidInput: Fiddler scales nothing by itself."""
    for field in ("target_concurrency", "scale_down_delay_seconds", "window_seconds"):
        if (value := getattr(autoscaling, field)) is not None:
            raise InvalidInput(f"autoscaling.{field}", value, "Fiddler has no autoscaling: leave it out")
    low, high = autoscaling.min_replicas, autoscaling.max_replicas
    if low == 0:
        raise InvalidInput("autoscaling.min_replicas", 0, "Fiddler needs 1 to 10; stop the deployment to let go of all")
    if low is not None and high is not None and low != high:
        raise InvalidInput("autoscaling.max_replicas", high, f"Fiddler has a fixed number: give {low}, or leave it out")
    replicas = low if low is not None else high
    if replicas is not None and replicas > 10:
        raise InvalidInput("autoscaling.min_replicas", replicas, "Fiddler allows 1 to 10 replicas")
    return replicas


def _digest(spec: DeploymentSpec, directory: Path | None) -> str:
    """What a spec says, in 16 hexadecimal digits: the same spec with the same files is the same deployment."""
    told = hashlib.sha256()
    told.update(json.dumps(spec.model_dump(mode="json", exclude={"source"}), sort_keys=True).encode())
    for path in sorted(directory.rglob("*")) if directory else []:
        if path.is_file() and "__pycache__" not in path.parts:
            told.update(f"\0{path.relative_to(directory or path)}\0".encode())
            told.update(hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()[:16]
