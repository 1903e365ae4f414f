"""What the vendor's signs mean. It has no word for a deployment's state; its own tools read these signs, in this order.

| signs on the *latest* spec version            | word          | status   | ready | may receive traffic             |
|-----------------------------------------------|---------------|----------|-------|---------------------------------|
| no latest spec ("null if invalid")            | `invalid`     | UNKNOWN  | no    | no                              |
| `error`, not healthy                          | `error`       | FAILED   | no    | no                              |
| disabled, `externalApplied` null              | `disabling`   | STOPPING | no    | no                              |
| disabled, runs left                           | `disabling`   | STOPPING | no    | no                              |
| disabled, applied                             | `disabled`    | STOPPED  | no    | no: nothing wakes it            |
| `dtHealthy`, all replicas ready               | `healthy`     | READY    | yes   | yes                             |
| `dtHealthy`, some replicas ready              | `healthy`     | DEGRADED | yes   | yes                             |
| `dtHealthy`, no replica ready                 | `healthy`     | DEGRADED | no    | no                              |
| an instance errored or failed, grace is over  | its `state`   | FAILED   | no    | no                              |
| a former version's pods are ready             | `updating`    | UPDATING | no    | unknown whether they still do   |
| `externalApplied`                             | `applied`     | STARTING | no    | no                              |
| nothing yet                                   | `submitted`   | PENDING  | no    | no                              |

Disabled is `enabled: false`, or `replicas: 0`. `dtHealthy` belongs to one spec version: after an upsert the former
version's says nothing (replica counts alone misled the vendor's own CLI: Paperspace/cli pull 31). An instance that
errored is started again, so that the vendor's CLI waits 5 minutes before it believes it. GraphQL has no `dtHealthy`:
there a version is healthy when all replicas of its own run are ready.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_modeldeploy.deployments import DeploymentStatus, Replicas
from prefect_modeldeploy.providers.gradient.answers import Instance, Run, SpecVersion
from prefect_modeldeploy.providers.gradient.spec import Config

GRACE_SECONDS = 300.0
"""How long an errored instance may still come up: the vendor's CLI waits as long."""

BROKEN = frozenset({"errored", "failed"})
"""States of an instance that does not come up."""


@dataclass(frozen=True, slots=True)
class State:
    """One row of the table."""

    status: DeploymentStatus
    word: str
    ready: bool = False
    reason: str | None = None


def disabled(config: Config) -> bool:
    """Whether a spec asks for no replicas at all. An absent `enabled` is true, an absent `replicas` is 1."""
    resources = config.get("resources")
    replicas = resources.get("replicas", 1) if isinstance(resources, dict) else 1
    return config.get("enabled") is False or replicas == 0


def state_of(version: SpecVersion | None, runs: Sequence[Run] | None, *, grace_seconds: float = GRACE_SECONDS) -> State:
    """Read the signs.

    Args:
        version: The latest spec version.
        runs: The deployment's active runs; None when nobody asked.
        grace_seconds: How long after `externalApplied` an errored instance is not yet a failure.
    """
    if version is None or version.data is None:
        return State(DeploymentStatus.UNKNOWN, "invalid", reason="the vendor shows no valid spec")
    if version.error and not version.dt_healthy:
        return State(DeploymentStatus.FAILED, "error", reason=version.error)
    if disabled(version.data):
        gone = version.external_applied is not None and not (runs and any(run.instances for run in runs))
        return State(DeploymentStatus.STOPPED, "disabled") if gone else State(DeploymentStatus.STOPPING, "disabling")
    own = version.runs if version.runs is not None else runs
    if _healthy(version):
        return _serving(own)
    broken = _broken(own)
    reason = f"{broken.state or broken.phase}: {broken.state_message or 'the vendor says no more'}" if broken else None
    if broken and age_seconds(version.external_applied) >= grace_seconds:
        return State(DeploymentStatus.FAILED, broken.state or str(broken.phase), reason=reason)
    if any(run.ready_replicas for run in runs or ()):
        return State(DeploymentStatus.UPDATING, "updating", reason=reason)
    if version.external_applied:
        return State(DeploymentStatus.STARTING, "applied", reason=reason)
    return State(DeploymentStatus.PENDING, "submitted", reason=reason)


def replicas_of(version: SpecVersion | None, runs: Sequence[Run] | None) -> Replicas:
    """Replicas over all active runs; without runs only how many are wanted."""
    wanted = wanted_replicas(version.data) if version is not None and version.data is not None else None
    own = runs if runs is not None else (version.runs if version is not None else None)
    if own is None:
        return Replicas(desired=wanted)
    return Replicas(
        ready=sum(run.ready_replicas for run in own),
        running=sum(len(run.instances) or run.replicas for run in own),
        desired=max([wanted or 0, *(run.replicas for run in own)]) if wanted else wanted,
    )


def wanted_replicas(config: Config) -> int:
    """How many replicas a spec asks for at least."""
    if disabled(config):
        return 0
    resources = config.get("resources")
    return int(resources.get("replicas") or 1) if isinstance(resources, dict) else 1


def age_seconds(since: datetime | None) -> float:
    """Seconds since then; minus infinity when it has not happened."""
    if since is None:
        return float("-inf")
    return (datetime.now(UTC) - (since if since.tzinfo else since.replace(tzinfo=UTC))).total_seconds()


def _healthy(version: SpecVersion) -> bool:
    if version.runs is None:
        return version.dt_healthy is not None
    return any(0 < run.replicas <= run.ready_replicas for run in version.runs)


def _serving(runs: Sequence[Run] | None) -> State:
    if runs is None:
        return State(DeploymentStatus.READY, "healthy", ready=True)
    ready, wanted = sum(run.ready_replicas for run in runs), sum(run.replicas for run in runs)
    if ready and ready >= wanted:
        return State(DeploymentStatus.READY, "healthy", ready=True)
    broken = _broken(runs)
    said = f": {broken.state_message}" if broken and broken.state_message else ""
    return State(DeploymentStatus.DEGRADED, "healthy", ready > 0, f"{ready} of {wanted} replicas are ready{said}")


def _broken(runs: Sequence[Run] | None) -> Instance | None:
    instances = [instance for run in runs or () for instance in run.instances]
    return next((i for i in instances if i.state in BROKEN or (not i.state and i.phase == "Failed")), None)
