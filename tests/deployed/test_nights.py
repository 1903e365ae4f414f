"""Nights by schedule: Prefect's own scheduler makes the runs, a worker runs them, and a person pauses them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.schedules import IntervalSchedule

from prefect_modeldeploy import Autoscaling, DeploymentStatus, DeploymentTarget, promote_to_production, scale_to_zero
from prefect_modeldeploy.target import client_of
from tests.conftest import eventually
from tests.deployed.conftest import LINES
from tests.deployed.kit import ROOT, all_ended, call, is_on, is_to_run, runs_by, runs_of, switch
from tests.flows.conftest import Site
from tests.flows.hosted import hosted
from tests.test_top_level import imported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the set-up is counted too

DOWN, UP, REPORT = "scale-to-zero/scale-down", "wake-up/wake-up", "fleet-report/fleet-report"
PROVIDERS = ("baseten", "foundry", "scale")
SETTINGS = Autoscaling(min_replicas=2, max_replicas=3)


@pytest_asyncio.fixture
async def fleet(site: Site, tmp_path: Path) -> AsyncIterator[list[DeploymentTarget]]:
    """Saved targets on this machine and at every provider that has a zero of its own, with settings to lose."""
    await promote_to_production(site.target, site.spec("1", "good"))
    targets = [site.target]
    async with AsyncExitStack() as stack:
        for provider in PROVIDERS:
            hosting = await stack.enter_async_context(hosted(provider, tmp_path))
            [first] = await hosting.production()
            async with client_of(hosting.target) as client:
                await client.scale(first.id, SETTINGS)
                async for _ in client.wait([first.id], lambda d: d.ready, model=hosting.target.model):
                    pass
            await hosting.target.credentials.save(f"nightly-{provider}")
            await hosting.target.save(hosting.target.endpoint)
            targets.append(hosting.target)
        yield targets
        for target in targets:
            await DeploymentTarget.adelete(target.endpoint)


async def settings(fleet: list[DeploymentTarget]) -> dict[str, Any]:
    """Everything of the deployments that serve which a night could change."""
    found = dict[str, Any]()
    for target in fleet:
        async with client_of(target) as client:
            for one in await client.find(model=target.model):
                fields = {"status", "ready", "replicas", "autoscaling", "resources", "environment", "version"}
                found[f"{target.endpoint}/{one.id}"] = one.model_dump(include=fields)
    return found


async def let_go(fleet: list[DeploymentTarget]) -> set[str]:
    """What runs no replica, or need not: a provider takes the last one away in its own time."""
    return {
        name
        for name, one in (await settings(fleet)).items()
        if one["status"] is DeploymentStatus.SCALED_TO_ZERO or (one["autoscaling"] or {}).get("min_replicas") == 0
    }


def deploy_with_short_days(environment: dict[str, str], fleet: list[DeploymentTarget], directory: Path) -> None:
    """The project's own deployments, for this fleet; what is daily happens every twenty seconds."""
    content = yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())
    for deployment in content["deployments"]:
        if deployment["name"] in ("scale-down", "wake-up", "fleet-report"):
            deployment["parameters"]["targets"] = [target.endpoint for target in fleet]
            deployment["schedules"] = [
                {"slug": schedule["slug"], "active": schedule["active"], "interval": 20}
                for schedule in deployment["schedules"]
            ]
        if deployment["name"] == "scale-down":
            deployment["parameters"]["only_if_idle_seconds"] = None
    file = directory / "prefect.yaml"
    file.write_text(yaml.safe_dump(content))
    call(environment, "prefect", "--no-prompt", "deploy", "--prefect-file", str(file), "--all", cwd=directory)


async def test_schedules_have_the_time_zone_and_are_on(deployed: dict[str, str]) -> None:
    async with get_client() as client:
        for name in (DOWN, UP, REPORT, "clean-up-orphans/clean-up-orphans"):
            [schedule] = (await client.read_deployment_by_name(name)).schedules
            assert schedule.active
            assert schedule.slug
            assert schedule.schedule.timezone == "Europe/Berlin"  # type: ignore[union-attr]


async def test_what_a_person_switched_off_stays_off_when_all_is_deployed_again(deployed: dict[str, str]) -> None:
    """Although Prefect makes automations anew, ends the pause of a deployment, and makes schedules anew beside one
    that a person has added. What is on stays on."""
    off, on = "modeldeploy-roll-back-on-alert", "modeldeploy-canary-on-registration"
    async with get_client() as client:
        [before] = await client.read_automations_by_name(off)
        assert before.enabled
        await client.pause_automation(before.id)
        down, up = [await client.read_deployment_by_name(name) for name in (DOWN, UP)]
        await client.update_deployment(down.id, DeploymentUpdate(paused=True))  # as the UI's "pause all schedules"
        await switch(UP, on=False)
        await client.create_deployment_schedules(up.id, [(IntervalSchedule(interval=timedelta(days=1)), False)])
        try:
            await asyncio.to_thread(call, deployed, "bash", "-euc", LINES[-2])
            [after], [other] = [await client.read_automations_by_name(name) for name in (off, on)]
            assert after.id != before.id
            assert (after.enabled, other.enabled) == (False, True)
            assert [await is_on(name) for name in (DOWN, UP, REPORT)] == [False, False, True]
            # Deployed last, so what makes its runs has seen the others as they are now.
            await eventually(lambda: is_to_run(REPORT), 60, every=0.5)
            assert [await is_to_run(name) for name in (DOWN, UP)] == [False, False]
        finally:
            for one in await client.read_automations_by_name(off):
                await client.resume_automation(one.id)
            for name in (DOWN, UP):
                await switch(name, on=True)


async def test_what_a_person_switched_off_stays_off_when_a_script_is_started_again(prefect_server: None) -> None:
    """Whose deployments are made as `serve()` does."""
    evenings = imported(ROOT / "flows" / "scale_schedule.py").EVENINGS
    served = await scale_to_zero.ato_deployment(name="evenings", schedules=[evenings])
    for on in (True, False, True):
        await served.aapply()
        assert await is_on("scale-to-zero/evenings") is on, "a new one is on"
        await switch("scale-to-zero/evenings", on=not on)


async def test_a_night_by_schedule_with_a_pause_leaves_all_settings_as_they_were(
    deployed: dict[str, str], worker: None, fleet: list[DeploymentTarget], tmp_path: Path
) -> None:
    before = await settings(fleet)
    assert await let_go(fleet) == set()
    for name in (DOWN, UP, REPORT):
        await switch(name, on=False)
    await asyncio.to_thread(deploy_with_short_days, deployed, fleet, tmp_path)
    assert not any([await is_on(name) for name in (DOWN, UP, REPORT)]), "what is paused stays paused"

    await run_by_schedule(DOWN)
    assert await let_go(fleet) == set(before)
    asleep = await settings(fleet)

    await asyncio.to_thread(deploy_with_short_days, deployed, fleet, tmp_path)
    await run_by_schedule(REPORT)
    assert await runs_of(UP) == [], "another schedule has made its runs meanwhile, the paused one has not"
    assert await settings(fleet) == asleep

    await run_by_schedule(UP)
    assert await settings(fleet) == before


async def run_by_schedule(name: str) -> None:
    """A person switches a schedule on, and off again once the worker is at its first run; that comes to its end."""
    await switch(name, on=True)
    await eventually(lambda: runs_by("SCHEDULE", name), 150, every=0.5)
    await switch(name, on=False)
    await eventually(lambda: all_ended(name), 150, every=0.5)
    assert {run.state_name for run in await runs_by("SCHEDULE", name)} == {"Completed"}
