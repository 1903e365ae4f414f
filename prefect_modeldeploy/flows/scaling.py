"""Scale to zero on a schedule, and wake up in time. Two flows: a direction is never a schedule's parameter."""

import asyncio
from typing import Literal

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_run_logger

from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import UnsupportedOperation
from prefect_modeldeploy.target import BlockName, DeploymentTarget
from prefect_modeldeploy.tasks.fleet import FleetRow, ascale_target_to_zero, awake_target
from prefect_modeldeploy.tasks.waiting import await_until_ready

Targets = list[DeploymentTarget | BlockName]


@flow(name="scale-to-zero")
async def scale_to_zero(
    targets: Targets,
    only_if_idle_seconds: float | None = 300.0,
    on_no_wake: Literal["refuse", "stop"] = "refuse",
    dry_run: bool = False,
) -> list[FleetRow]:
    """Let go of all replicas of idle models; the next request wakes them. Never touches a rollout in flight.

    Args:
        targets: Deployment Target blocks, or names of saved ones.
        only_if_idle_seconds: Only models without a request for so many seconds. None: busy ones too.
        on_no_wake: Where a provider cannot wake by itself: refuse, or stop the model until `wake-up` starts it.
        dry_run: Only say what would be done.

    Returns:
        One row per deployment: what was done, or why not. Also a table artifact.

    Raises:
        UnsupportedOperation: A provider cannot wake, and `on_no_wake` is `refuse`. Nothing was changed.
    """
    resolved = [await DeploymentTarget.resolve(target) for target in targets]
    stops = [_must_stop(target, on_no_wake) for target in resolved]
    rows = await asyncio.gather(
        *(
            ascale_target_to_zero(target, only_if_idle_seconds, stop=stop, dry_run=dry_run)
            for target, stop in zip(resolved, stops, strict=True)
        )
    )
    return await _tell("scale-to-zero", [row for some in rows for row in some])


@flow(name="wake-up")
async def wake_up(targets: Targets, wait_until_ready: bool = True, timeout_seconds: float = 600.0) -> list[FleetRow]:
    """Wake the models that `scale-to-zero` let go, and wait until they can take traffic.

    Args:
        targets: Deployment Target blocks, or names of saved ones.
        wait_until_ready: Wait until all of them are ready.
        timeout_seconds: Seconds to wait at most.

    Returns:
        One row per deployment. Also a table artifact.
    """
    resolved = [await DeploymentTarget.resolve(target) for target in targets]
    rows = await asyncio.gather(*(awake_target(target) for target in resolved))
    if wait_until_ready:
        woken = [[row.deployment for row in some if row.action == "woken"] for some in rows]
        await asyncio.gather(
            *(
                await_until_ready(target, ids, timeout_seconds=timeout_seconds)
                for target, ids in zip(resolved, woken, strict=True)
                if ids
            )
        )
    return await _tell("wake-up", [row for some in rows for row in some])


def _must_stop(target: DeploymentTarget, on_no_wake: str) -> bool:
    """Whether the provider has only a stop. Raises UnsupportedOperation where that was not allowed."""
    if target.credentials.can(Capability.SCALE_TO_ZERO):
        return False
    if on_no_wake == "refuse":
        raise UnsupportedOperation(
            target.credentials.client_class.provider,
            Capability.SCALE_TO_ZERO,
            f"{target.endpoint} would stay down until it is started; on_no_wake='stop' allows that",
        )
    return True


async def _tell(key: str, rows: list[FleetRow]) -> list[FleetRow]:
    for row in rows:
        get_run_logger().info("%s: %s (%s)", row.deployment, row.action.replace("_", " "), row.reason)
    await acreate_table_artifact([row.model_dump() for row in rows], key=key, description=f"What {key} did")
    return rows
