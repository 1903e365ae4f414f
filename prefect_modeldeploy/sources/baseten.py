"""Baseten's own metrics as the source of a rollout's windows: one a minute, three minutes late.

The vendor's figures lag by one to three minutes and show 0 or nothing meanwhile, so the last three are not asked for. A
minute is asked for by itself (a SUMMARY for each arm): the same question has the same answer later.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from prefect.blocks.core import Block
from pydantic import Field

from prefect_modeldeploy.providers.baseten import BasetenClient, BasetenCredentials, MetricQuery
from prefect_modeldeploy.providers.baseten.metrics import REQUESTS, settled, steps_of, window
from prefect_modeldeploy.sources.base import Observed
from prefect_modeldeploy.traffic.windows import ArmCounts, EndpointWindow

MINUTE = 60.0
KEPT_SECONDS = 86_400.0
"""Nothing older is asked for, whatever the cursor says."""


class BasetenMetrics(Block):
    """Counts of requests and failures by Baseten's own metrics (beta), for arms that run there.

    Only counts: the vendor has latencies as quantiles, which cannot be compared as evidence. A window is a minute, and
    known three minutes later, so a step of a rollout lasts that much longer.

    Attributes:
        credentials: Of the workspace in which both deployments are.

    Example:
        ```python
        from prefect_modeldeploy.sources import BasetenMetrics

        metrics = BasetenMetrics.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Baseten Metrics"
    _block_type_slug = "modeldeploy-baseten-metrics"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/measurements-from-elsewhere.md"  # type: ignore[assignment]
    _description = "Judges rollouts by what Baseten counted, instead of the gateway's own measurements."

    credentials: BasetenCredentials = Field(
        title="Credentials", description="Of the workspace in which both deployments are."
    )

    @asynccontextmanager
    async def get_source(self, endpoint: str, arms: Mapping[str, Observed]) -> AsyncIterator["BasetenSource"]:
        """Yield the windows of these arms.

        Args:
            endpoint: Name for the windows' ids.
            arms: Who answers, by arm: `stable` and `canary`.
        """
        async with self.credentials.get_client() as client:
            yield BasetenSource(client, endpoint, arms)


class BasetenSource:
    """The counts of one rollout's arms. A cursor is the end of a minute in seconds since the epoch."""

    def __init__(
        self,
        client: BasetenClient,
        endpoint: str,
        arms: Mapping[str, Observed],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._endpoint, self._arms, self._clock = client, endpoint, arms, clock

    async def cursor(self) -> str:
        """The next full minute: what is counted after it came later than now."""
        return f"{-(-self._clock() // MINUTE) * MINUTE:.0f}"

    async def windows(self, after: str | None) -> tuple[list[EndpointWindow], str]:
        """The minutes up to the last one of which both arms' figures are known."""
        found, known = await self._minutes(float(after or 0.0))
        until = min(known.values(), default=0.0)
        return [one for one in found if one.end <= until], f"{max(float(after or 0.0), until):.0f}"

    async def history(self, since: float) -> list[EndpointWindow]:
        """Everything that is known from `since` on."""
        return (await self._minutes(since))[0]

    def settled(self, cursor: str) -> float:
        """The cursor is that time."""
        return float(cursor)

    async def _minutes(self, begin: float) -> tuple[list[EndpointWindow], dict[str, float]]:
        """Windows after a time, and up to when each arm's figures are known."""
        end, known = settled(self._clock()), dict.fromkeys(self._arms, 0.0)
        start, found = -(-max(begin, end - KEPT_SECONDS) // MINUTE) * MINUTE, list[EndpointWindow]()
        while start < end:
            stop = start + MINUTE
            span = {"start_epoch_millis": int(start * 1000), "end_epoch_millis": int(stop * 1000)}
            query = MetricQuery(mode="SUMMARY", metrics=[REQUESTS], **span)
            told = {arm: await self._client.metrics(one.deployment, query) for arm, one in self._arms.items()}
            for arm, metrics in told.items():
                if any(counts is not None for _, _, counts in steps_of(metrics)):
                    known[arm] = stop
            both = window(told["stable"], told["canary"], self._endpoint) if told else None
            if both:
                arms = {
                    arm: ArmCounts(requests=one.requests, failures=one.failures, start=start, end=stop)
                    for arm, one in (("stable", both.baseline), ("canary", both.canary))
                }
                found.append(EndpointWindow(both.id, self._endpoint, {}, arms, former_end=start))
            start = stop
        return found, known
