"""Rollouts that are measured by something else than the gateway. No request passes the gateway here."""

import asyncio
import time
from pathlib import Path

import pytest

from prefect_modeldeploy import CanaryPlan, DeploymentTarget, JudgePlan, canary_rollout
from prefect_modeldeploy.sources import PrometheusMetrics
from tests.conftest import eventually
from tests.flows.conftest import Site, has_told
from tests.sources.prometheus_kit import Store, prometheus

pytestmark = pytest.mark.usefixtures("prefect_server")

PLAN = CanaryPlan(
    steps=(20, 50),
    step_seconds=1,
    deadline_seconds=60,
    warm_up_seconds=0,
    poll_seconds=0.2,
    judge=JudgePlan(margin=0.05),
)
RATE = 8000
"""Requests a second that each arm is said to answer."""


def _scraper(model: str, failing: float = 0.0) -> Store:
    """A Prometheus that sees both versions answer; of the second one's requests a share fails."""
    begin, done = time.time(), [time.time() - 60]

    def scrape(store: Store, now: float) -> None:
        while done[0] + 0.25 <= now:
            at = done[0] = done[0] + 0.25
            count = round(RATE * (at - begin + 60))
            for version, failures in (("1", 0), ("2", round(count * failing))):
                labels = {"deployment": f"{model}-{version}"}
                store.add("requests_total", at, count - failures, status="200", **labels)
                store.add("requests_total", at, failures, status="500", **labels)
                store.add("seconds_bucket", at, count, le="0.1", **labels)
                store.add("seconds_bucket", at, count, le="+Inf", **labels)

    return Store(scrape=scrape)


def _measured_by(site: Site, url: str) -> DeploymentTarget:
    metrics = PrometheusMetrics(
        url=url,
        requests='requests_total{deployment="$deployment"}',
        failures='requests_total{deployment="$deployment",status=~"5.."}',
        latency='seconds_bucket{deployment="$deployment"}',
        window_seconds=1,
        delay_seconds=0,
    )
    return site.target.model_copy(update={"metrics": metrics})


@pytest.mark.slow
async def test_what_prometheus_saw_promotes(site: Site) -> None:
    async with prometheus(_scraper(site.target.model)) as url:
        record = await canary_rollout(_measured_by(site, url), site.spec("2"), PLAN)
    assert record.outcome == "promoted", record.reason
    assert [step.weight for step in record.steps] == [20, 50]
    assert record.steps[0].canary_requests >= RATE
    assert await site.arms() == {"stable": (f"{site.target.model}-2", 100.0)}
    assert "was promoted" in Path(record.report or "").read_text()


@pytest.mark.slow
async def test_what_prometheus_saw_rolls_back(site: Site) -> None:
    async with prometheus(_scraper(site.target.model, failing=0.02)) as url:
        record = await canary_rollout(_measured_by(site, url), site.spec("2"), PLAN)
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures"), record.reason
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_while_prometheus_is_down_the_weights_stay(site: Site) -> None:
    store = _scraper(site.target.model)
    async with prometheus(store) as url:
        rollout = asyncio.create_task(canary_rollout(_measured_by(site, url), site.spec("2"), PLAN))
        await eventually(lambda: _canary_has(site, 20))
        store.down = True
        held_until = time.monotonic() + 3 * PLAN.step_seconds
        while time.monotonic() < held_until:
            assert await _canary_has(site, 20)
            await asyncio.sleep(0.1)
        store.down = False
        record = await rollout
    assert record.outcome == "promoted", record.reason
    assert record.steps[0].seconds > 3 * PLAN.step_seconds
    await eventually(lambda: has_told(site.target, {"unmeasured"}))  # the alarm


async def _canary_has(site: Site, weight: float) -> bool:
    return (await site.arms()).get("canary", ("", 0.0))[1] == weight


@pytest.mark.slow
async def test_what_is_never_measured_ends_at_the_deadline_with_the_first_share(site: Site) -> None:
    plan = PLAN.model_copy(update={"deadline_seconds": 4.0})
    async with prometheus(Store()) as url:
        record = await canary_rollout(_measured_by(site, url), site.spec("2"), plan)
    assert (record.outcome, record.decided_by) == ("rolled_back", "deadline")
    assert [step.weight for step in record.steps] == [20]


@pytest.mark.slow
async def test_a_selector_that_prometheus_refuses_ends_the_rollout_before_traffic_moves(site: Site) -> None:
    async with prometheus(Store()) as url:
        target = _measured_by(site, url)
        assert target.metrics is not None
        broken = target.metrics.model_copy(update={"latency": "9_is_no_name"})
        record = await canary_rollout(target.model_copy(update={"metrics": broken}), site.spec("2"), PLAN)
    assert record.outcome == "rolled_back"
    assert "parse error" in record.reason
    assert record.steps == ()
