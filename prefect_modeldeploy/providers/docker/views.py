"""The containers of a deployment as one `Deployment`.

A container's state, from Docker's word and the health check:

| Docker's word        | and                                         | state      | may receive traffic |
|----------------------|---------------------------------------------|------------|---------------------|
| created              | (JOINING, if it was added to others)        | PENDING    | no                  |
| created, exited      | with an error: its start failed             | FAILED     | no                  |
| running              | the health check answers 2xx                | READY      | yes                 |
| running              | it does not, for `start_seconds` or less    | STARTING   | no (or JOINING)     |
| running              | it does not, for longer                     | FAILED     | no                  |
| running, restarting  | not ready, and it has crashed once or twice | RECOVERING | no                  |
| running, restarting  | not ready, and it has crashed more often    | FAILED     | no                  |
| exited               | somebody stopped it                         | STOPPED    | no                  |
| dead                 |                                             | FAILED     | no                  |
| removing             |                                             | STOPPING   | no                  |
| paused, other words  |                                             | UNKNOWN    | no                  |

The deployment is what all its replicas are (JOINING and RECOVERING: STARTING). If they differ: STARTING while one
starts that was there from the beginning; else UPDATING if some are ready and others join, DEGRADED if some are ready,
FAILED if one failed. UPDATING is also a deployment that is ready while a second generation is there.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from prefect_modeldeploy.deployments import Deployment, DeploymentStatus, Replicas, tags_of
from prefect_modeldeploy.providers.docker.containers import Container, State, serving
from prefect_modeldeploy.providers.docker.engine import PROVIDER, Inspected

_SAME = {
    State.PENDING: DeploymentStatus.PENDING,
    State.STARTING: DeploymentStatus.STARTING,
    State.JOINING: DeploymentStatus.STARTING,
    State.RECOVERING: DeploymentStatus.STARTING,
    State.READY: DeploymentStatus.READY,
    State.FAILED: DeploymentStatus.FAILED,
    State.STOPPED: DeploymentStatus.STOPPED,
    State.STOPPING: DeploymentStatus.STOPPING,
    State.UNKNOWN: DeploymentStatus.UNKNOWN,
}


def status_of(states: Collection[State]) -> DeploymentStatus:
    """What replicas in these states are together."""
    if len(set(states)) == 1:
        return _SAME[next(iter(states))]
    if State.STARTING in states or State.PENDING in states:
        return DeploymentStatus.STARTING
    if State.READY in states:
        return DeploymentStatus.UPDATING if set(states) == {State.READY, State.JOINING} else DeploymentStatus.DEGRADED
    return _SAME[
        next((state for state in (State.RECOVERING, State.JOINING, State.FAILED) if state in states), State.UNKNOWN)
    ]


def deployment_of(containers: Sequence[Container], address: str, reason: str | None) -> Deployment:
    """The view of one deployment.

    Args:
        containers: All that it has, of every generation.
        address: Host name or IP address at which their ports are reached.
        reason: Why one of them failed.
    """
    active = serving(containers)
    spec, states = active[-1].spec, [one.state for one in active]
    status = status_of(states)
    if status is DeploymentStatus.READY and len(active) < len(containers):
        status = DeploymentStatus.UPDATING
        reason = reason or "an update was begun: until it ends, or is done again, this generation serves"
    ready = [one for one in active if one.state is State.READY]
    serves = status in (DeploymentStatus.READY, DeploymentStatus.UPDATING, DeploymentStatus.DEGRADED)
    return Deployment(
        provider=PROVIDER,
        id=spec.name,
        name=spec.name,
        model_id=spec.model,
        version=spec.version,
        environment=spec.environment,
        tags=tags_of(spec.options.get("labels")),
        status=status,
        provider_status=", ".join(sorted({one.word for one in active})),
        reason=reason,
        ready=serves,
        replicas=Replicas(ready=len(ready), running=sum(one.runs for one in active), desired=len(active)),
        autoscaling=spec.autoscaling
        and spec.autoscaling.model_copy(update={"min_replicas": len(active), "max_replicas": len(active)}),
        resources=spec.resources,
        endpoint_url=f"http://{address}:{(ready or active)[0].port}",
        created_at=datetime.fromisoformat(active[0].birth.created),
        updated_at=max(_time(one.shown["Created"]) for one in active),
        raw={
            "addresses": [f"{address}:{one.port}" for one in active],
            "serving": [_without_values(one.shown) for one in active],
            "others": [_without_values(one.shown) for one in containers if one not in active],
        },
    )


def _time(text: str) -> datetime:
    """Docker's stamps have nanoseconds, which Python's have not."""
    return datetime.fromisoformat(f"{text.partition('.')[0].rstrip('Z')}+00:00")


def _without_values(shown: Inspected) -> dict[str, Any]:
    """The environment by its names only: it holds secrets."""
    names = [entry.partition("=")[0] for entry in shown["Config"].get("Env") or ()]
    return {**shown, "Config": {**shown["Config"], "Env": names}}
