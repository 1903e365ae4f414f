"""The bodies that the control API takes, beside the vocabulary itself."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from prefect_modeldeploy.deployments import Autoscaling
from prefect_modeldeploy.local.supervisor import MAX_REPLICAS
from prefect_modeldeploy.traffic.endpoint import Shadow


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaleBody(_Body):
    """`replicas` now, or the `autoscaling` fields that change."""

    replicas: int | None = Field(None, ge=0, le=MAX_REPLICAS, strict=True)
    autoscaling: Autoscaling | None = None


class EndpointBody(_Body):
    """The arms of an endpoint: objects with name, upstream and weight; and who gets copies, if anybody."""

    arms: list[dict[str, Any]]
    sticky_header: str | None = None
    shadow: Shadow | None = None
    expected_epoch: int | None = Field(None, ge=0)


class WeightsBody(_Body):
    """Percent by arm."""

    weights: dict[str, float]
    expected_epoch: int | None = Field(None, ge=0)


class AuditBody(_Body):
    """One line of an endpoint's history."""

    who: str = Field(min_length=1, max_length=200)
    event: dict[str, JsonValue]
