"""The local serving node as a provider: real model processes on this machine, behind a real proxy.

The node speaks our vocabulary already, so there is nothing to translate:

| node's word     | status         | ready | may receive traffic            |
|-----------------|----------------|-------|--------------------------------|
| as ours         | the same       | READY | READY; SCALED_TO_ZERO (held)   |
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentUpdate,
)
from prefect_modeldeploy.errors import InvalidInput, NotFound, Problem
from prefect_modeldeploy.local.autostart import ensure_node
from prefect_modeldeploy.local.client import NodeClient, trusting
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials, address_of
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire
from prefect_modeldeploy.traffic.router import TrafficRouter
from prefect_modeldeploy.transport import RetryPolicy

POLICY = RetryPolicy(attempts=5, total_seconds=5.0)
"""A node that was killed does not come back by itself: give up soon, and the next try starts another one."""


class LocalClient(ServingClient):
    """The node's API as every provider's."""

    provider: ClassVar[str] = "local"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability) - {Capability.PROMOTE, Capability.ROLL_BACK}

    def __init__(self, node: NodeClient) -> None:
        self._node = node

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment."""
        if "/" in deployment_id:  # another provider's id: no name here has one, and no route would take it
            raise NotFound(self.provider, f"get {deployment_id}", Problem("no such deployment", 404))
        return await self._node.get_deployment(deployment_id)

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return all deployments, or those of one model."""
        return await self._node.list_deployments(model=model)

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a deployment, or return the one that this very spec has created before."""
        return await self._node.create_deployment(spec)

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change a deployment in place; it serves on while its new replicas start."""
        return await self._node.update_deployment(deployment_id, update)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change how many replicas a deployment has."""
        return await self._node.scale_deployment(deployment_id, autoscaling=autoscaling)

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Let go of all replicas; the next request is held while one starts."""
        return await self._node.scale_deployment(deployment_id, replicas=0)

    async def wake(self, deployment_id: str) -> Deployment:
        """Start replicas of a deployment at zero."""
        return await self._node.wake_deployment(deployment_id)

    async def stop(self, deployment_id: str) -> Deployment:
        """Take a deployment out of service."""
        return await self._node.stop_deployment(deployment_id)

    async def start(self, deployment_id: str) -> Deployment:
        """Bring a stopped deployment back."""
        return await self._node.start_deployment(deployment_id)

    async def delete(self, deployment_id: str) -> None:
        """Delete a deployment, after its requests in flight."""
        await self._node.delete_deployment(deployment_id)

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request through the gateway; `path` defaults to the raw JSON route, `predict`."""
        deployment = await self.get(deployment_id)
        return await self._node.post(f"{deployment.endpoint_url}/{(path or 'predict').lstrip('/')}", payload)

    async def logs(self, deployment_id: str, *, tail: int = 100) -> list[str]:
        """Return the last lines of the replicas' logs."""
        return await self._node.logs(deployment_id, tail=tail)

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """Seconds since a request ended; 0 while one is in flight. Without any: since the node watches."""
        return await self._node.idle_seconds(deployment_id)

    async def place(self) -> str:
        """Return what tells the node from all others."""
        return await self._node.place()

    def router(self, model: str = "", environment: str = "production") -> TrafficRouter:
        """Return the node's own gateway, which knows endpoints by their names alone."""
        return self._node


class LocalServing(ServingCredentials):
    """Serves models from processes on this machine; starts the serving node by itself when none runs.

    Attributes:
        home: Directory of the node.
        url: Address of the node's control API, to use one that runs already.
        token: Its bearer token.
        ca_file: Authorities to trust at that address.
        autostart: Start a node when none runs.

    Example:
        ```python
        from prefect_modeldeploy import LocalServing

        serving = LocalServing.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Local Serving"
    _block_type_slug = "local-serving"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy#blocks"  # type: ignore[assignment]
    _description = "Serves models from processes on this machine, behind HAProxy, with scale to zero."

    client_class: ClassVar[type[ServingClient]] = LocalClient

    home: Annotated[Path, Field(title="Directory")] | None = Field(
        None, description="Directory of the node. Default: MODELDEPLOY_HOME, else .modeldeploy in the home directory."
    )
    url: str | None = Field(None, description="Address of a node's control API, when it is not found by its directory.")
    token: SecretStr | None = Field(None, description="Bearer token of that control API.")
    ca_file: str | None = Field(
        None,
        description="PEM file here, with the authorities to trust there. None: those that Python trusts.",
    )
    autostart: bool = Field(True, description="Start a node when none runs in the directory.")

    @model_validator(mode="after")
    def _url_and_token(self) -> Self:
        if (self.url is None) != (self.token is None):
            given, missing = ("url", "token") if self.token is None else ("token", "url")
            raise InvalidInput(missing, None, f"{given} is set, and the one needs the other; or set neither")
        return self

    async def place(self) -> str:
        """Its node, however it is reached."""
        async with self.get_client() as client:
            return await client.place()

    def wire(self) -> Wire:
        """It is the contract."""
        return "native"

    def arm(self, deployment: Deployment) -> RemoteArm:
        """By way of its own node's gateway. A node needs no arms for its own deployments."""
        url = f"{address_of(deployment)}/predict"
        return RemoteArm(id=deployment.id, provider=deployment.provider, url=url)

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[LocalClient]:
        """Yield a client of the node, which is started first if need be.

        Raises:
            NodeError: No node runs and none could be started; says why.
            InvalidInput: `ca_file` cannot be read.
        """
        if self.url is not None and self.token is not None:
            node = NodeClient(self.url, self.token, policy=POLICY, tls=trusting(self.ca_file))
        else:
            home = Home(self.home)
            info = await ensure_node(home, autostart=self.autostart)
            node = NodeClient(info.control_url, home.token(), policy=POLICY)
        async with node:
            yield LocalClient(node)
