"""Whole rollouts on Baseten's own router under traffic: its promotion moves the shares, its metrics are the evidence.

The sandbox's metrics come as late as the vendor's, by its speed: 7.2 s stand for three minutes. Counts are of seconds.
"""

from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from prefect_modeldeploy import CanaryPlan, DeploymentTarget, JudgePlan, canary_rollout, fleet_report
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.rollout import RolloutRecord
from prefect_modeldeploy.sources import BasetenMetrics
from prefect_modeldeploy.target import client_of, router_of
from tests.flows.hosted import Hosted, hosted
from tests.traffic.load import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

FAST, WATCHABLE = 1000.0, 25.0
"""Speeds of the sandbox: one step of a promotion, 20 s, takes 20 ms or 0.8 s."""

PLAN = CanaryPlan(
    steps=(25, 50),
    step_seconds=2,
    deadline_seconds=120,
    warm_up_seconds=0,
    poll_seconds=0.5,
    judge=JudgePlan(margin=0.1, beta=0.2),
)


async def _rollout(site: Hosted, candidate: str) -> RolloutRecord:
    """A rollout under traffic, measured by Baseten."""
    metrics = BasetenMetrics(credentials=site.target.credentials, window_seconds=1, delay_seconds=180 / WATCHABLE + 0.5)
    target: DeploymentTarget = site.target.model_copy(update={"metrics": metrics})
    async with router_of(target) as (router, name):
        url = await router.url(name)
    key = {"Authorization": f"Api-Key {site.target.credentials.api_key.get_secret_value()}"}
    async with load(f"{url}/predict", rate=250, body=b'{"x": 1}', headers=key):
        return await canary_rollout(target, candidate, PLAN)


async def _created(site: Hosted, number: int) -> str:
    async with client_of(site.target) as client:
        made = await client.create(site.newer[number])
        async for _ in client.wait([made.id], lambda one: one.ready):
            pass
    return made.id


@pytest.mark.timeout(300)
async def test_a_canary_is_promoted_on_proof(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=FAST) as site:
        good = await _created(site, 0)
        site.target = site.target.model_copy(update={"sample": {"x": 1}})  # both are asked before any traffic moves
        await site.control.set_speed(WATCHABLE)
        record = await _rollout(site, good)
        assert record.outcome == "promoted", record.reason
        assert [step.weight for step in record.steps] == [25, 50]
        assert record.steps[-1].decision == "promote"
        assert all(step.canary_requests > 20 and step.stable_requests > 20 for step in record.steps)
        assert {id for id, _ in await site.served()} == {good}

        console = f"https://app.baseten.co/models/{good.replace('/', '/logs/')}"
        report = await Artifact.aget(f"rollout-baseten-{site.target.endpoint}")
        assert report is not None
        assert f"[{good} at Baseten]({console})" in str(report.data)
        assert console in {row.console_url for row in await fleet_report([site.target])}


@pytest.mark.timeout(300)
async def test_a_canary_is_called_off_on_harm(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=FAST) as site:
        before, bad = await site.served(), await _created(site, 1)
        await site.control.set_speed(WATCHABLE)
        await site.control.behave(provider="baseten", match=bad.rpartition("/")[2], error_rate=0.5)
        record = await _rollout(site, bad)
        assert (record.outcome, record.decided_by) == ("rolled_back", "failures"), record.reason
        assert [step.weight for step in record.steps] == [25]
        assert await site.served() == before
        controls = [one.path.rpartition("/")[2] for one in await site.control.requests(method="POST", path="*promot*")]
        assert controls[-1] == "cancel_promotion"


async def test_a_slow_way_back_is_refused_for_there_is_none(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=FAST) as site:
        metrics = BasetenMetrics(credentials=site.target.credentials)
        target = site.target.model_copy(update={"metrics": metrics})
        slow = PLAN.model_copy(update={"roll_back_seconds": 60.0})
        with pytest.raises(InvalidInput, match=r"plan\.roll_back_seconds.* at once only"):
            await canary_rollout(target, site.newer[0], slow)
        async with client_of(target) as client:
            assert len(await client.find(model=target.model)) == 1, "nothing was created"
