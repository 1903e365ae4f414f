"""Promotion: a version that is known to be good takes over, without steps; with a bake, it is watched for a while."""

from typing import Literal

from prefect import flow

from prefect_modeldeploy.deployments import DeploymentId, DeploymentSpec
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.flows._native import promote_natively
from prefect_modeldeploy.flows._parameters import Seconds
from prefect_modeldeploy.flows._start import run_name, run_rollout
from prefect_modeldeploy.rollout import Approval, CanaryPlan, RolloutRecord
from prefect_modeldeploy.target import BlockName, DeploymentTarget


@flow(name="promote-to-production", flow_run_name=run_name)
async def promote_to_production(
    target: DeploymentTarget | BlockName,
    candidate: DeploymentId | DeploymentSpec,
    mode: Literal["swap", "native"] = "swap",
    approval: Approval | None = None,
    bake_seconds: Seconds = 0.0,
    note: str = "",
) -> RolloutRecord:
    """Put a version into production at once. Also puts the first version behind an endpoint.

    Args:
        target: What to change: a Deployment Target block, or the name of a saved one.
        candidate: Id of a deployment, or a spec of one to create.
        mode: swap makes this very deployment stable behind the gateway; native uses the provider's own promotion.
        approval: Ask a person before the traffic moves. None: do not ask.
        bake_seconds: Seconds to watch it, beside 5 % of the requests on the former version; harm rolls it back.
        note: Why this is done; kept in the record.

    Returns:
        The record: its `outcome` is `promoted` or `rolled_back`.

    Raises:
        InvalidInput: The candidate serves already. Nothing was changed.
        UnsupportedOperation: `native` on a provider that has no promotion of its own. Nothing was changed.
    """
    target = await DeploymentTarget.resolve(target)
    if mode == "native":
        if bake_seconds:
            raise InvalidInput("bake_seconds", bake_seconds, "watching needs a router of ours: use mode='swap', or 0")
        return await promote_natively(target, candidate, approval, note)
    plan = CanaryPlan(steps=(), bake_seconds=bake_seconds)
    return await run_rollout(target, candidate, plan, kind="promotion", approval=approval, note=note)
