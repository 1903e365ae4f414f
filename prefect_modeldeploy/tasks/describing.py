"""What there is: every deployment of a target with all that a person wants to know of it at a glance."""

from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.deployments import Deployment, DeploymentStatus
from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks._pair import pair
from prefect_modeldeploy.tasks._rows import AT_REST, at_once
from prefect_modeldeploy.tasks._surroundings import idle_seconds, look_around, prices, replicas_of


class DeploymentRow(BaseModel):
    """One deployment, or a whole target (deployment `*`) that could not be looked at."""

    model_config = ConfigDict(frozen=True)

    provider: str
    endpoint: str
    deployment: str
    name: str = ""
    version: str | None = None
    environment: str | None = None
    status: DeploymentStatus = DeploymentStatus.UNKNOWN
    replicas: int = 0
    routes: str | None = Field(None, description="Which endpoints have it as an arm; None: none that can be looked at.")
    idle_seconds: float | None = Field(None, description="Without a request; None when nobody knows.")
    cost_per_hour: float | None = Field(None, description="Of all its replicas; None when no price is known.")
    rollout: str | None = Field(None, description="The rollout in flight that it is part of.")
    console_url: str | None = Field(None, description="Where a person looks at it, if the provider says.")
    reason: str | None = Field(None, description="Why it failed, is degraded, or could not be looked at.")


async def _adescribe_target(target: DeploymentTarget | str) -> list[DeploymentRow]:
    """Describe the deployments of a target's model.

    Args:
        target: Block, or name of a saved one.

    Returns:
        One row per deployment, by name.
    """
    target = await DeploymentTarget.resolve(target)
    async with target.credentials.get_client() as client:
        found = await client.find(model=target.model)
        around, price = await look_around(target), await prices(target, client, found)

        async def describe(deployment: Deployment) -> DeploymentRow:
            idle, reason = None, deployment.reason
            try:
                idle = await idle_seconds(target, client, deployment)
            except ModelDeployError as error:
                reason = reason or f"idle time: {error}"
            replicas = 0 if deployment.status in AT_REST else replicas_of(deployment)
            return DeploymentRow(
                provider=deployment.provider,
                endpoint=target.endpoint,
                deployment=deployment.id,
                name=deployment.name,
                version=deployment.version,
                environment=deployment.environment,
                status=deployment.status,
                replicas=replicas,
                routes=around.routes(deployment.id),
                idle_seconds=idle,
                cost_per_hour=replicas * price[deployment.id] if deployment.id in price else None,
                rollout=around.rollout(deployment),
                console_url=deployment.console_url,
                reason=reason,
            )

        return await at_once(describe, sorted(found, key=lambda deployment: deployment.name))


describe_target, adescribe_target = pair(_adescribe_target)
