"""Scale to zero on a schedule, and wake up in time. Two flows: a direction is never a schedule's parameter."""

from typing import Literal

from prefect import flow

from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import ModelDeployError, UnsupportedOperation
from prefect_modeldeploy.flows._fleet import for_each, tell
from prefect_modeldeploy.flows._parameters import Seconds, Targets
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._rows import FleetRow, row_of_failed
from prefect_modeldeploy.tasks.fleet import ascale_target_to_zero
from prefect_modeldeploy.tasks.waiting import await_until_ready
from prefect_modeldeploy.tasks.waking import asettle_target, awake_target


@flow(name="scale-to-zero")
async def scale_to_zero(
    targets: Targets,
    only_if_idle_seconds: Seconds | None = 300.0,
    on_no_wake: Literal["refuse", "stop"] = "refuse",
    dry_run: bool = False,
    exclude: list[str] | None = None,
) -> list[FleetRow]:
    """Let go of all replicas of idle models; the next request wakes them. Never touches a rollout in flight.

    Idle is what the provider measures, and what the target's gateway has seen of it; where neither knows, a deployment
    is kept. The former settings are remembered, and `wake-up` puts back exactly those.

    Args:
        targets: Deployment Target blocks, or names of saved ones.
        only_if_idle_seconds: Only models without a request for so many seconds. None: busy ones too.
        on_no_wake: Where a provider cannot wake by itself: refuse, or stop the model until wake-up starts it.
        dry_run: Only say what would be done.
        exclude: Names, ids, environments, labels (team=risk; Local, Docker, Baseten, Scale V5) to keep; * and ? match.

    Returns:
        One row per deployment: what was done, or why not. Also a table artifact.

    Raises:
        UnsupportedOperation: A provider cannot wake, and `on_no_wake` is `refuse`. Nothing was changed.
        FleetError: Some deployments could not be done; the others were.
    """
    resolved = [await DeploymentTarget.resolve(target) for target in targets]
    for target in resolved:
        _check_that_it_wakes(target, on_no_wake)

    async def zero(target: DeploymentTarget) -> list[FleetRow]:
        return await ascale_target_to_zero(
            target,
            only_if_idle_seconds,
            stop=not target.credentials.can(Capability.SCALE_TO_ZERO),
            dry_run=dry_run,
            exclude=exclude or [],
        )

    return await tell("scale-to-zero", await for_each(resolved, zero))


@flow(name="wake-up")
async def wake_up(targets: Targets, wait_until_ready: bool = True, timeout_seconds: Seconds = 600.0) -> list[FleetRow]:
    """Wake the models that `scale-to-zero` let go, with their former settings, and wait until they can take traffic.

    Schedule it ahead of the hour by as long as the slowest model takes to wake.

    Args:
        targets: Deployment Target blocks, or names of saved ones.
        wait_until_ready: Wait until all of them are ready.
        timeout_seconds: Seconds to wait at most.

    Returns:
        One row per deployment, with what was saved since it was let go. Also a table artifact.

    Raises:
        FleetError: Some deployments could not be done, or are not ready in time; the others were.
    """

    async def wake(target: DeploymentTarget) -> list[FleetRow]:
        rows = await awake_target(target)
        woken = [row.deployment for row in rows if row.action == "woken"]
        if wait_until_ready and woken:
            try:
                await await_until_ready(target, woken, timeout_seconds=timeout_seconds)
            except ModelDeployError as error:
                rows.append(row_of_failed(target, error))
        return rows + await asettle_target(target, rows)

    resolved = [await DeploymentTarget.resolve(target) for target in targets]
    return await tell("wake-up", await for_each(resolved, wake))


def _check_that_it_wakes(target: DeploymentTarget, on_no_wake: str) -> None:
    """Raise UnsupportedOperation where the provider has only a stop, and that was not allowed."""
    if on_no_wake == "refuse" and not target.credentials.can(Capability.SCALE_TO_ZERO):
        raise UnsupportedOperation(
            target.credentials.client_class.provider,
            Capability.SCALE_TO_ZERO,
            f"{target.endpoint} would stay down until it is started; on_no_wake='stop' allows that",
        )
