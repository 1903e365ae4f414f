"""What is around the deployments of a target: who routes to them, which rollouts go on, how idle and dear they are."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_modeldeploy.deployments import Capability, Deployment
from prefect_modeldeploy.errors import ModelDeployError, NotFound
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.target import DeploymentTarget, router_of
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._notes import variables
from prefect_modeldeploy.traffic.endpoint import Endpoint


@dataclass(frozen=True)
class Surroundings:
    """What there was at one moment."""

    endpoints: Sequence[Endpoint]
    """All endpoints of the target's gateway; where the provider splits the traffic, the target's own."""
    records: Sequence[RolloutRecord]
    """The latest rollout of each endpoint whose deployments can be where the target's are, whoever routes to them."""
    complete: bool = True
    """Whether a deployment that none of these endpoints routes to gets no requests: all go through one gateway."""

    def routes(self, deployment_id: str) -> str | None:
        """Which endpoints have a deployment among their arms, whatever its weight; None: no endpoint."""
        routes = [
            f"{endpoint.name}: {arm.name} {arm.weight:g} %" + (", shadow" if _shadows(endpoint, arm.name) else "")
            for endpoint in self.endpoints
            for arm in endpoint.arms
            if arm.upstream == deployment_id
        ]
        return "; ".join(routes) or None

    def serves(self, deployment_id: str) -> bool:
        """Whether an endpoint sends requests to a deployment."""
        return any(arm.upstream == deployment_id and arm.weight > 0 for e in self.endpoints for arm in e.arms)

    def rollout(self, deployment: Deployment) -> str | None:
        """The rollout in flight (or held) that names a deployment, in words; None: no rollout."""
        for record in self.records:
            if is_open(record) and not named_by(record).isdisjoint({deployment.id, deployment.name}):
                return f"{record.endpoint} has a rollout {'on hold' if record.ended_at else f'at {record.phase}'}"
        return None


async def look_around(target: DeploymentTarget) -> Surroundings:
    """See what is around a target's deployments.

    Raises:
        RolloutError: The record of a rollout here cannot be read, so that nobody knows what it holds.
    """
    endpoints, complete = await _endpoints(target)
    records = await _rollouts(target, {target.endpoint, *(endpoint.name for endpoint in endpoints)})
    return Surroundings(endpoints, records, complete)


async def _rollouts(target: DeploymentTarget, here: Collection[str]) -> list[RolloutRecord]:
    """The rollouts of the endpoints here, and of all others: their deployments may be the same."""
    needed, place = {_journal.variable_name(name) for name in here}, await target.credentials.place()
    found = list[RolloutRecord]()
    for name, saved in (await variables(_journal.variable_name(""))).items():
        try:
            record = _journal.read(name, saved)
            if may_be_at(record, place):
                found.append(await _journal.settled(record))
        except _journal.Unreadable as error:
            if name in needed:
                raise
            target.credentials.logger.warning("%s", error)
    return found


async def routes_to(target: DeploymentTarget, deployment_id: str) -> str | None:
    """The same as `Surroundings.routes`, without a look at any rollout."""
    endpoints, _ = await _endpoints(target)
    return Surroundings(endpoints, ()).routes(deployment_id)


async def idle_seconds(target: DeploymentTarget, client: ServingClient, deployment: Deployment) -> float | None:
    """Seconds without a request, as the provider or the target's gateway has seen; None when neither knows.

    Where there never was a request: since they watch for one. Nothing is idle for longer than it exists.
    """
    seen = [await client.idle_seconds(deployment.id)] if client.can(Capability.METRICS) else []
    if target.gateway is not None and client.provider != "local":
        async with target.gateway.get_client() as node:
            with suppress(NotFound):  # the gateway does not route to it
                seen.append(await node.arm_idle_seconds(deployment.id))
    known = [seconds for seconds in seen if seconds is not None]
    if known and deployment.created_at is not None:
        known.append(max(0.0, (datetime.now(UTC) - deployment.created_at).total_seconds()))
    return min(known, default=None)


async def prices(
    target: DeploymentTarget, client: ServingClient, deployments: Iterable[Deployment]
) -> Mapping[str, float]:
    """Price of one replica hour by deployment, as far as it is known: what the target says, else the provider."""
    if target.price_per_replica_hour is not None:
        return {deployment.id: target.price_per_replica_hour for deployment in deployments}
    try:
        return await client.prices_per_replica_hour(list(deployments))
    except ModelDeployError as error:
        target.credentials.logger.warning("%s: prices are unknown: %s", target.endpoint, error)
        return {}


def replicas_of(deployment: Deployment) -> int:
    """How many replicas run; where the provider does not tell, how many must. 0 when nobody knows."""
    replicas, autoscaling = deployment.replicas, deployment.autoscaling
    return replicas.running or replicas.desired or (autoscaling.min_replicas if autoscaling else 0) or 0


def is_open(record: RolloutRecord) -> bool:
    """Whether a rollout goes on, or waits for a person while both versions serve."""
    return record.phase is not Phase.ENDED or record.outcome == "held"


def may_be_at(record: RolloutRecord, place: str) -> bool:
    """Whether deployments of a rollout can be at a place. Elsewhere, the same id is of something else."""
    return not (place and record.places) or place in record.places


def named_by(record: RolloutRecord) -> set[str | None]:
    """The deployments that a rollout is about: ids, but for the name of a canary that is being created."""
    return {record.stable, record.canary, record.serving}


async def _endpoints(target: DeploymentTarget) -> tuple[list[Endpoint], bool]:
    if not target.splits:
        return [], False
    async with router_of(target) as (router, name):
        if isinstance(router, NodeClient):
            return await router.list_endpoints(), True
        try:
            return [await router.get_endpoint(name)], False
        except NotFound:
            return [], False


def _shadows(endpoint: Endpoint, arm: str) -> bool:
    return endpoint.shadow is not None and endpoint.shadow.arm == arm
