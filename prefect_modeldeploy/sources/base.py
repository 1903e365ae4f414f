"""Where the windows of a rollout come from."""

import time
from dataclasses import dataclass
from typing import Protocol

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from prefect_modeldeploy.traffic.router import SteppedRouter, TrafficRouter
from prefect_modeldeploy.traffic.windows import EndpointWindow
from prefect_modeldeploy.transport import Logger


@dataclass(frozen=True, slots=True)
class Observed:
    """Who answers for an arm."""

    deployment: str
    version: str | None = None


class MetricSource(Protocol):
    """Windows of both arms since a cursor. Reading the same cursor again gives the same windows, under the same ids."""

    async def cursor(self) -> str:
        """Where the measurements stand now, for `windows`."""
        ...

    async def windows(self, after: str | None) -> tuple[list[EndpointWindow], str]:
        """What the arms experienced, oldest first, and the next cursor.

        A stretch of time without requests has no window; what is not known yet is left for the next call.

        Args:
            after: A cursor; None: from the oldest that is kept.

        Raises:
            ProviderError: The source cannot be asked now; the cursor stays good.
        """
        ...

    async def history(self, since: float) -> list[EndpointWindow]:
        """What was experienced from `since` on, in seconds since the epoch, also while there was no canary."""
        ...

    def settled(self, cursor: str) -> float:
        """Up to when a cursor's measurements are complete, in seconds since the epoch. Steps last measured time."""
        ...


class GatewaySource:
    """What the router itself measures of an endpoint: the gateway's windows are complete at once."""

    def __init__(self, router: TrafficRouter, endpoint: str) -> None:
        self._router, self._endpoint = router, endpoint

    async def cursor(self) -> str:
        """Where the measurements stand now."""
        return await self._router.cursor(self._endpoint)

    async def windows(self, after: str | None) -> tuple[list[EndpointWindow], str]:
        """What the arms experienced, up to this moment."""
        return await self._router.windows(self._endpoint, after=after)

    async def history(self, since: float) -> list[EndpointWindow]:
        """What the gateway still knows."""
        windows, _ = await self._router.windows(self._endpoint, since=since)
        return windows

    def settled(self, cursor: str) -> float:
        """Now, unless the router is a provider's, which knows later."""
        return self._router.settled(cursor) if isinstance(self._router, SteppedRouter) else time.time()


def run_logger() -> Logger:
    """The logger of the run, else a plain one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger(__name__)
