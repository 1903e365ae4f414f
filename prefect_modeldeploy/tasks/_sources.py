"""What a rollout is measured by: what the target names, else the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.sources import GatewaySource, MetricSource, Observed
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.traffic.router import TrafficRouter


@asynccontextmanager
async def source_of(
    target: DeploymentTarget, router: TrafficRouter, record: RolloutRecord | None = None
) -> AsyncIterator[MetricSource]:
    """Open the source of the windows of a rollout's arms; without a record, only its cursor can be asked for."""
    if target.metrics is None:
        yield GatewaySource(router, target.endpoint)
        return
    arms = {}
    if record is not None and record.stable is not None:
        arms["stable"] = Observed(record.stable, record.stable_version)
        arms["canary"] = Observed(record.canary, record.canary_version)
    async with target.metrics.get_source(target.endpoint, arms) as source:
        yield source
