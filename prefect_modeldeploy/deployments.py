"""The vocabulary: what is deployed, in which state, with which resources, and what a provider can do."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
"""1 to 63 lower-case letters, digits, dots, dashes and underscores."""


class DeploymentStatus(StrEnum):
    """What a deployment is doing, in one word for every provider."""

    PENDING = "PENDING"
    BUILDING = "BUILDING"
    STARTING = "STARTING"
    READY = "READY"
    UPDATING = "UPDATING"
    DEGRADED = "DEGRADED"
    SCALED_TO_ZERO = "SCALED_TO_ZERO"
    WAKING = "WAKING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    DELETED = "DELETED"
    UNKNOWN = "UNKNOWN"


class Capability(StrEnum):
    """One thing that a provider can do. Flows choose their strategy from these, never from a provider's name."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    LIST = "LIST"
    SCALE = "SCALE"
    SCALE_TO_ZERO = "SCALE_TO_ZERO"
    WAKE = "WAKE"
    STOP = "STOP"
    START = "START"
    PROMOTE = "PROMOTE"
    ROLL_BACK = "ROLL_BACK"
    PREDICT = "PREDICT"
    LOGS = "LOGS"
    METRICS = "METRICS"
    TRAFFIC = "TRAFFIC"


class _Vocabulary(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Autoscaling(_Vocabulary):
    """How many replicas, and when. None leaves a setting as it is (or at the provider's default)."""

    min_replicas: int | None = Field(None, ge=0, description="Replicas that always run. 0 allows scale to zero.")
    max_replicas: int | None = Field(None, ge=1, description="Upper bound of replicas.")
    target_concurrency: int | None = Field(
        None, ge=1, description="Requests in flight per replica that the autoscaler aims at."
    )
    scale_down_delay_seconds: float | None = Field(
        None, ge=0, description="Seconds without need before a replica is removed."
    )
    window_seconds: float | None = Field(None, gt=0, description="Seconds over which load is averaged.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas is not None and self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} must not be above max_replicas={self.max_replicas}")
        return self


class Resources(_Vocabulary):
    """What one replica gets. Providers convert these units into their own."""

    cpu_millicores: int | None = Field(None, gt=0, description="CPU in thousandths of a core.")
    memory_mib: int | None = Field(None, gt=0, description="Memory in MiB.")
    gpu_type: str | None = Field(None, description="The provider's name of the GPU.")
    gpu_count: int | None = Field(None, ge=0, description="GPUs per replica.")
    instance_type: str | None = Field(None, description="The provider's name of the machine, instead of the others.")


DeploymentId = Annotated[str, Field(title="Id")]
"""A provider's id of a deployment; the title is what Prefect's forms show."""


class DeploymentSpec(_Vocabulary):
    """What to deploy: one version of a model, and how it shall run."""

    model_config = ConfigDict(title="New deployment")

    name: Name = Field(description="Unique name of the deployment. Creating the same name twice never makes two.")
    model: str = Field(min_length=1, description="Name or id of the model.")
    version: str = Field("1", min_length=1, description="Version of the model.")
    source: str | None = Field(
        None,
        description="What to serve, in the provider's terms: a path, an image, an archive. "
        "Local: a .joblib file, or package.module:callable.",
    )
    environment: str = Field("production", description="Role that it is meant for.")
    autoscaling: Autoscaling | None = Field(
        None, title="Autoscaling", description="How many replicas. None: the provider's default."
    )
    resources: Resources | None = Field(
        None, title="Resources", description="What each replica gets. None: the provider's default."
    )
    env: Mapping[str, str] = Field(
        default_factory=dict,
        description='Environment variables of the replicas, as JSON: {"NAME": "value"}. No secrets.',
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Fields that only this provider has, as JSON; they are checked by name.",
    )


class DeploymentUpdate(_Vocabulary):
    """What to change on a deployment. Fields left at None stay as they are."""

    version: str | None = None
    source: str | None = None
    environment: str | None = None
    autoscaling: Autoscaling | None = None
    resources: Resources | None = None
    env: Mapping[str, str] | None = None
    options: Mapping[str, Any] | None = None


class Replicas(_Vocabulary):
    """How many replicas a deployment has, and how many of them can take traffic."""

    ready: int = 0
    running: int = 0
    desired: int | None = None


class Deployment(_Vocabulary):
    """One version of a model, running or able to run on a provider."""

    provider: str
    id: str
    name: str
    model_id: str
    version: str | None = None
    environment: str | None = None
    tags: tuple[str, ...] = Field((), description="How people marked it, `name=value`, where the provider has labels.")
    status: DeploymentStatus
    provider_status: str = Field("", description="The vendor's own word, kept as it came.")
    reason: str | None = Field(None, description="Why it failed or is degraded, if the provider says.")
    ready: bool = Field(False, description="True when it can take traffic now, by the provider's own rules.")
    answers: bool = Field(
        False,
        description="True when requests are answered although it is not ready: while it updates, wakes, is degraded.",
    )
    replicas: Replicas = Replicas()
    autoscaling: Autoscaling | None = None
    resources: Resources | None = None
    endpoint_url: str | None = Field(None, description="Where this deployment answers requests.")
    console_url: str | None = Field(None, description="Where a person looks at it.")
    created_at: datetime | None = None
    updated_at: datetime | None = None
    created_by: str | None = None
    raw: dict[str, Any] = Field(default_factory=dict, repr=False, description="The vendor's answer, whole.")

    @property
    def terminal(self) -> bool:
        """True when waiting will not change the status."""
        return self.status in _TERMINAL

    @property
    def may_receive_traffic(self) -> bool:
        """True when a request is answered, now or after a wake, by the provider's own rules."""
        return self.ready or self.answers or self.status is DeploymentStatus.SCALED_TO_ZERO

    @property
    def answers_at_once(self) -> bool:
        """True when a request is answered without waiting for a wake."""
        return self.ready or (self.answers and self.status is not DeploymentStatus.WAKING)


_TERMINAL = frozenset(
    {
        DeploymentStatus.FAILED,
        DeploymentStatus.STOPPED,
        DeploymentStatus.DELETED,
        DeploymentStatus.SCALED_TO_ZERO,
    }
)


def tags_of(labels: Mapping[str, str] | None) -> tuple[str, ...]:
    """A provider's labels as the tags of a deployment."""
    return tuple(f"{name}={value}" for name, value in (labels or {}).items())
