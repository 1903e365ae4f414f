"""Waiting at Baseten, by its own rules of what is late, what is idle and what has failed."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import anyio

from prefect_modeldeploy.deployments import Deployment, DeploymentStatus
from prefect_modeldeploy.errors import DeploymentFailed, WaitTimeout
from prefect_modeldeploy.providers.baseten.words import IN_PROGRESS, NO_CAPACITY


async def waiting(
    look: Callable[[], Awaitable[dict[str, Deployment]]],
    deployment_ids: Collection[str],
    until: Callable[[Deployment], bool],
    visible_seconds: float,
    timeout_seconds: float,
) -> AsyncIterator[list[Deployment]]:
    """Look until `until` holds for all of them, and yield what was seen; see `BasetenClient.wait`.

    Args:
        look: All deployments that can be seen, by id.
        deployment_ids: Those that are waited for.
        until: What is waited for.
        visible_seconds: For how long one may be missing, or be INACTIVE before it starts.
        timeout_seconds: When to give up.
    """
    started, interval, starting = time.monotonic(), 0.1, set[str]()
    while True:
        seen = await look()
        waited = time.monotonic() - started
        missing = [one for one in deployment_ids if one not in seen]
        if missing and waited > visible_seconds:
            raise DeploymentFailed(missing[0], "there is no such deployment")
        for found in (seen[one] for one in deployment_ids if one in seen):
            _check_alive(found, until, was_starting=found.id in starting or waited > visible_seconds)
            if found.provider_status in IN_PROGRESS:
                starting.add(found.id)
        if not missing:
            deployments = [seen[one] for one in deployment_ids]
            yield deployments
            if all(until(one) for one in deployments):
                return
        if waited + interval > timeout_seconds:
            states = {one: seen[one].status.value if one in seen else "not found" for one in deployment_ids}
            raise WaitTimeout(f"after {timeout_seconds:g} s still {states}; raise timeout_seconds, or read the logs")
        await anyio.sleep(interval)
        interval = min(5.0, interval * 1.3)


def _check_alive(found: Deployment, until: Callable[[Deployment], bool], *, was_starting: bool) -> None:
    if until(found):
        return
    if found.status is DeploymentStatus.FAILED:
        raise DeploymentFailed(found.id, found.reason or found.provider_status)
    if found.status is DeploymentStatus.STOPPED and was_starting:
        raise DeploymentFailed(found.id, NO_CAPACITY)
