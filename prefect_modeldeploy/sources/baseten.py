"""Baseten's own metrics as the source of a rollout's windows: one a minute, three minutes late.

The vendor's figures lag by one to three minutes and show 0 or nothing meanwhile, so the last three are not asked for. A
minute is asked for by itself (a SUMMARY for each arm): the same question has the same answer later. Of a canary that is
promoted as a copy, the copy is asked for: it gets the requests.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from prefect.blocks.core import Block
from pydantic import Field

from prefect_modeldeploy.block_schemas import SchemaOnce
from prefect_modeldeploy.providers.baseten import BasetenClient, BasetenCredentials, MetricQuery
from prefect_modeldeploy.providers.baseten.metrics import LAG_SECONDS, REQUESTS, settled, steps_of, window
from prefect_modeldeploy.providers.baseten.promotions import source_name
from prefect_modeldeploy.sources.base import Observed
from prefect_modeldeploy.traffic.windows import ArmCounts, EndpointWindow

KEPT_SECONDS = 86_400.0
"""Nothing older is asked for, whatever the cursor says."""

HISTORY_WINDOWS = 30
"""As many say what is normal: each costs a call an arm."""


class BasetenMetrics(SchemaOnce, Block):
    """Counts of requests and failures by Baseten's own metrics (beta), for arms that run there.

    Only counts: the vendor has latencies as quantiles, which cannot be compared as evidence. A window is a minute, and
    known three minutes later, so a step of a rollout lasts that much longer.

    Attributes:
        credentials: Of the workspace in which both deployments are.
        window_seconds: Length of a window.
        delay_seconds: After so long the figures of a moment are final.

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
        title="Credentials", description="Block with a key of the workspace in which both deployments are."
    )
    window_seconds: int = Field(60, ge=1, description="Length of a window, in seconds: the vendor counts by minutes.")
    delay_seconds: float = Field(
        LAG_SECONDS,
        ge=0,
        description="Seconds after which the figures of a moment are final: Baseten was seen to lag by one to three "
        "minutes. Too few, and requests are missed.",
    )

    @asynccontextmanager
    async def get_source(self, endpoint: str, arms: Mapping[str, Observed]) -> AsyncIterator["BasetenSource"]:
        """Yield the windows of these arms.

        Args:
            endpoint: Name for the windows' ids.
            arms: Who answers, by arm: `stable` and `canary`.
        """
        async with self.credentials.get_client() as client:
            if "canary" in arms:
                arms = {**arms, "canary": await _as_promoted(client, arms["canary"])}
            yield BasetenSource(client, endpoint, arms, width=self.window_seconds, late=self.delay_seconds)


class BasetenSource:
    """The counts of one rollout's arms. A cursor is the end of a window in seconds since the epoch."""

    def __init__(
        self,
        client: BasetenClient,
        endpoint: str,
        arms: Mapping[str, Observed],
        *,
        width: int = 60,
        late: float = LAG_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._endpoint, self._arms, self._clock = client, endpoint, arms, clock
        self._width, self._late = width, late

    async def cursor(self) -> str:
        """The next full window: what is counted after it came later than now."""
        return f"{-(-self._clock() // self._width) * self._width:.0f}"

    async def windows(self, after: str | None) -> tuple[list[EndpointWindow], str]:
        """The windows up to the last one of which both arms' figures are known."""
        found, known = await self._counted(float(after or 0.0))
        until = min(known.values(), default=0.0)
        return [one for one in found if one.end <= until], f"{max(float(after or 0.0), until):.0f}"

    async def history(self, since: float) -> list[EndpointWindow]:
        """What is known from `since` on: the latest windows."""
        return (await self._counted(max(since, self._end() - HISTORY_WINDOWS * self._width)))[0]

    def settled(self, cursor: str) -> float:
        """The cursor is that time."""
        return float(cursor)

    def _end(self) -> float:
        return settled(self._clock(), self._width, self._late)

    async def _counted(self, begin: float) -> tuple[list[EndpointWindow], dict[str, float]]:
        """Windows after a time, and up to when each arm's figures are known."""
        end, known = self._end(), dict.fromkeys(self._arms, 0.0)
        start, found = -(-max(begin, end - KEPT_SECONDS) // self._width) * self._width, list[EndpointWindow]()
        while start < end:
            stop = start + self._width
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


async def _as_promoted(client: BasetenClient, canary: Observed) -> Observed:
    """What gets the requests: the latest copy of the canary that a promotion has made, or the canary itself."""
    own = await client.get(canary.deployment)
    copies = [one for one in await client.find(model=own.model_id) if source_name(one.name) == own.name]
    newest = max(copies, key=lambda one: int(one.name.rpartition(".")[2]), default=own)
    return replace(canary, deployment=newest.id)
