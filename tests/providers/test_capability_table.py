"""The table of what promote, roll back, split, zero and wake mean at each provider: a test per cell.

A hosted provider's cell names the vendor's own call, which the emulator must have got, and what is true afterwards.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefect_modeldeploy import DeploymentSpec, LocalServing
from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentStatus
from prefect_modeldeploy.errors import UnsupportedOperation
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.traffic.router import SteppedRouter, TrafficRouter
from tests.conftest import eventually
from tests.flows.hosted import Hosted, hosted

pytestmark = pytest.mark.slow

Call = tuple[str, str]
"""Method and path of a vendor's call; `*` is anything."""


@dataclass(frozen=True)
class Row:
    """What a hosted provider is sent. None: it has no such thing, and says so before anything is sent."""

    promote: Call
    roll_back: Call
    stop: Call | None
    start: Call | None
    zero: Call | None
    wake: Call | None
    splits: bool = False


UPSERT = ("POST", "/v1/deployments")
TABLE = {
    "baseten": Row(
        promote=("POST", "*/environments/production/promote"),
        roll_back=("POST", "*/environments/production/promote"),  # when none runs; else it is called off
        stop=("POST", "*/deactivate"),
        start=("POST", "*/activate"),
        zero=("PATCH", "*/autoscaling_settings"),
        wake=("POST", "*/wake"),
        splits=True,
    ),
    "fiddler": Row(
        promote=("PATCH", "/v3/models/*/deployment"),
        roll_back=("PATCH", "/v3/models/*"),
        stop=("PATCH", "/v3/models/*/deployment"),
        start=("PATCH", "/v3/models/*/deployment"),
        zero=None,
        wake=None,
    ),
    "foundry": Row(
        promote=("POST", "*/promoteVersion"),
        roll_back=("POST", "*/promoteVersion"),
        stop=("POST", "*/disable"),
        start=("POST", "*/start"),
        zero=("PUT", "*/liveDeployments/*"),
        wake=("PUT", "*/liveDeployments/*"),
    ),
    "gradient": Row(promote=UPSERT, roll_back=UPSERT, stop=UPSERT, start=UPSERT, zero=None, wake=None),
    "scale": Row(
        promote=("PUT", "/v4/serving/*/backend"),
        roll_back=("POST", "/v4/serving/*/rollback"),
        stop=None,
        start=None,
        zero=("PATCH", "*/deployments/*"),
        wake=("PATCH", "*/deployments/*"),
    ),
}


class Place:
    """A hosted provider where one version serves, and a newer one is up."""

    def __init__(self, site: Hosted, client: ServingClient, candidate: Deployment, row: Row) -> None:
        self.site, self.client, self.candidate, self.row = site, client, candidate, row

    async def up(self, deployment: Deployment) -> Deployment:
        async for [seen] in self.client.wait([deployment.id], lambda one: one.ready, model=self.site.target.model):  # noqa: B007
            pass
        return seen

    async def was_sent(self, call: Call | None) -> bool:
        assert call is not None
        return bool(await self.site.control.requests(method=call[0], path=call[1]))

    async def nothing_was_sent(self) -> bool:
        return all(one.method == "GET" for one in await self.site.control.requests())


@asynccontextmanager
async def place(provider: str, directory: Path) -> AsyncIterator[Place]:
    async with hosted(provider, directory) as site, client_of(site.target) as client:
        found = Place(site, client, await client.create(site.candidate), TABLE[provider])
        found.candidate = await found.up(found.candidate)
        await site.control.forget_requests()
        yield found


each_hosted = pytest.mark.parametrize("provider", sorted(TABLE))


@each_hosted
async def test_promote_and_roll_back(provider: str, tmp_path: Path) -> None:
    async with place(provider, tmp_path) as here:
        client, site = here.client, here.site
        [former], before = await site.production(), await site.served()
        if provider == "fiddler":  # which activates what it promotes
            await client.stop(here.candidate.id)
            await site.control.forget_requests()
        promoted = await here.up(await client.promote(here.candidate.id, environment="production"))
        assert await here.was_sent(here.row.promote)
        [(id, content)] = await site.served()
        assert id == promoted.id
        assert here.candidate.id == id or await site.content(here.candidate.version) == content
        await site.control.forget_requests()
        asked = former if client.rolls_back == "to" else promoted
        back = await client.roll_back(asked.id, environment="production")
        assert await here.was_sent(here.row.roll_back)
        assert (await here.up(back)).id == former.id
        assert await site.served() == before


@each_hosted
async def test_split(provider: str, tmp_path: Path) -> None:
    async with place(provider, tmp_path) as here:
        assert here.site.target.credentials.can(Capability.TRAFFIC) is here.row.splits
        if here.row.splits:
            router = here.client.router(here.site.target.model, "production")
            assert isinstance(router, SteppedRouter)  # how it moves: test_baseten_rolling.py
            assert (await router.get_endpoint("fraud")).weights == {"stable": 100.0}
        else:
            with pytest.raises(UnsupportedOperation, match="mode='native'"):
                here.client.router(here.site.target.model, "production")
        assert await here.nothing_was_sent()


@each_hosted
async def test_zero_and_wake(provider: str, tmp_path: Path) -> None:
    async with place(provider, tmp_path) as here:
        client, id = here.client, here.candidate.id
        if here.row.zero is None:
            for cannot in (client.scale_to_zero, client.wake):
                with pytest.raises(UnsupportedOperation):
                    await cannot(id)
            assert await here.nothing_was_sent()
            return
        asleep = await client.scale_to_zero(id)
        assert await here.was_sent(here.row.zero)
        assert asleep.autoscaling is not None
        assert asleep.autoscaling.min_replicas == 0
        await here.site.control.forget_requests()
        assert (await here.up(await client.wake(id))).id == id
        assert await here.was_sent(here.row.wake) or here.row.wake == here.row.zero


@each_hosted
async def test_stop_and_start(provider: str, tmp_path: Path) -> None:
    async with place(provider, tmp_path) as here:
        client, id = here.client, here.candidate.id
        if here.row.stop is None:
            for cannot in (client.stop, client.start):
                with pytest.raises(UnsupportedOperation):
                    await cannot(id)
            assert await here.nothing_was_sent()
            return
        assert (await client.stop(id)).status is DeploymentStatus.STOPPED
        assert await here.was_sent(here.row.stop)
        await here.site.control.forget_requests()
        assert (await here.up(await client.start(id))).id == id
        assert await here.was_sent(here.row.start)


async def test_local_swaps_behind_the_endpoint_and_wakes_by_the_first_request(tmp_path: Path) -> None:
    """How it swaps, and swaps back: tests/flows/test_rollouts.py."""
    models = Path(__file__).parents[1] / "local" / "models"
    spec = DeploymentSpec(
        name="fraud-1", model="fraud", source="toy_models:double", options={"python_path": [str(models)]}
    )
    try:
        async with LocalServing(home=tmp_path).get_client() as client:
            assert {one for one in Capability if not client.can(one)} == {Capability.PROMOTE, Capability.ROLL_BACK}
            for cannot in (client.promote, client.roll_back):
                with pytest.raises(UnsupportedOperation):
                    await cannot("fraud-1", environment="production")
            assert isinstance(client.router(), TrafficRouter)
            await client.create(spec)
            async for _ in client.wait(["fraud-1"], lambda one: one.ready, timeout_seconds=60):
                pass

            async def is_now(status: DeploymentStatus) -> bool:
                return (await client.get("fraud-1")).status is status

            await client.scale_to_zero("fraud-1")
            await eventually(lambda: is_now(DeploymentStatus.SCALED_TO_ZERO))
            assert await client.predict("fraud-1", [2]) == [4]
            await eventually(lambda: is_now(DeploymentStatus.READY))
    finally:
        await stop_node(tmp_path)
