"""What became of each deployment of a fleet, in rows; one that fails does not keep the others from being done."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.deployments import Deployment, DeploymentStatus
from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._surroundings import replicas_of

R = TypeVar("R")

AT_ONCE = 8
"""Calls in flight to one provider."""

AT_REST = frozenset(
    {DeploymentStatus.SCALED_TO_ZERO, DeploymentStatus.STOPPED, DeploymentStatus.STOPPING, DeploymentStatus.DELETED}
)

Action = Literal["scaled_to_zero", "stopped", "woken", "restored", "deleted", "orphan", "kept", "failed"]


class FleetRow(BaseModel):
    """What became of one deployment, or of a whole target (deployment `*`) that could not be looked at."""

    model_config = ConfigDict(frozen=True)

    provider: str
    endpoint: str
    deployment: str
    action: Action
    reason: str
    replicas: int = Field(0, description="Replicas that ran before.")
    cost_per_hour: float | None = Field(None, description="Of those replicas; None when no price is known.")
    saved_replica_hours: float | None = Field(
        None, description="Since they were let go, at most: a request may have woken some in between."
    )
    saved_money: float | None = Field(None, description="What these hours would have cost; None when nobody knows.")
    let_go: str | None = Field(None, description="Of what was woken: which note has said how it was.")
    dry_run: bool = False


def row_of(target: DeploymentTarget, deployment: Deployment, action: Action, reason: str, **more: Any) -> FleetRow:
    """The row of a deployment of the target."""
    return FleetRow(
        provider=deployment.provider,
        endpoint=target.endpoint,
        deployment=deployment.id,
        action=action,
        reason=reason,
        **{"replicas": replicas_of(deployment), **more},
    )


def row_of_failed(target: DeploymentTarget, error: BaseException, deployment_id: str = "*") -> FleetRow:
    """The row of what could not be done, or looked at."""
    provider, reason = target.credentials.client_class.provider, str(error) or type(error).__name__
    return FleetRow(
        provider=provider, endpoint=target.endpoint, deployment=deployment_id, action="failed", reason=reason
    )


async def each(
    target: DeploymentTarget, do: Callable[[Deployment], Awaitable[FleetRow]], deployments: Iterable[Deployment]
) -> list[FleetRow]:
    """Do something to several deployments at once; returns their rows, by id."""

    async def one(deployment: Deployment) -> FleetRow:
        try:
            return await do(deployment)
        except ModelDeployError as error:
            return row_of_failed(target, error, deployment.id)

    return await at_once(one, sorted(deployments, key=lambda deployment: deployment.id))


async def at_once(do: Callable[[Deployment], Awaitable[R]], deployments: Iterable[Deployment]) -> list[R]:
    """Do something to several deployments, to `AT_ONCE` of them at a time; returns the results in order."""
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def one(deployment: Deployment) -> R:
        async with limit:
            return await do(deployment)

    return await asyncio.gather(*(one(deployment) for deployment in deployments))
