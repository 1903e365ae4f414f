"""What goes over the wire: requests strictly (wrong values are refused by name), answers tolerantly (all is kept).

Source: the API reference, and `foundry_sdk/v2/models/models.py` of foundry-platform-sdk 1.111.0.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from prefect_modeldeploy.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)

RID_PATTERN = r"^ri\.[a-z][a-z0-9-]*\.([a-z0-9][a-z0-9\-]*)?\.[a-z][a-z0-9-]*\.[a-zA-Z0-9._-]+$"
"""The official client refuses anything else before it sends a request."""

Rid = Annotated[str, StringConstraints(pattern=RID_PATTERN)]
GpuType = Literal["A100", "A10G", "A16", "B200", "B300", "H100", "H200", "L4", "L40S", "T4", "V100"]
TimeUnit = Literal["MILLISECONDS", "SECONDS", "MINUTES", "HOURS", "DAYS", "WEEKS", "MONTHS", "YEARS"]
State = Literal["ACTIVE", "STARTING", "DEGRADED", "DISABLED", "FAILED"]

SECONDS_OF: Mapping[str, float] = {
    "MILLISECONDS": 0.001,
    "SECONDS": 1.0,
    "MINUTES": 60.0,
    "HOURS": 3600.0,
    "DAYS": 86400.0,
    "WEEKS": 7 * 86400.0,
    "MONTHS": 30 * 86400.0,
    "YEARS": 365 * 86400.0,
}
"""Months and years are not of one length; these are for reading, and we never send them."""

DEFAULT_THREADS = 32
"""Threads of a replica when `threadCount` is not given (API reference)."""


class _Request(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )

    def wire(self) -> dict[str, Any]:
        """As JSON, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Duration(_Request):
    """A length of time."""

    value: int = Field(ge=0)
    unit: TimeUnit

    @classmethod
    def of(cls, seconds: float) -> Self:
        """From seconds; whole milliseconds are kept."""
        whole = float(seconds).is_integer()
        return cls(value=int(seconds) if whole else round(seconds * 1000), unit="SECONDS" if whole else "MILLISECONDS")

    @property
    def seconds(self) -> float:
        """In seconds."""
        return self.value * SECONDS_OF[self.unit]


class Gpu(_Request):
    """GPUs of a replica."""

    count: int = Field(ge=1, description="GPUs; the most depends on the type (InvalidGpuCount).")
    type: GpuType | None = Field(None, description="None: any type will do.")


class ScalingConfiguration(_Request):
    """How the autoscaler reacts. The defaults are those that the vendor documents for compute modules."""

    scale_up_load_threshold: float = Field(0.75, ge=0, le=1, description="Requests in flight / (replicas x threads).")
    scale_up_delay: Duration = Field(Duration(value=1, unit="MINUTES"), description="Load above it for so long.")
    scale_down_delay: Duration = Field(Duration(value=30, unit="MINUTES"), description="Load below it for so long.")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.scale_up_delay.seconds > self.scale_down_delay.seconds:
            up, down = self.scale_up_delay.seconds, self.scale_down_delay.seconds
            raise ValueError(f"scale_up_delay ({up:g} s) must not be above scale_down_delay ({down:g} s)")
        return self


class RuntimeConfiguration(_Request):
    """The compute resources of a live deployment; a replace takes the whole of it, never a part.

    `sources` and `environment_variables` are always sent: the API requires them since its client 1.107.
    """

    min_replicas: int = Field(ge=0, description="Replicas that always run; 0 allows scale to zero.")
    max_replicas: int = Field(ge=1, description="Upper bound of replicas.")
    cpu: float | None = Field(None, gt=0, description="CPUs of a replica, requested and limit.")
    memory: str | None = Field(
        None, pattern=r"^[1-9][0-9]*(\.[0-9]+)?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$", description="Such as 256MiB, 1GiB."
    )
    gpu: Gpu | None = None
    thread_count: int | None = Field(None, ge=1, description="Requests that a replica works on at once; default 32.")
    scaling_configuration: ScalingConfiguration | None = None
    sources: list[Rid] = Field(default_factory=list, description="RIDs of connections that the model may use.")
    environment_variables: dict[str, str] = Field(default_factory=dict, description="Of the replicas. No secrets.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} must not be above max_replicas={self.max_replicas}")
        return self


class DirectTarget(_Request):
    """What a deployment tracks: the newest version on a branch of a model. The only kind that the API creates."""

    type: Literal["direct"] = "direct"
    model_rid: Rid
    branch: str = Field(min_length=1)


class _Answer(BaseModel):
    model_config = ConfigDict(
        extra="allow", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


class LiveStatus(_Answer):
    """Where a live deployment stands."""

    state: str = ""
    is_ready: bool = False


class LiveModelVersion(_Answer):
    """What a live deployment serves now."""

    model_rid: str = ""
    model_version_rid: str | None = None


class LiveDeployment(_Answer):
    """A live deployment. `branch` is absent for kinds that track none; the vendor's own example lacks more."""

    rid: str
    model_version: LiveModelVersion = LiveModelVersion()
    branch: str | None = None
    runtime_configuration: dict[str, Any] = Field(default_factory=dict, repr=False)
    status: LiveStatus = LiveStatus()

    @property
    def raw(self) -> dict[str, Any]:
        """The answer, whole."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def environment_variables(self) -> dict[str, Any]:
        """Of its replicas."""
        return dict(self.runtime_configuration.get("environmentVariables") or {})


class VersionSource(_Answer):
    """Where a model version comes from: sdk, codeRepository, promoted, external and so on."""

    type: str = ""
    previous_model_rid: str | None = None
    previous_model_version_rid: str | None = None


class ModelVersion(_Answer):
    """A version of a model. It does not know its branch; the branch is a filter of the list."""

    rid: str
    created_time: datetime | None = None
    source: VersionSource | None = None
    model_api: dict[str, Any] = Field(default_factory=dict)
    conda_requirements: list[str] = Field(default_factory=list)
    backing_repositories: list[str] = Field(default_factory=list)

    @property
    def promoted_from(self) -> str | None:
        """RID of the version that this one is a copy of."""
        return self.source.previous_model_version_rid if self.source else None


class VersionPage(_Answer):
    """One page of versions."""

    data: list[ModelVersion] = Field(default_factory=list)
    next_page_token: str | None = None


class ModelFunction(_Answer):
    """A function that wraps a model."""

    function_rid: str
    function_version: str = ""
    display_name: str = ""
    api_name: str = ""
    is_row_wise: bool = False
    ontology_binding: str | None = None


def checked_rid(field: str, value: object) -> str:
    """Return the value. Raises InvalidInput when it is no resource identifier."""
    if isinstance(value, str) and re.fullmatch(RID_PATTERN, value):
        return value
    raise InvalidInput(field, value, "must be a resource identifier such as ri.models.main.model.<uuid>")


def checked(model: type[M], prefix: str, values: Mapping[str, Any]) -> M:
    """Validate values of a request.

    Raises:
        InvalidInput: Names the first field that is wrong, below `prefix`. The value is shown only when it is plain.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([prefix, *(str(part) for part in first["loc"])]).strip(".")
        shown = first["input"] if isinstance(first["input"], str | int | float) else type(first["input"]).__name__
        raise InvalidInput(field, shown, first["msg"].removeprefix("Value error, ")) from None
