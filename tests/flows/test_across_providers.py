"""Rollouts on hosted providers, through our gateway: real proxy, real node, emulated vendors."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prefect_modeldeploy import JudgePlan, canary_rollout, promote_to_production
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.arms_kit import Site
from tests.flows.conftest import QUICK
from tests.providers import baseten_kit
from tests.sandbox.kit import running_sandbox
from tests.traffic.load import load

# These models never fail, so proof of safety takes long; what is tested here is not how sure the judge is.
PLAN = QUICK.model_copy(update={"judge": JudgePlan(margin=0.05, latency=False, beta=0.45)})

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_sandbox(*arms_kit.HOSTED) as sandbox, arms_kit.site(tmp_path / "node", sandbox) as site:
        yield site


async def test_a_canary_on_a_provider_that_splits_nothing_goes_through_our_gateway(site: Site, tmp_path: Path) -> None:
    target = site.target(arms_kit.baseten(site.sandbox), "sandbox-model")
    first = await arms_kit.deployment(site, "baseten")
    await promote_to_production(target, first)
    truss = baseten_kit.make_truss(tmp_path / "truss")
    async with load(await site.url(), rate=100, body=b'{"x": 1}') as answers:
        await eventually(lambda: answers.count > 100)
        record = await canary_rollout(target, baseten_kit.spec_of(truss), PLAN)
    assert record.outcome == "promoted", record.reason
    assert await site.arms() == {"stable": (record.canary, 100.0)}
    assert not answers.failures
    assert [arm["id"] for arm in await site.node.list_arms()] == [record.canary]
