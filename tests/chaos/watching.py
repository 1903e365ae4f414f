"""A look at an endpoint ten times a second, while accidents happen: not only in the end must its arms be well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from prefect_modeldeploy import DeploymentTarget
from prefect_modeldeploy.errors import NotFound, ProviderUnavailable
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.target import client_of, router_of
from prefect_modeldeploy.traffic.endpoint import Endpoint
from prefect_modeldeploy.traffic.router import TrafficRouter

_LOOK_SECONDS = 0.1
_READY_EVERY = 5
"""Whether arms are ready is asked at every change of the weights, and at so many looks without one: it costs more."""


@dataclass
class Seen:
    """What was wrong, each once."""

    looks: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        if what not in self.wrong:
            self.wrong.append(what)


@asynccontextmanager
async def watched(target: DeploymentTarget) -> AsyncIterator[Seen]:
    """Look at the target's endpoint for as long as the block runs."""
    seen = Seen()
    task = asyncio.create_task(_watch(target, seen))
    try:
        yield seen
    finally:
        task.cancel()
        [end] = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(end, asyncio.CancelledError):
            seen.add(f"the watch has failed: {end!r}")


async def _watch(target: DeploymentTarget, seen: Seen) -> None:
    last: dict[str, float] = {}
    async with router_of(target) as (router, name), client_of(target) as client:
        while True:
            with suppress(ProviderUnavailable, NotFound):  # who is away, or not there yet, is not wrong
                weights = _weights(await router.get_endpoint(name))
                if abs(sum(weights.values()) - 100) > 1e-6:
                    seen.add(f"the weights were {weights}")
                if weights != last or seen.looks % _READY_EVERY == 0:
                    for id in await _unready(weights, router, name, client, target.model):
                        seen.add(f"{id} got traffic while it was not ready")
                last = weights
                seen.looks += 1
            await asyncio.sleep(_LOOK_SECONDS)


def _weights(endpoint: Endpoint) -> dict[str, float]:
    return {arm.upstream: arm.weight for arm in endpoint.arms}


async def _unready(
    before: dict[str, float], router: TrafficRouter, name: str, client: ServingClient, model: str
) -> set[str]:
    """Who had traffic before and after it was asked who is ready, and was not."""
    ready = {deployment.id for deployment in await client.find(model=model) if deployment.ready}
    after = _weights(await router.get_endpoint(name))
    return {id for id in before if before[id] > 0 and after.get(id, 0.0) > 0} - ready
