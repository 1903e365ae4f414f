"""Who gets which share of the requests: the small interface that rollouts use."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from prefect_modeldeploy.traffic.endpoint import Endpoint
from prefect_modeldeploy.traffic.windows import EndpointWindow


@runtime_checkable
class TrafficRouter(Protocol):
    """Moves the traffic of endpoints and tells what their arms experienced.

    The gateway (through the local node), a provider's native traffic, or an HAProxy that the user runs already.
    """

    async def get_endpoint(self, name: str) -> Endpoint:
        """The endpoint: its arms, their deployments and weights.

        Raises:
            NotFound: There is no such endpoint.
        """
        ...

    async def put_endpoint(self, endpoint: Endpoint, *, expected_epoch: int | None = None) -> Endpoint:
        """Create an endpoint, or replace its arms. The router keeps the epoch, whatever `endpoint.epoch` says.

        Raises:
            StaleEpoch: Another rollout has claimed the endpoint since `expected_epoch`.
        """
        ...

    async def set_weights(
        self, name: str, weights: Mapping[str, float], *, expected_epoch: int | None = None
    ) -> Endpoint:
        """Move the shares, in percent by arm; arms that are not named get 0. In force when this returns.

        Raises:
            NotFound: There is no such endpoint.
            StaleEpoch: Another rollout has claimed the endpoint since `expected_epoch`.
        """
        ...

    async def claim(self, name: str) -> int:
        """Take an endpoint over: writers with an older epoch are refused from now on. Returns the new epoch.

        Raises:
            NotFound: There is no such endpoint.
        """
        ...

    async def cursor(self, name: str) -> str:
        """Where the measurements of an endpoint stand now, for `windows`."""
        ...

    async def windows(
        self, name: str, *, after: str | None = None, since: float | None = None
    ) -> tuple[list[EndpointWindow], str]:
        """What the arms of an endpoint experienced, oldest first, and the next cursor.

        A stretch of time without requests has no window. Reading the same cursor again gives the same windows.

        Args:
            name: Which endpoint.
            after: Cursor of a former call, or of `cursor`; None: from the oldest that is kept.
            since: Only windows that end after this, in seconds since the epoch.
        """
        ...

    async def url(self, name: str) -> str:
        """Where clients call the endpoint, without a slash at the end."""
        ...

    async def ask(self, name: str, arm: str, payload: Any) -> Any:
        """Send one request to an arm of the endpoint, chosen instead of drawn; returns the decoded answer.

        Raises:
            ProviderError: The arm does not answer, or says no.
        """
        ...


@runtime_checkable
class SteppedRouter(TrafficRouter, Protocol):
    """A router that cannot give every share, such as a provider's own promotion."""

    async def check(self, name: str, shares: tuple[float, ...]) -> None:
        """Refuse, before anything changes, a rollout that it could not do.

        Raises:
            InvalidInput: One of these shares, in percent, is none that it can give.
            Conflict: It is moving the traffic of this endpoint already.
        """
        ...

    def settled(self, cursor: str) -> float:
        """Up to when a cursor's measurements are complete, in seconds since the epoch: a provider's can come late."""
        ...
