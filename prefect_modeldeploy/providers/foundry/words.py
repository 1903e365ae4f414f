"""A live deployment in our words: the table of the package's docstring, as code."""

from collections.abc import Mapping

from prefect_modeldeploy.deployments import Deployment, DeploymentStatus
from prefect_modeldeploy.providers.foundry.config import NAME_MARKER, read_autoscaling, read_resources
from prefect_modeldeploy.providers.foundry.types import LiveDeployment

_PLAIN: Mapping[str, DeploymentStatus] = {
    "STARTING": DeploymentStatus.STARTING,
    "FAILED": DeploymentStatus.FAILED,
    "DISABLED": DeploymentStatus.STOPPED,
}


def status_of(live: LiveDeployment, newest: str | None) -> DeploymentStatus:
    """Our word for where it stands.

    Args:
        live: As the vendor answered.
        newest: RID of the newest version on the branch that it tracks; None: it tracks none, or nobody may know.
    """
    state, ready = live.status.state, live.status.is_ready
    if state not in ("ACTIVE", "DEGRADED"):
        return _PLAIN.get(state, DeploymentStatus.UNKNOWN)
    if newest is not None and live.model_version.model_version_rid != newest:
        return DeploymentStatus.UPDATING
    if state == "DEGRADED":
        return DeploymentStatus.DEGRADED
    if ready:
        return DeploymentStatus.READY
    return DeploymentStatus.SCALED_TO_ZERO if at_zero(live) else DeploymentStatus.WAKING


def may_receive_traffic(live: LiveDeployment) -> bool:
    """Whether a request would be answered, now or after a wake."""
    state = live.status.state
    return state == "DEGRADED" or (state == "ACTIVE" and (live.status.is_ready or at_zero(live)))


def at_zero(live: LiveDeployment) -> bool:
    """Whether it may have no replicas although it is on."""
    return live.runtime_configuration.get("minReplicas") == 0


def translated(live: LiveDeployment, newest: str | None, *, environment: str | None, api_url: str) -> Deployment:
    """The deployment in our vocabulary; `raw` keeps the answer whole."""
    status = status_of(live, newest)
    name = live.environment_variables.get(NAME_MARKER)
    return Deployment(
        provider="foundry",
        id=live.rid,
        name=str(name or live.branch or live.rid),
        model_id=live.model_version.model_rid,
        version=live.model_version.model_version_rid,
        environment=environment,
        status=status,
        provider_status=live.status.state,
        reason=_reason(live, newest, status),
        ready=status is DeploymentStatus.READY,
        answers=may_receive_traffic(live),
        autoscaling=read_autoscaling(live.runtime_configuration),
        resources=read_resources(live.runtime_configuration),
        endpoint_url=f"{api_url}/v2/models/liveDeployments/{live.rid}/transformJson?preview=true",
        raw=live.raw,
    )


def _reason(live: LiveDeployment, newest: str | None, status: DeploymentStatus) -> str | None:
    match status:
        case DeploymentStatus.UPDATING:
            return f"serves {live.model_version.model_version_rid}; the newest on branch {live.branch} is {newest}"
        case DeploymentStatus.FAILED:
            return "no healthy replica; Foundry's API tells no more: see the deployment's health tab"
        case DeploymentStatus.DEGRADED:
            return "a replica is ready, but not all are healthy"
        case DeploymentStatus.WAKING:
            return "on, but no replica is ready yet"
        case _:
            return None
