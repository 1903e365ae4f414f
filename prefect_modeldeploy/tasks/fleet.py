"""Scale to zero and wake: one task run per target, whatever the number of its deployments."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import anyio
from prefect.variables import Variable
from pydantic import BaseModel, ConfigDict

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentStatus
from prefect_modeldeploy.errors import ModelDeployError, NotFound
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.target import DeploymentTarget, client_of, router_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._pair import pair

AT_ONCE = 8
"""Calls in flight to one provider."""

_AT_REST = frozenset(
    {DeploymentStatus.SCALED_TO_ZERO, DeploymentStatus.STOPPED, DeploymentStatus.STOPPING, DeploymentStatus.DELETED}
)


class FleetRow(BaseModel):
    """What became of one deployment."""

    model_config = ConfigDict(frozen=True)

    provider: str
    endpoint: str
    deployment: str
    action: Literal["scaled_to_zero", "stopped", "woken", "kept", "failed"]
    reason: str
    replicas: int = 0
    """Replicas that ran before."""
    dry_run: bool = False


async def _ascale_target_to_zero(
    target: DeploymentTarget | str, only_if_idle_seconds: float | None = None, stop: bool = False, dry_run: bool = False
) -> list[FleetRow]:
    """Let go of the replicas of a target's deployments, unless they are busy or a rollout is in flight.

    Args:
        target: Block, or name of a saved one.
        only_if_idle_seconds: Only those without a request for so many seconds. None: busy ones too.
        stop: Stop them where the provider has no zero that wakes.
        dry_run: Only say what would be done.

    Returns:
        One row per deployment; a deployment that failed does not keep the others from being done.
    """
    target = await DeploymentTarget.resolve(target)
    record = await _journal.load(target.endpoint)
    async with client_of(target) as client:
        found = await client.find(model=target.model)
        if record is not None and record.phase is not Phase.ENDED and record.canary in {d.id for d in found}:
            return [_row(target, d, "kept", f"a rollout is in flight, at {record.phase}") for d in found]
        zero = _Zero(target, client, only_if_idle_seconds, stop=stop, dry_run=dry_run)
        if dry_run:
            return await _each(zero, found)
        noted = await _let_go(target)
        # Before, so that a run which dies loses nothing; and after, without those that were kept.
        await _note(target, noted | {d.id for d in found if d.status not in _AT_REST})
        rows = await _each(zero, found)
        await _note(target, noted | {row.deployment for row in rows if row.action in ("scaled_to_zero", "stopped")})
        return rows


class _Zero:
    def __init__(
        self, target: DeploymentTarget, client: ServingClient, idle: float | None, *, stop: bool, dry_run: bool
    ) -> None:
        self._target, self._client, self._idle, self._stop, self._dry_run = target, client, idle, stop, dry_run

    async def __call__(self, deployment: Deployment) -> FleetRow:
        if deployment.status in _AT_REST:
            return _row(self._target, deployment, "kept", f"is {deployment.status} already")
        busy = await self._busy(deployment)
        if busy:
            return _row(self._target, deployment, "kept", busy)
        action: Literal["scaled_to_zero", "stopped"] = "stopped" if self._stop else "scaled_to_zero"
        if self._dry_run:
            return _row(self._target, deployment, action, "dry run: nothing was changed", dry_run=True)
        try:
            await (self._client.stop if self._stop else self._client.scale_to_zero)(deployment.id)
        except ModelDeployError as error:
            return _row(self._target, deployment, "failed", str(error))
        return _row(self._target, deployment, action, "idle" if self._idle else "asked for")

    async def _busy(self, deployment: Deployment) -> str | None:
        if self._idle is None:
            return None
        known = self._client.can(Capability.METRICS)
        idle = await self._client.idle_seconds(deployment.id) if known else None
        if idle is None:
            return "nobody knows how long it has been idle"
        return f"had a request {idle:.0f} s ago" if idle < self._idle else None


async def _awake_target(target: DeploymentTarget | str) -> list[FleetRow]:
    """Start the deployments at rest that a target's endpoint routes to, without waiting for them.

    Where nothing routes: those that have the target's role, and those that `scale_target_to_zero` let go.

    Args:
        target: Block, or name of a saved one.
    """
    target = await DeploymentTarget.resolve(target)
    async with client_of(target) as client:
        found = await client.find(model=target.model)
        routed = await _routed(target)
        noted = await _let_go(target)

        def is_wanted(deployment: Deployment) -> bool:
            if routed is not None:
                return deployment.id in routed
            return deployment.id in noted or deployment.environment == target.environment

        async def wake(deployment: Deployment) -> FleetRow:
            match deployment.status:
                case DeploymentStatus.SCALED_TO_ZERO:
                    await client.wake(deployment.id)
                case DeploymentStatus.STOPPED:
                    await client.start(deployment.id)
                case _:
                    return _row(target, deployment, "kept", f"is {deployment.status}")
            return _row(target, deployment, "woken", f"was {deployment.status}")

        rows = await _each(wake, filter(is_wanted, found))
        await _note(target, set())
        return rows


async def _routed(target: DeploymentTarget) -> set[str] | None:
    """Ids of the deployments that the endpoint sends requests to; None where nothing splits traffic."""
    if not target.splits:
        return None
    async with router_of(target) as (router, name):
        try:
            endpoint = await router.get_endpoint(name)
        except NotFound:
            return set()
    return {arm.upstream for arm in endpoint.arms if arm.weight > 0}


async def _let_go(target: DeploymentTarget) -> set[str]:
    """Ids of the deployments that scale to zero let go since the last wake."""
    found = await Variable.aget(_variable(target))
    return {str(id) for id in found} if isinstance(found, list) else set()


async def _note(target: DeploymentTarget, ids: set[str]) -> None:
    if ids != await _let_go(target):
        await Variable.aset(_variable(target), sorted(ids), tags=["modeldeploy"], overwrite=True)


def _variable(target: DeploymentTarget) -> str:
    return f"modeldeploy_let_go__{target.endpoint}"


async def _each(do: Callable[[Deployment], Awaitable[FleetRow]], deployments: Iterable[Deployment]) -> list[FleetRow]:
    limit = anyio.CapacityLimiter(AT_ONCE)
    rows: dict[str, FleetRow] = {}

    async def one(deployment: Deployment) -> None:
        async with limit:
            rows[deployment.id] = await do(deployment)

    async with anyio.create_task_group() as group:
        for deployment in deployments:
            group.start_soon(one, deployment)
    return [rows[id] for id in sorted(rows)]


def _row(
    target: DeploymentTarget,
    deployment: Deployment,
    action: Literal["scaled_to_zero", "stopped", "woken", "kept", "failed"],
    reason: str,
    *,
    dry_run: bool = False,
) -> FleetRow:
    return FleetRow(
        provider=deployment.provider,
        endpoint=target.endpoint,
        deployment=deployment.id,
        action=action,
        reason=reason,
        replicas=deployment.replicas.running,
        dry_run=dry_run,
    )


scale_target_to_zero, ascale_target_to_zero = pair(_ascale_target_to_zero)
wake_target, awake_target = pair(_awake_target)
