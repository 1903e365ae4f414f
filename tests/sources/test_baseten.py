"""Baseten's metrics as the source of windows, from the emulator of its API."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.providers.baseten import BasetenClient
from prefect_modeldeploy.sources import Observed
from prefect_modeldeploy.sources.baseten import BasetenSource
from prefect_modeldeploy.transport import RetryPolicy
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox


@dataclass
class Site:
    """Two deployments, and a clock that runs ahead with the vendor's."""

    sandbox: RunningSandbox
    client: BasetenClient
    stable: str
    canary: str
    ahead: float = 0.0

    def source(self) -> BasetenSource:
        arms = {"stable": Observed(self.stable), "canary": Observed(self.canary)}
        return BasetenSource(self.client, "prod", arms, clock=lambda: time.time() + self.ahead)

    async def advance(self, seconds: float) -> None:
        await self.sandbox.control.advance(seconds)
        self.ahead += seconds

    async def ask(self, deployment: str, times: int) -> None:
        for _ in range(times):
            with suppress(ProviderError):
                await self.client.predict(deployment, {})


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    async with baseten(policy=RetryPolicy(attempts=1)) as (sandbox, client):
        canary = await client.create(spec_of(make_truss(directory)))
        yield Site(sandbox, client, seeded(sandbox), canary.id)


async def test_every_request_is_in_one_window_three_minutes_later(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        source = here.source()
        begin = cursor = await source.cursor()
        await here.advance(60)  # what came in the minute before it is none of the rollout's
        total: list[tuple[int, int]] = []
        for _ in range(3):
            await here.ask(here.stable, 3)
            await here.ask(here.canary, 2)
            await here.advance(60)
            windows, cursor = await source.windows(cursor)
            total += [(w.arms["stable"].requests, w.arms["canary"].requests) for w in windows]
        await here.advance(240)
        windows, cursor = await source.windows(cursor)
        total += [(w.arms["stable"].requests, w.arms["canary"].requests) for w in windows]
        again, _ = await here.source().windows(begin)
    assert (sum(stable for stable, _ in total), sum(canary for _, canary in total)) == (9, 6)
    assert [(w.arms["stable"].requests, w.arms["canary"].requests) for w in again] == total
    assert len({w.id for w in again}) == len(again)


async def test_failures_are_those_of_the_vendors_figures(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        cursor = await here.source().cursor()
        await here.advance(60)
        await here.sandbox.control.behave(provider="baseten", match="v2", error_rate=1.0)
        await here.ask(here.stable, 4)
        await here.ask(here.canary, 3)
        await here.advance(300)
        windows, cursor = await here.source().windows(cursor)
        assert here.source().settled(cursor) >= windows[-1].end
    counted = [(w.arms["canary"].requests, w.arms["canary"].failures) for w in windows if w.arms["canary"].requests]
    assert counted == [(3, 3)]
