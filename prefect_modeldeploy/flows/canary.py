"""Canary rollout: a growing share of the requests, judged all the while."""

from prefect import flow

from prefect_modeldeploy.deployments import DeploymentId, DeploymentSpec
from prefect_modeldeploy.flows._golden import rollout_by_golden_set
from prefect_modeldeploy.flows._start import run_name, run_rollout
from prefect_modeldeploy.rollout import Approval, CanaryPlan, RolloutRecord
from prefect_modeldeploy.target import BlockName, DeploymentTarget

DEFAULT_PLAN = CanaryPlan()


@flow(name="canary-rollout", flow_run_name=run_name)
async def canary_rollout(
    target: DeploymentTarget | BlockName,
    candidate: DeploymentId | DeploymentSpec,
    plan: CanaryPlan = DEFAULT_PLAN,
    approval: Approval | None = None,
    note: str = "",
) -> RolloutRecord:
    """Roll out a new version to a growing share of the traffic; promote it on proof, roll it back on harm.

    Args:
        target: What to change: a Deployment Target block, or the name of a saved one.
        candidate: Id of a deployment, or a spec of one to create.
        plan: Steps, times and how sure to be; with a golden set, that is sent to both versions instead of steps.
        approval: Ask a person, before the promotion or earlier. None: do not ask.
        note: Why this is done; kept in the record.

    Returns:
        The record: its `outcome` is `promoted`, `rolled_back` or `held`.

    Raises:
        InvalidInput: The endpoint serves nothing yet, or the candidate already. Nothing was changed.
        RolloutInProgress: The endpoint has an open rollout of something else. Nothing was changed.
        StaleEpoch: A newer rollout took the endpoint over; this one left it alone from then on.
        CancelledRun: Prefect's: the flow run was cancelled, and what served before serves.
    """
    if plan.golden_set is not None:
        return await rollout_by_golden_set(target, candidate, plan, approval=approval, note=note)
    return await run_rollout(target, candidate, plan, kind="canary", approval=approval, note=note)
