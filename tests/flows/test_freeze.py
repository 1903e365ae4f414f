"""A frozen target: nothing begins, what is under way holds and is watched, and the way back is always free."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from prefect_modeldeploy import DeploymentTarget, FreezeCalendar, FreezeWindow, canary_rollout, plan_rollout, roll_back
from prefect_modeldeploy.errors import RolloutsFrozen
from prefect_modeldeploy.flows import _gates, promote_to_production
from prefect_modeldeploy.tasks import _journal
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import hosted

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

ALWAYS = FreezeWindow()


async def test_a_frozen_target_refuses_to_begin_and_says_until_when(site: Site) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    freeze = FreezeCalendar(windows=(FreezeWindow(last_day=tomorrow),))
    await freeze.save("till-tomorrow", overwrite=True)
    frozen = site.target.model_copy(update={"freeze": await FreezeCalendar.aload("till-tomorrow")})
    await frozen.save(site.target.endpoint, overwrite=True)
    frozen = await DeploymentTarget.aload(site.target.endpoint)
    before, until = await site.deployments(), f"{tomorrow + timedelta(days=1)} 00:00 UTC"
    for start in (canary_rollout, promote_to_production):
        with pytest.raises(RolloutsFrozen, match=until):
            await start(frozen, site.spec("2"))
    assert await site.deployments() == before
    [refusal] = (await plan_rollout(frozen, site.spec("2"))).refusals
    assert (refusal.error, until in refusal.message) == ("RolloutsFrozen", True)
    await promote_to_production(site.target, site.spec("2"))
    assert (await roll_back(frozen)).outcome == "promoted"


async def test_a_rollout_holds_before_traffic_moves_until_the_calendar_lets_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gates, "_LOOK_SECONDS", 0.5)
    await FreezeCalendar(windows=(ALWAYS,), when_frozen="hold").save("short", overwrite=True)
    target = site.target.model_copy(update={"freeze": await FreezeCalendar.aload("short")})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(target, site.spec("2"), QUICK))
        await eventually(lambda: _weights(site, stable=100, canary=0))
        seen = answers.count
        await eventually(lambda: answers.count > seen + 200)
        assert answers.by_arm["canary"] == 0
        assert not running.done()
        await eventually(lambda: _waits(target))
        await FreezeCalendar().save("short", overwrite=True)
        record = await running
    assert record.outcome == "promoted", record.reason
    assert record.held_seconds > 0
    assert (record.held_since, record.plan.deadline_seconds) == (None, QUICK.deadline_seconds)


async def test_harm_is_seen_while_it_holds_between_steps(site: Site) -> None:
    target = site.target.model_copy(update={"freeze": FreezeCalendar()})
    plan = QUICK.model_copy(update={"deadline_seconds": 120.0})
    async with await site.load(rate=40) as answers:
        await site.history(answers, 100)
        running = asyncio.create_task(canary_rollout(target, site.spec("2", "broken"), plan))
        await eventually(lambda: _weights(site, stable=80, canary=20))
        target.freeze.windows = (ALWAYS,)  # type: ignore[union-attr]
        record = await running
    assert (record.outcome, record.decided_by) == ("rolled_back", "failures")
    assert [step.weight for step in record.steps][-1] == 20
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("when_frozen", ["refuse", "hold"])
async def test_a_roll_back_to_a_named_version_in_the_providers_own_way_is_free(
    when_frozen: Literal["refuse", "hold"], tmp_path: Path
) -> None:
    async with hosted("scale", tmp_path) as hosting:
        good = await promote_to_production(hosting.target, hosting.newer[0], mode="native")
        before = await hosting.served()
        await promote_to_production(hosting.target, hosting.newer[1], mode="native")
        assert await hosting.served() != before
        calendar = FreezeCalendar(windows=(ALWAYS,), when_frozen=when_frozen)
        frozen = hosting.target.model_copy(update={"freeze": calendar})
        back = await asyncio.wait_for(roll_back(frozen, to=good.canary), 100)
        assert (back.kind, back.outcome) == ("roll_back", "promoted")
        assert await hosting.served() == before


async def _waits(target: DeploymentTarget) -> bool:
    """Whether a process that goes on with the rollout would know since when it waits."""
    saved = await _journal.load(target.endpoint)
    return saved is not None and saved.held_since is not None


async def _weights(site: Site, **wanted: float) -> bool:
    return {name: weight for name, (_, weight) in (await site.arms()).items()} == wanted
