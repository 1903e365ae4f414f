"""What there is, everywhere: one table over many targets."""

import asyncio

from prefect import flow
from prefect.artifacts import acreate_table_artifact

from prefect_modeldeploy.flows._fleet import known, without_empty
from prefect_modeldeploy.flows._parameters import Targets
from prefect_modeldeploy.report.words import duration
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks.describing import DeploymentRow, adescribe_target


@flow(name="fleet-report")
async def fleet_report(targets: Targets) -> list[DeploymentRow]:
    """List every deployment of the targets: status, replicas, who routes to it, idle time, cost, rollout in flight.

    Args:
        targets: Deployment Target blocks, or names of saved ones.

    Returns:
        One row per deployment; of a target that could not be looked at, one row that says why. Also a table artifact.
    """
    resolved = [await DeploymentTarget.resolve(target) for target in targets]
    described = await asyncio.gather(*(_describe(target) for target in resolved))
    rows = [row for some in described for row in some]
    table = without_empty([_cells(row) for row in rows])
    await acreate_table_artifact(table, key="fleet-report", description=_summary(rows))
    return rows


async def _describe(target: DeploymentTarget) -> list[DeploymentRow]:
    try:
        return await adescribe_target(target)
    except Exception as error:  # whatever it is, the other targets are reported
        target.credentials.logger.error("%s could not be looked at: %s", target.endpoint, error)
        provider, reason = target.credentials.client_class.provider, str(error) or type(error).__name__
        return [DeploymentRow(provider=provider, endpoint=target.endpoint, deployment="*", reason=reason)]


def _cells(row: DeploymentRow) -> dict[str, str]:
    return {
        "Target": row.endpoint,
        "Deployment": row.deployment,
        "Name": row.name if row.name != row.deployment else "",
        "Status": row.status.value,
        "Replicas": str(row.replicas),
        "Routed by": row.routes or "nobody",
        "Idle for": "unknown" if row.idle_seconds is None else duration(row.idle_seconds),
        "Cost per hour": known(row.cost_per_hour, ".4g"),
        "Rollout": row.rollout or "",
        "Version": row.version or "",
        "Environment": row.environment or "",
        "Provider": row.provider,
        "Console": row.console_url or "",
        "Reason": row.reason or "",
    }


def _summary(rows: list[DeploymentRow]) -> str:
    costs = [row.cost_per_hour for row in rows if row.cost_per_hour is not None]
    unpriced = sum(row.cost_per_hour is None and row.replicas > 0 for row in rows)
    priced = f"{sum(costs):.4g} an hour" if costs else "cost unknown"
    more = f", and {unpriced} without a known price" if costs and unpriced else ""
    return f"{len(rows)} deployments, {sum(row.replicas for row in rows)} replicas: {priced}{more}"
