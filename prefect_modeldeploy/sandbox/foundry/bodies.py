"""What requests may hold. Written from the vendor's documents, not from our client."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from prefect_modeldeploy.sandbox.emulator import Refusal

Rid = Annotated[
    str,
    StringConstraints(pattern=r"^ri\.[a-z][a-z0-9-]*\.([a-z0-9][a-z0-9\-]*)?\.[a-z][a-z0-9-]*\.[a-zA-Z0-9._-]+$"),
]
Branch = Annotated[str, StringConstraints(min_length=1, max_length=1000)]

MOST_THREADS = 256
MOST_REPLICAS = 100
MOST_OF_GPU = {"T4": 4, "A10G": 4, "V100": 8}
RESERVED = frozenset({"PORT", "FOUNDRY_TOKEN", "BUILD2_TOKEN", "MODULE_AUTH_TOKEN", "CLIENT_CERT"})
SECONDS = {
    "MILLISECONDS": 0.001, "SECONDS": 1, "MINUTES": 60, "HOURS": 3600,
    "DAYS": 86400, "WEEKS": 604800, "MONTHS": 2592000, "YEARS": 31536000,
}  # fmt: skip


class Body(BaseModel):
    """Strict as JSON is: no number from a text, no text from a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Duration(Body):
    """A measurement of duration."""

    value: int = Field(ge=0, le=10**12)
    unit: Literal["MILLISECONDS", "SECONDS", "MINUTES", "HOURS", "DAYS", "WEEKS", "MONTHS", "YEARS"]


class Gpu(Body):
    """GPUs of a replica."""

    count: int
    type: Literal["A100", "A10G", "A16", "B200", "B300", "H100", "H200", "L4", "L40S", "T4", "V100"] | None = None


class ScalingConfiguration(Body):
    """When replicas come and go."""

    scaleUpLoadThreshold: float = Field(ge=0, le=1)
    scaleUpDelay: Duration
    scaleDownDelay: Duration


class Runtime(Body):
    """A runtime configuration."""

    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1, le=MOST_REPLICAS)
    cpu: float | None = Field(None, gt=0, le=10**6)
    memory: Annotated[str, StringConstraints(max_length=40)] | None = None
    gpu: Gpu | None = None
    threadCount: int | None = Field(None, ge=1)
    scalingConfiguration: ScalingConfiguration | None = None
    sources: list[Rid]
    environmentVariables: dict[str, str]

    def check(self) -> None:
        """Refuse what the vendor has names for. Raises Refusal."""
        if self.minReplicas > self.maxReplicas:
            raise Refusal(400, "minReplicas is above maxReplicas", parameter="minReplicas")
        if self.memory is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)?([KMGT]i?B?|B)?", self.memory, re.ASCII):
            raise Refusal(400, "memory cannot be read", parameter="memory")
        if (self.threadCount or 0) > MOST_THREADS:
            given = {"maxThreadCount": MOST_THREADS, "providedThreadCount": self.threadCount}
            raise Refusal(400, "The specified thread count exceeds the maximum.", "ThreadCountTooHigh", **given)
        if self.gpu is not None:
            self._check_gpu(self.gpu)
        for name in self.environmentVariables:
            if name in RESERVED:
                raise Refusal(400, "The name is reserved.", "ReservedEnvironmentVariable", name=name)

    @staticmethod
    def _check_gpu(gpu: Gpu) -> None:
        if gpu.type is not None and gpu.type not in MOST_OF_GPU:
            given: dict[str, Any] = {"requestedGpuType": gpu.type, "availableGpuTypes": list(MOST_OF_GPU)}
            raise Refusal(400, "The requested GPU type is not available.", "GpuTypeNotAvailable", **given)
        most = MOST_OF_GPU.get(gpu.type or "", max(MOST_OF_GPU.values()))
        if not 1 <= gpu.count <= most:
            given = {"providedGpuCount": gpu.count, "maxGpuCount": most}
            raise Refusal(400, "The GPU count is invalid.", "InvalidGpuCount", **given)


class Target(Body):
    """The only kind that the API creates."""

    type: Literal["direct"]
    modelRid: Rid
    branch: Branch


class NewLive(Body):
    """POST /v2/models/liveDeployments."""

    deploymentType: Target
    runtimeConfiguration: Runtime


class Replacement(Body):
    """PUT /v2/models/liveDeployments/{rid}."""

    runtimeConfiguration: Runtime


class Transform(Body):
    """POST .../transformJson."""

    input: dict[str, Any]


class NewModel(Body):
    """POST /v2/models."""

    name: str
    parentFolderRid: Rid


class Promotion(Body):
    """POST /v2/models/{rid}/promoteVersion."""

    sourceModelVersionRid: Rid
    branch: Branch | None = None


class DataType(Body):
    """A type; nested for arrays and maps."""

    type: Literal[
        "any", "array", "boolean", "date", "double", "float", "integer", "long", "map", "string", "timestamp",
        "unsupported",
    ]  # fmt: skip
    itemType: "DataType | None" = None
    keyType: "DataType | None" = None
    valueType: "DataType | None" = None


class Column(Body):
    """A column of a table."""

    name: str
    required: bool | None = None
    dataType: DataType


class Entry(Body):
    """An input or an output."""

    type: Literal["parameter", "tabular", "unsupported"]
    name: str | None = None
    required: bool | None = None
    dataType: DataType | None = None
    columns: list[Column] | None = None
    format: Literal["PANDAS", "SPARK"] | None = None


class ModelApi(Body):
    """What a model takes and gives."""

    inputs: list[Entry]
    outputs: list[Entry]


class Files(Body):
    """The model."""

    type: Literal["dill"]
    serializedModelFunction: str


class NewVersion(Body):
    """POST /v2/models/{rid}/versions."""

    modelFiles: Files
    backingRepositories: list[Rid]
    condaRequirements: list[str]
    modelApi: ModelApi


class NewFunction(Body):
    """POST and PUT /v2/models/{rid}/function; the display name is for POST."""

    apiName: str
    isRowWise: bool
    displayName: str | None = None
    ontologyBinding: Rid | None = None
