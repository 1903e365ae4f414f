"""The normative table: Fiddler's words -> status, ready, may receive traffic.

Fiddler has no word for the state of a deployment: it follows from `active` and from the last job.

| active       | last job                                    | status   | ready | may receive traffic |
|--------------|---------------------------------------------|----------|-------|---------------------|
| true         | SUCCESS, or none known                      | READY    | yes   | yes                 |
| true         | PENDING, STARTED, RETRY: of a deploy        | BUILDING | no    | no                  |
| true         | PENDING, STARTED, RETRY: of a start         | STARTING | no    | no                  |
| true         | PENDING, STARTED, RETRY: of anything else   | UPDATING | no    | no                  |
| false        | SUCCESS, or none known                      | STOPPED  | no    | no                  |
| false        | PENDING, STARTED, RETRY: of a MANUAL deploy | BUILDING | no    | no                  |
| false        | PENDING, STARTED, RETRY: of a stop, unknown | STOPPING | no    | no                  |
| false        | PENDING, STARTED, RETRY: of a change        | UPDATING | no    | no                  |
| none yet     | PENDING, STARTED, RETRY                     | BUILDING | no    | no                  |
| none yet     | SUCCESS                                     | PENDING  | no    | no                  |
| any          | FAILURE, REVOKED                            | FAILED   | no    | no                  |
| any          | any other word                              | UNKNOWN  | no    | no                  |
| not readable | any but FAILURE, REVOKED                    | UNKNOWN  | no    | no                  |

`active=false` is STOPPED, not SCALED_TO_ZERO: no request wakes it. REVOKED is a failure, although the official client
takes it for success.
"""

from dataclasses import dataclass

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.providers.fiddler.notes import Doing
from prefect_modeldeploy.providers.fiddler.wire import Job, JobStatus

_RUNNING_ACTIVE = {"deploy": DeploymentStatus.BUILDING, "start": DeploymentStatus.STARTING}
_RUNNING_INACTIVE = {"deploy": DeploymentStatus.BUILDING, "change": DeploymentStatus.UPDATING}


@dataclass(frozen=True, slots=True)
class Condition:
    """A row of the table, for one deployment."""

    status: DeploymentStatus
    word: str
    reason: str | None = None

    @property
    def ready(self) -> bool:
        """Whether it can take traffic."""
        return self.status is DeploymentStatus.READY


def condition(active: bool | None, job: Job | None, doing: Doing | None = None, *, there: bool = True) -> Condition:
    """Look the state up.

    Args:
        active: Of the deployment; None when it cannot be read.
        job: The last job, if one is known.
        doing: What that job is for, if we know.
        there: False when there is no deployment yet.
    """
    word = {None: "?", True: "ACTIVE", False: "INACTIVE"}[active] if there else "NOT DEPLOYED"
    if job is not None:
        word = f"{word}, job {job.status}"
        if job.failed:
            return Condition(DeploymentStatus.FAILED, word, job.reason)
        if job.running and (active is not None or not there):
            return Condition(_running(active, doing), word)
        if job.status != JobStatus.SUCCESS:
            return Condition(DeploymentStatus.UNKNOWN, word)
    if not there:
        return Condition(DeploymentStatus.PENDING, word)
    at_rest = {None: DeploymentStatus.UNKNOWN, True: DeploymentStatus.READY, False: DeploymentStatus.STOPPED}
    return Condition(at_rest[active], word)


def _running(active: bool | None, doing: Doing | None) -> DeploymentStatus:
    if active is None:
        return DeploymentStatus.BUILDING
    if active:
        return _RUNNING_ACTIVE.get(doing or "", DeploymentStatus.UPDATING)
    return _RUNNING_INACTIVE.get(doing or "", DeploymentStatus.STOPPING)
