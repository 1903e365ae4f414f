"""What the vendor answers, read tolerantly: unknown fields are kept, a field of a wrong type becomes its default.

Field names are the vendor's in snake case (`dtHealthy` is `dt_healthy`). Sources: the vendor's OpenAPI file of
`api.paperspace.com/v1` (2024-08) and its GraphQL schema (2023-01).
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from pydantic.alias_generators import to_camel
from pydantic_core.core_schema import ValidationInfo


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(
        extra="allow", frozen=True, populate_by_name=True, alias_generator=to_camel, protected_namespaces=()
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _tolerate(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError:
            assert info.field_name is not None
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)


class StateChange(Answer):
    """One step of an instance's life."""

    state: str = ""
    message: str | None = None
    timestamp: datetime | None = None


class Instance(Answer):
    """One replica of a run. `state` is pending, healthy, retrying, errored or failed; `phase` is GraphQL's."""

    id: str = ""
    instance_id: str | None = None
    dt_created: datetime | None = None
    dt_started: datetime | None = None
    dt_finished: datetime | None = None
    state: str = ""
    state_message: str | None = None
    phase: str | None = Field(None, description="Pending, Running, Succeeded, Failed or Unknown (GraphQL only).")
    history: list[StateChange] = []


class Run(Answer):
    """The pods of one spec version."""

    id: str = ""
    replicas: int = Field(0, description="How many there shall be.")
    ready_replicas: int = 0
    available_replicas: int = Field(0, description="Available but not ready, says the vendor.")
    instances: list[Instance] = []


class SpecVersion(Answer):
    """One version of a deployment's spec: every upsert makes one. `dt_healthy` belongs to this version alone."""

    id: str = ""
    deployment_id: str = ""
    user_id: str | None = None
    data: dict[str, Any] | None = Field(None, repr=False, description="The spec, as it was sent.")
    dt_created: datetime | None = None
    external_applied: datetime | None = Field(None, description="When it reached the cluster.")
    dt_healthy: datetime | None = Field(None, description="When it was marked healthy.")
    error: str | None = Field(None, description="Fatal: of the configuration or of what runs before the start.")
    metadata: dict[str, Any] | None = None
    workflow_run: dict[str, Any] | None = Field(None, description="The step that fetches integrations (history only).")
    runs: list[Run] | None = Field(None, description="GraphQL only: runs come with their spec version.")


class Stored(Answer):
    """A deployment as the vendor keeps it."""

    id: str = ""
    name: str = ""
    project_id: str | None = None
    team_id: str | None = None
    endpoint: str | None = Field(None, description="A host without a scheme; the seed document shows an URL.")
    dt_created: datetime | None = None
    latest_spec_hash: str | None = None
    latest_spec: SpecVersion | None = Field(None, description="None when it is invalid, says the vendor.")
    raw: dict[str, Any] = Field(default_factory=dict, repr=False, description="The whole answer.")


class LogRow(Answer):
    """One line of a log; the vendor keeps them for 30 days."""

    id: str | None = None
    job_id: str | None = None
    message: str = ""
    dt_created: datetime | None = None
    instance_id: str | None = None


class Activity(Answer):
    """Who did what in a project, such as `deployment.scaled`."""

    id: str = ""
    action: str = ""
    data: dict[str, Any] | None = None
    dt_created: datetime | None = None
    actor: dict[str, Any] | None = Field(None, repr=False)
    deployment: dict[str, Any] | None = None


class Session(Answer):
    """Whose key it is."""

    team: dict[str, Any] | None = None
    user: dict[str, Any] | None = None


class Sample(Answer):
    """One value of a metric; the vendor sends numbers as strings."""

    timestamp: datetime | None = None
    value: float = 0.0
    instance_id: str | None = None
    gpu: str | None = None


def read_samples(answer: Any) -> list[Sample]:
    """The vendor's three shapes of metrics as one: a value, a list of values, or a list of values per instance."""
    entries = answer if isinstance(answer, list) else [answer]
    found: list[Sample] = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        inner = entry.get("values")
        if isinstance(inner, list):
            instance = entry.get("instanceId")
            found += [Sample.model_validate({"instanceId": instance, **one}) for one in inner if isinstance(one, dict)]
        elif "timestamp" in entry or "value" in entry:
            found.append(Sample.model_validate(entry))
    return [sample for sample in found if sample.timestamp is not None]


_HIDDEN = "**********"
_SECRET_FIELDS = frozenset({"basicAuthKey", "password", "secretAccessKey"})


def without_secrets(value: Any) -> Any:
    """A copy in which passwords are hidden; references such as `secret:NAME` name a secret and hold none."""
    if isinstance(value, dict):
        return {
            name: _hidden(inner) if name in _SECRET_FIELDS else without_secrets(inner) for name, inner in value.items()
        }
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value


def _hidden(value: Any) -> Any:
    return value if value is None or str(value).startswith("secret:") else _HIDDEN
