"""A real node, real replicas and live traffic under the flows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventResourceFilter

from prefect_modeldeploy import CanaryPlan, DeploymentSpec, DeploymentTarget, JudgePlan, LocalServing
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.target import client_of, router_of
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.traffic.load import Answers, load

MODELS = Path(__file__).parent / "models"

# Failures are compared only: a machine that runs other tests beside is slow by chance.
QUICK = CanaryPlan(
    steps=(20, 50),
    step_seconds=1,
    deadline_seconds=60,
    warm_up_seconds=0.2,
    poll_seconds=0.2,
    judge=JudgePlan(margin=0.05, latency=False),
)


async def has_told(target: DeploymentTarget, transitions: set[str]) -> bool:
    """Whether Prefect has an event for each of these."""
    provider = target.credentials.client_class.provider
    about = EventFilter(resource=EventResourceFilter(id=[f"modeldeploy.{provider}.{target.endpoint}"]))
    async with get_client() as client:
        found = (await client.read_events(about, limit=50)).events
    return {f"modeldeploy.rollout.{each}" for each in transitions} <= {event.event for event in found}


async def has_served(target: DeploymentTarget, *deployments: str | None) -> bool:
    """Whether Prefect has the target's asset as materialised with these deployments, and no others, in this order."""
    key = f"{target.credentials.client_class.provider}://{target.endpoint}"
    async with get_client() as client:
        found = (await client.read_events(EventFilter(resource=EventResourceFilter(id=[key])), limit=50)).events
    told = sorted(found, key=lambda event: event.occurred)
    assert {event.event for event in told} <= {"prefect.asset.materialization.succeeded"}
    return [event.payload["deployment"] for event in told] == list(deployments)


class Site:
    """A target on a node of its own, and what one may want to know of it."""

    def __init__(self, target: DeploymentTarget) -> None:
        self.target = target

    def spec(self, version: str, source: str = "as_good", **more: Any) -> DeploymentSpec:
        return DeploymentSpec(
            name=f"{self.target.model}-{version}",
            model=self.target.model,
            version=version,
            source=f"versions:{source}",
            options={"python_path": [str(MODELS)]},
            **more,
        )

    async def endpoint(self) -> Endpoint:
        async with router_of(self.target) as (router, name):
            return await router.get_endpoint(name)

    async def arms(self) -> dict[str, tuple[str, float]]:
        return {arm.name: (arm.upstream, arm.weight) for arm in (await self.endpoint()).arms}

    async def deployments(self) -> dict[str, str]:
        async with client_of(self.target) as client:
            return {d.id: d.status.value for d in await client.find()}

    async def audit(self) -> list[dict[str, Any]]:
        """What the gateway has kept of the endpoint."""
        async with router_of(self.target) as (router, name):
            assert isinstance(router, NodeClient)
            return await router.audit(name)

    async def load(self, rate: float = 300, *, try_again: bool = False) -> AbstractAsyncContextManager[Answers]:
        async with router_of(self.target) as (router, name):
            url = await router.url(name)
        return load(f"{url}/predict", rate=rate, body=b"[1.0]", try_again=try_again)

    async def history(self, answers: Answers, requests: int = 300) -> None:
        """Let the stable version serve for a while."""
        while answers.count < requests:
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module")
async def home(tmp_path_factory: Any) -> AsyncIterator[Path]:
    directory = tmp_path_factory.mktemp("site")
    yield directory
    await stop_node(directory)


@pytest_asyncio.fixture
async def new_site(home: Path, prefect_server: None) -> Callable[[str], Site]:
    def make(name: str) -> Site:
        return Site(DeploymentTarget(credentials=LocalServing(home=home), model=name, endpoint=name))

    return make


@pytest_asyncio.fixture
async def site(new_site: Callable[[str], Site]) -> Site:
    """A target of its own for each test, and for each try of it, with version 1 in production."""
    site = new_site(f"m{uuid4().hex[:8]}")
    async with client_of(site.target) as client:
        first = await client.create(site.spec("1", "good"))
        async for _ in client.wait([first.id], lambda deployment: deployment.ready):
            pass
        stable = EndpointArm(name="stable", upstream=first.id, weight=100)
        await client.router().put_endpoint(Endpoint(name=site.target.endpoint, arms=(stable,)))
    return site
