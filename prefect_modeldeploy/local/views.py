"""A deployment as others see it: our vocabulary, from what is wanted and what runs."""

from datetime import datetime

from prefect_modeldeploy.deployments import Deployment, DeploymentStatus, Replicas, tags_of
from prefect_modeldeploy.local.keeper import Keeper
from prefect_modeldeploy.local.replicas import Phase
from prefect_modeldeploy.local.store import Mode


def status_of(keeper: Keeper) -> DeploymentStatus:
    """One word for what the deployment is doing. A failed update is FAILED even while the old version serves on.

    READY is said only when the proxy, too, sends requests to every replica, and none to a former version's.
    """
    record, replicas = keeper.record, keeper.replicas.values()
    if record.mode in (Mode.STOPPED, Mode.DELETING):
        return DeploymentStatus.STOPPING if replicas or record.mode is Mode.DELETING else DeploymentStatus.STOPPED
    current = [replica for replica in replicas if replica.record.generation == record.generation]
    serving = keeper.serving_replicas()
    ready = sum(replica in serving for replica in current)
    if record.failure is not None:
        return DeploymentStatus.DEGRADED if ready else DeploymentStatus.FAILED
    if record.mode is Mode.ZERO:
        return DeploymentStatus.STOPPING if replicas else DeploymentStatus.SCALED_TO_ZERO
    if any(r.phase is Phase.READY or keeper.gets_requests(r) for r in replicas if r not in current):
        return DeploymentStatus.UPDATING
    if ready >= record.replicas:
        return DeploymentStatus.READY
    if keeper.troubles.count:
        return DeploymentStatus.DEGRADED
    if ready:
        return DeploymentStatus.UPDATING
    if keeper.waking:
        return DeploymentStatus.WAKING
    started = any(replica.record.pid for replica in current)
    return DeploymentStatus.STARTING if started else DeploymentStatus.PENDING


def deployment_of(keeper: Keeper, gateway_url: str) -> Deployment:
    """What the control API answers."""
    record, ready = keeper.record, keeper.serving_replicas()
    status = status_of(keeper)
    return Deployment(
        provider="local",
        id=record.id,
        name=record.spec.name,
        model_id=record.spec.model,
        version=record.spec.version,
        environment=record.spec.environment,
        tags=tags_of(record.spec.options.get("labels")),
        status=status,
        provider_status=_native_word(keeper),
        reason=record.failure or (None if status is DeploymentStatus.READY else keeper.troubles.reason),
        ready=bool(ready) and record.mode is Mode.RUNNING,
        answers=status is DeploymentStatus.WAKING,  # held until it is up
        replicas=Replicas(
            ready=len(ready),
            running=sum(replica.record.pid > 0 for replica in keeper.replicas.values()),
            desired=record.replicas if record.mode is Mode.RUNNING else 0,
        ),
        autoscaling=record.spec.autoscaling,
        resources=record.spec.resources,
        endpoint_url=f"{gateway_url}/-/{record.id}",
        created_at=datetime.fromisoformat(record.created_at),
        updated_at=datetime.fromisoformat(record.updated_at),
        raw={
            "spec": record.spec.model_dump(mode="json"),
            "mode": record.mode.value,
            "generation": record.generation,
            "proven_generation": record.proven,
            "failures": keeper.troubles.count,
            "replicas": [
                {
                    "name": replica.record.name,
                    "generation": replica.record.generation,
                    "pid": replica.record.pid,
                    "port": replica.record.port,
                    "phase": replica.phase.value,
                }
                for replica in keeper.replicas.values()
            ],
        },
    )


def _native_word(keeper: Keeper) -> str:
    phases = {replica.phase for replica in keeper.replicas.values()}
    if keeper.record.mode is not Mode.RUNNING and Phase.DRAINING in phases:
        return "draining"
    return "failed" if keeper.record.failure is not None else keeper.record.mode.value


def takes_traffic(keeper: Keeper) -> bool:
    """True if weight may be given to it: it serves, or it has served and comes back by itself."""
    record = keeper.record
    if record.mode is Mode.RUNNING and keeper.serving_replicas():
        return True
    return keeper.wakes and record.proven == record.generation
