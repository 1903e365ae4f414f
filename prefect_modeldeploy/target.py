"""What a rollout is about: one model in one environment, behind one endpoint, on one provider."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Self

from prefect.blocks.core import Block
from pydantic import Field, StringConstraints

from prefect_modeldeploy.block_schemas import SchemaOnce
from prefect_modeldeploy.deployments import Capability, Deployment
from prefect_modeldeploy.errors import InvalidInput, NotFound
from prefect_modeldeploy.freeze import FreezeCalendar
from prefect_modeldeploy.gateway import Gateway
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.providers import Credentials
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials
from prefect_modeldeploy.sources import Metrics
from prefect_modeldeploy.traffic.arm import RemoteArm
from prefect_modeldeploy.traffic.router import TrafficRouter

BlockName = Annotated[str, Field(title="Name of a block")]
"""Name of a saved Deployment Target block; the title is what Prefect's forms show."""

SlugAndName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$"), Field(title="Type and name")]
"""Type and name of a saved block, such as `slack-webhook/ops`."""


class DeploymentTarget(SchemaOnce, Block):
    """Names what tasks and flows work on, so that they need only one parameter.

    Attributes:
        model: Name or id of the model at the provider.
        endpoint: Name of the stable address that clients call.
        environment: Role, such as production.
        credentials: Block of the provider.
        gateway: What splits the traffic.
        other_credentials: Block of a second provider, to move from one to another.
        sample: Request for the preflight of rollouts.
        price_per_replica_hour: Price of one replica hour, for reports.
        metrics: Block of the system that rollouts are measured by, instead of the gateway.
        freeze: Block with the times in which production stays as it is.
        notify: Blocks that are told how rollouts go.

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

    # The order is the form's. At the top, Prefect's UI lays a card over the last of so many kinds of credentials.
    model: str = Field(min_length=1, description="Name or id of the model at the provider.")
    endpoint: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="Name of the stable address that clients call: lower-case letters, digits and dashes. "
        "Unique on a Prefect server.",
    )
    environment: str = Field("production", description="Role that the endpoint has, such as production.")
    credentials: Credentials = Field(description="Block of the provider that serves the model.")
    gateway: Gateway | None = Field(
        None,
        title="Gateway",
        description="What splits the traffic between deployments. None: the provider itself (Local Serving can).",
    )
    other_credentials: Credentials | None = Field(
        None,
        description="Block of another provider that deployments behind the endpoint can be at: to move from one "
        "provider to another. New deployments are created at the first one.",
    )
    sample: Any = Field(
        None,
        description="JSON of a request that every version can answer. A rollout sends it to both versions before any "
        "traffic moves, and stops if the shapes of the answers differ. None: no such preflight.",
    )
    price_per_replica_hour: float | None = Field(
        None, ge=0, description="Price of one replica hour in any currency, for reports. None: unknown."
    )
    metrics: Metrics | None = Field(
        None, description="Block of the system that rollouts are measured by. None: the gateway measures."
    )
    freeze: FreezeCalendar | None = Field(
        None,
        title="Freeze",
        description="Block with the times in which rollouts do not move traffic forward. None: any time is good.",
    )
    notify: tuple[SlugAndName, ...] = Field(
        (),
        description="Notification and webhook blocks that are told when a rollout starts, waits for approval, goes "
        "back and ends, as type/name: slack-webhook/ops.",
    )

    @property
    def splits(self) -> bool:
        """Whether anything can split the traffic of the endpoint."""
        return self.gateway is not None or self.credentials.can(Capability.TRAFFIC)

    @property
    def fenced(self) -> bool:
        """Whether what splits the traffic refuses whoever does not own the endpoint any more."""
        return self.gateway is not None or (self.splits and self.credentials.client_class.fences)

    async def split_by(self) -> str:
        """What splits the traffic of the endpoint: a node, or the provider. Empty: it does not say."""
        if self.gateway is None:
            return await self.credentials.place()
        async with self.gateway.get_client() as node:
            return await node.place()

    async def places(self) -> tuple[str, ...]:
        """Where the deployments behind the endpoint can be; none when one of the places does not say."""
        both = [await each.place() for each in (self.credentials, self.other_credentials) if each is not None]
        return tuple(both) if all(both) else ()

    async def at(self, deployment_id: str) -> Self:
        """This target at the provider that has the deployment; this one itself when neither has it, or there is one."""
        if self.other_credentials is None:
            return self
        for credentials in (self.credentials, self.other_credentials):
            async with credentials.get_client() as client:
                try:
                    found = await client.get(deployment_id)
                except (NotFound, InvalidInput):  # an id that means nothing there may have another form
                    continue
                return self.model_copy(update={"credentials": credentials, "model": found.model_id})
        return self

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
async def client_of(target: DeploymentTarget | str, deployment_id: str | None = None) -> AsyncIterator[ServingClient]:
    """Open a client of the target's provider, or of the one of its two that has a deployment.

    Args:
        target: Block, or name of a saved one.
        deployment_id: What the client is for. None: `target.credentials` count.
    """
    target = await DeploymentTarget.resolve(target)
    if deployment_id is not None:
        target = await target.at(deployment_id)
    async with target.credentials.get_client() as client:
        if target.gateway is not None:
            client.moved = partial(_follow, target.gateway, target.credentials)
        yield client


async def _follow(gateway: Gateway, credentials: ServingCredentials, deployment: Deployment) -> None:
    """A deployment has moved: tell the gateway, if it knows it."""
    async with gateway.get_client() as node:
        if deployment.id in {arm["id"] for arm in await node.list_arms()}:
            await _put_arm(node, gateway, credentials.arm(deployment))


async def _put_arm(node: NodeClient, gateway: Gateway, arm: RemoteArm) -> None:
    await node.put_arm(arm.model_copy(update={"ca_file": gateway.arms_ca_file}))


@asynccontextmanager
async def router_of(target: DeploymentTarget | str) -> AsyncIterator[tuple[TrafficRouter, str]]:
    """Open the control over the target's traffic; yields it and the endpoint's name.

    Raises:
        UnsupportedOperation: Nothing splits the traffic of this provider: the target needs a gateway. Or its
            deployments do not fit the gateway.
    """
    target = await DeploymentTarget.resolve(target)
    if target.gateway is not None:
        target.credentials.wire()
        async with target.gateway.get_client() as node:
            yield node, target.endpoint
        return
    async with target.credentials.get_client() as client:
        yield client.router(target.model, target.environment), target.endpoint


async def register_arms(target: DeploymentTarget | str, deployment_ids: Iterable[str], *, renew: bool = True) -> None:
    """Let the target's gateway reach these deployments, with the credentials of now. Without a gateway: nothing to do.

    Args:
        target: Block, or name of a saved one.
        deployment_ids: Which ones.
        renew: False: no provider is asked about those that the gateway can reach already.

    Raises:
        NotFound: There is no such deployment.
        UnsupportedOperation: A provider's deployments do not fit the gateway.
        InvalidInput: A certificate is not trusted, or a token endpoint refuses the client.
    """
    target = await DeploymentTarget.resolve(target)
    if target.gateway is None:
        return
    async with target.gateway.get_client() as node:
        own = {deployment.id for deployment in await node.list_deployments()}
        known = set[str]() if renew else own | {arm["id"] for arm in await node.list_arms()}
        arms = list[RemoteArm]()
        for deployment_id in set(deployment_ids) - known:
            there = await target.at(deployment_id)
            if there.credentials.client_class.provider == "local" and deployment_id in own:
                continue
            there.credentials.wire()
            async with there.credentials.get_client() as client:
                arms.append(there.credentials.arm(await client.get(deployment_id)))
        for arm in arms:  # not before all of them fit
            await _put_arm(node, target.gateway, arm)
