"""What every provider looks like: a client that speaks our vocabulary, and a block that makes one."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import anyio
from prefect.blocks.abstract import CredentialsBlock
from pydantic import model_validator

from prefect_modeldeploy.block_schemas import SchemaOnce
from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentUpdate,
)
from prefect_modeldeploy.errors import DeploymentFailed, InvalidInput, UnsupportedOperation, WaitTimeout
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire
from prefect_modeldeploy.traffic.router import TrafficRouter


class ServingClient(ABC):
    """A serving system's API in our words.

    A provider declares its `capabilities` and overrides the methods that belong to them. Calling one that it lacks
    raises `UnsupportedOperation` before any request is sent.
    """

    provider: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    moved: Callable[[Deployment], Awaitable[None]] | None = None
    """Awaited when a deployment's addresses have changed, before the former ones go: a gateway follows by it."""
    rolls_back: ClassVar[Literal["from", "to"]] = "from"
    """Whether `roll_back` takes the deployment that serves now, or (the provider keeps no history) the former one."""
    fences: ClassVar[bool] = True
    """Whether its router, if it has one, refuses whoever does not own an endpoint any more."""

    @abstractmethod
    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment. Raises NotFound."""

    @abstractmethod
    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return all deployments, or those of one model."""

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a deployment, or return the one that this very spec has created before. Raises Conflict."""
        raise self._lacks(Capability.CREATE)

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change a deployment in place."""
        raise self._lacks(Capability.UPDATE)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change how many replicas a deployment has; fields left at None stay."""
        raise self._lacks(Capability.SCALE)

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Let go of all replicas now; the next request wakes the deployment."""
        raise self._lacks(Capability.SCALE_TO_ZERO)

    async def wake(self, deployment_id: str) -> Deployment:
        """Start replicas of a deployment that was scaled to zero, without waiting for them."""
        raise self._lacks(Capability.WAKE)

    async def stop(self, deployment_id: str) -> Deployment:
        """Take a deployment out of service; nothing but `start` brings it back."""
        raise self._lacks(Capability.STOP)

    async def start(self, deployment_id: str) -> Deployment:
        """Bring a stopped deployment back."""
        raise self._lacks(Capability.START)

    async def delete(self, deployment_id: str) -> None:
        """Delete a deployment. Deleting one that is gone already is no error."""
        raise self._lacks(Capability.DELETE)

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request to a deployment and return its decoded answer."""
        raise self._lacks(Capability.PREDICT)

    async def logs(self, deployment_id: str, *, tail: int = 100) -> list[str]:
        """Return the last lines of a deployment's log, oldest first."""
        raise self._lacks(Capability.LOGS)

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """Seconds since the last request to a deployment; None when nobody knows."""
        raise self._lacks(Capability.METRICS)

    async def prices_per_replica_hour(self, deployments: Sequence[Deployment]) -> dict[str, float]:
        """Price of one replica hour of each deployment that this provider's price list has one for, in its currency."""
        return {}

    async def promote(self, deployment_id: str, *, environment: str) -> Deployment:
        """Make a deployment the one that serves `environment`, in the provider's own way.

        Doing it again changes nothing. Returns what serves then, maybe not ready yet: it can be a copy, or a stable
        deployment that got the new version, with another id.
        """
        raise self._lacks(Capability.PROMOTE)

    async def roll_back(self, deployment_id: str, *, environment: str) -> Deployment:
        """Undo a promotion in the provider's own way; returns what serves then. See `rolls_back` for which one to name.

        Doing it again changes nothing, unless `former_version` names a version.
        """
        raise self._lacks(Capability.ROLL_BACK)

    async def call_off(self, deployment_id: str, former_id: str, *, environment: str) -> None:
        """Undo the promotion of `deployment_id`, whether it runs or is done, where `rolls_back` is "to".

        `former_id` serves again then. Nothing happens to a promotion of anything else.
        """
        raise self._lacks(Capability.ROLL_BACK)

    async def former_version(self, deployment_id: str, *, environment: str) -> str | None:
        """The version that `roll_back` would return to, where doing that again would go back by one more.

        To `update` to that version is what can be repeated then. None: `roll_back` itself can.
        """
        return None

    def router(self, model: str = "", environment: str = "production") -> TrafficRouter:
        """Return the provider's own control over who gets which share of the requests of a model in an environment."""
        raise self._lacks(Capability.TRAFFIC, "set the target's gateway, or promote with mode='native'")

    @classmethod
    def can(cls, capability: Capability) -> bool:
        """Whether this provider has the capability."""
        return capability in cls.capabilities

    def _lacks(self, capability: Capability, hint: str = "") -> UnsupportedOperation:
        return UnsupportedOperation(self.provider, capability, hint)

    async def look(self, deployment_ids: Collection[str], *, model: str | None = None) -> list[Deployment]:
        """Return those of these deployments that there are. `wait` polls with it: by default one list call."""
        return [d for d in await self.find(model=model) if d.id in deployment_ids]

    async def wait(
        self,
        deployment_ids: Collection[str],
        until: Callable[[Deployment], bool],
        *,
        model: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> AsyncIterator[list[Deployment]]:
        """Poll with one list call for all the deployments, and yield what was seen until `until` holds for each.

        The interval adapts: short at first, at most 5 s.

        Raises:
            DeploymentFailed: One of them failed, or was deleted.
            WaitTimeout: The deadline passed.
        """
        deadline, interval = time.monotonic() + timeout_seconds, 0.1
        while True:
            seen = {d.id: d for d in await self.look(deployment_ids, model=model)}
            missing = set(deployment_ids) - set(seen)
            if missing:
                problem = f"no such deployment: {sorted(missing)}"
                raise DeploymentFailed(sorted(missing)[0], problem)
            failed = next((d for d in seen.values() if d.status is DeploymentStatus.FAILED), None)
            if failed and not until(failed):
                raise DeploymentFailed(failed.id, failed.reason or failed.provider_status)
            found = [seen[i] for i in deployment_ids]
            yield found
            if all(until(d) for d in found):
                return
            if time.monotonic() + interval > deadline:
                states = {d.id: d.status.value for d in found}
                raise WaitTimeout(
                    f"after {timeout_seconds:g} s still {states}; raise timeout_seconds, or read the logs"
                )
            await anyio.sleep(interval)
            interval = min(5.0, interval * 1.3)


class ServingCredentials(SchemaOnce, CredentialsBlock):
    """Base of the providers' blocks: `get_client()` returns a `ServingClient` as an async context manager."""

    client_class: ClassVar[type[ServingClient]]

    @model_validator(mode="before")
    @classmethod
    def _only_own_fields(cls, data: Any) -> Any:
        """Blocks take any extra key, and a saved target's credentials come without their type: tell them apart here."""
        if isinstance(data, dict):
            foreign = [
                key for key in data if key not in cls.model_fields and key != "block_type_slug" and key[0] != "_"
            ]
            if foreign:
                raise ValueError(
                    f"{foreign[0]} is no field of {cls._block_type_name}; it has {sorted(cls.model_fields)}"
                )
        return data

    @abstractmethod
    def get_client(self) -> AbstractAsyncContextManager[ServingClient]:
        """Return a client; `async with block.get_client() as client: ...`."""

    def can(self, capability: Capability) -> bool:
        """Whether this provider has the capability."""
        return self.client_class.can(capability)

    async def place(self) -> str:
        """Where its deployments are: elsewhere, the same id may be of something else. Empty: nobody knows."""
        address = urlsplit(getattr(self, "base_url", None) or "").netloc  # the hosted ones have one
        return f"{self.client_class.provider} {address}".strip()

    def console_url(self, deployment_id: str) -> str | None:
        """Where a person looks at a deployment; None where the addresses of the provider's console are not known."""
        return None

    def wire(self) -> Wire:
        """How deployments here fit the gateway's wire contract: JSON to `/predict`, JSON back.

        Raises:
            UnsupportedOperation: They do not; says why.
        """
        hint = "its deployments do not fit the gateway's wire contract"
        raise UnsupportedOperation(self.client_class.provider, Capability.TRAFFIC, hint)

    def arm(self, deployment: Deployment) -> RemoteArm:
        """How a gateway reaches a deployment, credentials included. Only where `wire` says that they fit.

        Raises:
            InvalidInput: The deployment has no address yet.
            UnsupportedOperation: There is no way.
        """
        hint = "no gateway can reach its deployments"
        raise UnsupportedOperation(self.client_class.provider, Capability.TRAFFIC, hint)


def address_of(deployment: Deployment) -> str:
    """Where a deployment answers. Raises InvalidInput while it has no address."""
    if deployment.endpoint_url is None:
        raise InvalidInput("deployment", deployment.id, f"has no address yet ({deployment.status}): wait until READY")
    return deployment.endpoint_url
