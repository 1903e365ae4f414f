"""Let go of what nothing routes to any more: the replicas that a promotion leaves behind."""

from typing import Literal

from prefect import flow

from prefect_modeldeploy.flows._fleet import for_each, tell
from prefect_modeldeploy.flows._parameters import Seconds, Targets
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._rows import FleetRow
from prefect_modeldeploy.tasks.cleaning import aclean_up_target


@flow(name="clean-up-orphans")
async def clean_up_orphans(
    targets: Targets,
    action: Literal["report", "scale_to_zero", "delete"] = "report",
    older_than_seconds: Seconds = 86400.0,
    dry_run: bool = False,
) -> list[FleetRow]:
    """Do what plans have scheduled for the versions that rollouts replaced, and find the models nothing routes to.

    Never touched: what any endpoint of the gateway has among its arms, with any weight, shadows included; what a
    rollout in flight names; what is young; what a plan keeps warm for a roll-back. Endpoints of other gateways are not
    seen: where a provider's deployments are behind two gateways, let it only report.

    Args:
        targets: Deployment Target blocks, or names of saved ones.
        action: What becomes of orphans: only report them, scale them to zero, or delete them.
        older_than_seconds: Younger models, and those with a request or a rollout since, are not orphans yet.
        dry_run: Only say what would be done, also by schedule.

    Returns:
        One row per deployment: what was done, or why not. Also a table artifact.

    Raises:
        FleetError: Some deployments could not be done; the others were.
    """
    resolved = [await DeploymentTarget.resolve(target) for target in targets]

    async def clean(target: DeploymentTarget) -> list[FleetRow]:
        return await aclean_up_target(target, action, older_than_seconds, dry_run)

    return await tell("clean-up-orphans", await for_each(resolved, clean))
