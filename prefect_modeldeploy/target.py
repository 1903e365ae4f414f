"""What a rollout is about: one model in one environment, behind one endpoint, on one provider."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from prefect.blocks.core import Block
from pydantic import Field

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers import Credentials
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.sources import Metrics
from prefect_modeldeploy.traffic.router import TrafficRouter


class DeploymentTarget(Block):
    """Names what tasks and flows work on, so that they need only one parameter.

    Attributes:
        credentials: Block of the provider.
        model: Name or id of the model at the provider.
        endpoint: Name of the stable address that clients call.
        environment: Role, such as production.
        price_per_replica_hour: Price of one replica hour, for reports.
        metrics: Block of the system that rollouts are measured by, instead of the gateway.

    Example:
        ```python
        from prefect_modeldeploy import DeploymentTarget

        target = DeploymentTarget.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Deployment Target"
    _block_type_slug = "deployment-target"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy#blocks"  # type: ignore[assignment]
    _description = "One model in one environment behind one endpoint, on one provider: what a rollout is about."

    credentials: Credentials = Field(description="Block of the provider that serves the model.")
    model: str = Field(min_length=1, description="Name or id of the model at the provider.")
    endpoint: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Name of the stable address that clients call: lower-case letters, digits and dashes.",
    )
    environment: str = Field("production", description="Role that the endpoint has, such as production.")
    price_per_replica_hour: float | None = Field(
        None, ge=0, description="Price of one replica hour in any currency, for reports. None: unknown."
    )
    metrics: Metrics | None = Field(
        None, description="Block of the system that rollouts are measured by. None: the gateway measures."
    )

    @classmethod
    async def resolve(cls, target: Self | str) -> Self:
        """Return the target itself, or load the saved block of that name.

        Raises:
            InvalidInput: There is no such block.
        """
        if not isinstance(target, str):
            return target
        try:
            return await cls.aload(target)
        except ValueError as error:
            raise InvalidInput("target", target, f"no such {cls._block_type_name} block: {error}") from error


@asynccontextmanager
async def client_of(target: DeploymentTarget | str) -> AsyncIterator[ServingClient]:
    """Open a client of the target's provider, the target being a block or the name of a saved one."""
    target = await DeploymentTarget.resolve(target)
    async with target.credentials.get_client() as client:
        yield client


@asynccontextmanager
async def router_of(target: DeploymentTarget | str) -> AsyncIterator[tuple[TrafficRouter, str]]:
    """Open the control over the target's traffic; yields it and the endpoint's name.

    Raises:
        UnsupportedOperation: Nothing splits the traffic of this provider.
    """
    target = await DeploymentTarget.resolve(target)
    async with target.credentials.get_client() as client:
        yield client.router(target.model, target.environment), target.endpoint
