"""Baseten's words in ours: the normative table, two-level ids, and the vendor's three error envelopes.

| vendor's word   | status         | ready | may receive traffic                                                  |
|-----------------|----------------|-------|----------------------------------------------------------------------|
| BUILDING        | BUILDING       | no    | no                                                                   |
| DEPLOYING       | STARTING       | no    | no                                                                   |
| LOADING_MODEL   | STARTING       | no    | no                                                                   |
| UPDATING        | UPDATING       | no    | yes, what it had before                                              |
| ACTIVE          | READY          | yes   | yes                                                                  |
| SCALED_TO_ZERO  | SCALED_TO_ZERO | no    | yes: the request is parked until a replica is up. No failure, also   |
|                 |                |       | in the middle of a promotion                                         |
| WAKING_UP       | WAKING         | no    | yes, parked                                                          |
| UNHEALTHY       | DEGRADED       | no    | no                                                                   |
| BUILD_FAILED    | FAILED         | no    | no                                                                   |
| BUILD_STOPPED   | FAILED         | no    | no                                                                   |
| DEPLOY_FAILED   | FAILED         | no    | no; `retry_deployment` tries again                                   |
| FAILED          | FAILED         | no    | no                                                                   |
| DEACTIVATING    | STOPPING       | no    | no                                                                   |
| INACTIVE        | STOPPED        | no    | no (404); also the silent end of a deploy that never got capacity    |
| anything else   | UNKNOWN        | no    | no                                                                   |
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentStatus, Replicas, Resources, tags_of
from prefect_modeldeploy.errors import InvalidInput, Problem, ProviderError
from prefect_modeldeploy.providers.baseten.answers import AutoscalingState, VendorDeployment
from prefect_modeldeploy.providers.baseten.requests import AutoscalingSettings, checked
from prefect_modeldeploy.transport import read_problem

A = TypeVar("A", bound=BaseModel)

PROVIDER = "baseten"

STATUSES: Mapping[str, DeploymentStatus] = {
    "BUILDING": DeploymentStatus.BUILDING,
    "DEPLOYING": DeploymentStatus.STARTING,
    "LOADING_MODEL": DeploymentStatus.STARTING,
    "UPDATING": DeploymentStatus.UPDATING,
    "ACTIVE": DeploymentStatus.READY,
    "SCALED_TO_ZERO": DeploymentStatus.SCALED_TO_ZERO,
    "WAKING_UP": DeploymentStatus.WAKING,
    "UNHEALTHY": DeploymentStatus.DEGRADED,
    "BUILD_FAILED": DeploymentStatus.FAILED,
    "BUILD_STOPPED": DeploymentStatus.FAILED,
    "DEPLOY_FAILED": DeploymentStatus.FAILED,
    "FAILED": DeploymentStatus.FAILED,
    "DEACTIVATING": DeploymentStatus.STOPPING,
    "INACTIVE": DeploymentStatus.STOPPED,
}
"""All fourteen words of `DeploymentStatusV1`."""

IN_PROGRESS = frozenset({"BUILDING", "DEPLOYING", "LOADING_MODEL", "UPDATING", "WAKING_UP"})
"""Words after which INACTIVE means that nothing was found to run on."""

NO_CAPACITY = (
    "INACTIVE without an error: Baseten found no capacity for its instance type (or somebody deactivated it); "
    "try another instance type, or start it again later"
)


_REASONS = {
    "INACTIVE": NO_CAPACITY,
    "UNHEALTHY": "UNHEALTHY: it is up, but fails its health checks; read its logs",
    "BUILD_FAILED": "BUILD_FAILED: the image could not be built; the API has no build log, the console has",
    "BUILD_STOPPED": "BUILD_STOPPED: a person stopped the build",
    "DEPLOY_FAILED": "DEPLOY_FAILED: read its logs, and try again with retry_deployment",
    "FAILED": "FAILED: read its logs, and try again with retry_deployment",
}
"""Baseten's API has no field for reasons."""


def split_id(deployment_id: str) -> tuple[str, str]:
    """Model id and deployment id of `"<model id>/<deployment id>"`.

    Raises:
        InvalidInput: It is not of that form.
    """
    model_id, slash, own_id = deployment_id.partition("/")
    if not (slash and model_id and own_id) or "/" in own_id:
        raise InvalidInput("deployment_id", deployment_id, "must be '<model id>/<deployment id>'")
    return model_id, own_id


CONSOLE_URL = "https://app.baseten.co"


def console_url(model_id: str, own_id: str) -> str:
    """Where a person looks at a deployment: the page that Baseten's own command line points to."""
    return f"{CONSOLE_URL}/models/{quoted(model_id)}/logs/{quoted(own_id)}"


def quoted(part: str) -> str:
    """A part of a path."""
    return quote(part, safe="")


def translate(raw: Any, endpoint_url: str, console_url: str | None = None) -> Deployment:
    """The vendor's deployment in our words; `raw` keeps it whole.

    Raises:
        ProviderError: The answer is no deployment at all.
    """
    vendor = read_answer(VendorDeployment, raw, "deployment")
    status = STATUSES.get(vendor.status, DeploymentStatus.UNKNOWN)
    replicas = max(0, vendor.active_replica_count)
    ready = status is DeploymentStatus.READY
    updating = status is DeploymentStatus.UPDATING and replicas > 0  # what it had before answers
    return Deployment(
        provider=PROVIDER,
        id=f"{vendor.model_id}/{vendor.id}",
        name=vendor.name,
        model_id=vendor.model_id,
        version=str((vendor.labels or {}).get("modeldeploy-version") or vendor.name),
        environment=vendor.environment or ("development" if vendor.is_development else None),
        tags=tags_of({k: v for k, v in (vendor.labels or {}).items() if not k.startswith("modeldeploy-")}),
        status=status,
        provider_status=vendor.status,
        reason=_REASONS.get(vendor.status),
        ready=ready,
        answers=updating or status is DeploymentStatus.WAKING,
        replicas=Replicas(ready=replicas if ready or updating else 0, running=replicas),
        autoscaling=read_autoscaling(vendor.autoscaling_settings),
        resources=Resources(instance_type=vendor.instance_type_name) if vendor.instance_type_name else None,
        endpoint_url=endpoint_url,
        console_url=console_url,
        created_at=vendor.created_at,
        raw=dict(raw),
    )


def read_answer(model: type[A], raw: Any, what: str) -> A:
    """Read an answer of the vendor.

    Raises:
        ProviderError: It lacks what it is about, such as an id.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProviderError(PROVIDER, f"reading a {what}", Problem(f"{where}: {first['msg']}")) from None


def read_autoscaling(settings: AutoscalingState | None) -> Autoscaling | None:
    """The vendor's autoscaling in our words; values that break our bounds are left out, `raw` has them."""
    if settings is None:
        return None
    fields: dict[str, Any] = {
        "min_replicas": settings.min_replica,
        "max_replicas": settings.max_replica,
        "target_concurrency": settings.concurrency_target,
        "scale_down_delay_seconds": settings.scale_down_delay,
        "window_seconds": settings.autoscaling_window,
    }
    try:
        return Autoscaling.model_validate(fields)
    except ValidationError:
        sound = {name: value for name, value in fields.items() if _sound(name, value)}
        return Autoscaling.model_validate(sound) if sound else None


def _sound(name: str, value: Any) -> bool:
    try:
        Autoscaling.model_validate({name: value})
    except ValidationError:
        return False
    return name not in ("min_replicas", "max_replicas")


def to_settings(autoscaling: Autoscaling) -> AutoscalingSettings:
    """Our autoscaling as the vendor's; only what is set.

    Raises:
        InvalidInput: A value is outside the vendor's bounds.
    """
    fields = {
        "min_replica": autoscaling.min_replicas,
        "max_replica": autoscaling.max_replicas,
        "concurrency_target": autoscaling.target_concurrency,
        "scale_down_delay": _whole("scale_down_delay_seconds", autoscaling.scale_down_delay_seconds),
        "autoscaling_window": _whole("window_seconds", autoscaling.window_seconds),
    }
    return checked(AutoscalingSettings, {k: v for k, v in fields.items() if v is not None}, "autoscaling")


def _whole(field: str, seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if seconds != int(seconds):
        raise InvalidInput(f"autoscaling.{field}", seconds, "Baseten takes whole seconds")
    return int(seconds)


def read_error(response: httpx.Response) -> Problem:
    """Read Baseten's error answers, of which there are three kinds; the vendor's own delay is kept.

    - management: `{"code", "message"}`
    - rate limit: `{"error", "retry_after"}`, seconds
    - inference: `{"error", "error_code"?, "detail"?}`
    """
    problem = read_problem(response)
    try:
        body = response.json()
    except ValueError:
        return problem
    if not isinstance(body, dict):
        return problem
    code = body.get("code") or body.get("error_code")
    delay = problem.retry_after
    asked = body.get("retry_after")
    if delay is None and isinstance(asked, int | float) and not isinstance(asked, bool) and asked >= 0:
        delay = float(asked)
    detail = body.get("detail")
    message = f"{problem.message} ({detail})" if isinstance(detail, str) and detail else problem.message
    return replace(problem, message=message, code=str(code) if code else None, parameters=dict(body), retry_after=delay)
