"""The deployments of flows/prefect.yaml on a real server, each run once by a real process worker."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.deployments import run_deployment
from prefect.settings import get_current_settings

from prefect_modeldeploy import Autoscaling, DeploymentTarget, orders, reconcile_rollouts
from prefect_modeldeploy.target import client_of
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import Hosted, hosted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TARGET = "production"


@pytest.fixture(scope="module")
def environment(home: Path, prefect_server: None) -> dict[str, str]:
    """What the subprocesses see: this test's server and node."""
    url = get_current_settings().api.url
    assert url
    more = {"PREFECT_API_URL": url, "MODELDEPLOY_HOME": str(home), "MODELDEPLOY_MODEL": "deployed"}
    return {**os.environ, **more, "MODELDEPLOY_TARGET": TARGET, "PREFECT_LOGGING_LEVEL": "WARNING"}


def call(environment: dict[str, str], *command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Blocks saved, deployments made from another directory, and a worker at work."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    call(environment, sys.executable, str(ROOT / "blocks" / "register.py"))
    call(environment, sys.executable, str(ROOT / "blocks" / "create_local.py"))
    prefect = str(BIN / "prefect")
    call(environment, prefect, "work-pool", "create", "modeldeploy", "--type", "process", "--overwrite")
    file = str(ROOT / "flows" / "prefect.yaml")
    call(environment, prefect, "--no-prompt", "deploy", "--prefect-file", file, "--all", cwd=elsewhere)
    worker = subprocess.Popen([prefect, "worker", "start", "--pool", "modeldeploy"], env=environment, cwd=elsewhere)
    yield environment
    worker.terminate()
    worker.wait(30)


async def run(name: str, **parameters: Any) -> Any:
    """Run a deployment to its end; returns the run."""
    run = await run_deployment(name, parameters=parameters, timeout=90, poll_interval=0.5)
    assert run.state is not None
    assert run.state.is_completed(), f"{name}: {run.state.type} {run.state.message}"
    return run


@pytest_asyncio.fixture
async def site(deployed: dict[str, str]) -> AsyncIterator[Site]:
    yield Site(await DeploymentTarget.aload(TARGET))


def test_the_block_scripts_can_be_run_again(deployed: dict[str, str]) -> None:
    said = call(deployed, sys.executable, str(ROOT / "blocks" / "create_local.py"))
    assert f"deployment-target/{TARGET}" in said


def test_a_missing_variable_is_one_clear_line(environment: dict[str, str]) -> None:
    without = {name: value for name, value in environment.items() if name != "MODELDEPLOY_MODEL"}
    script = str(ROOT / "blocks" / "create_local.py")
    done = subprocess.run([sys.executable, script], env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("MODELDEPLOY_MODEL is not set")
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(500)  # the set-up, with its command lines and the worker, is counted too
async def test_each_deployment_is_run_once_by_the_worker(site: Site) -> None:
    first, second = (json.loads(site.spec(version, "good").model_dump_json()) for version in ("1", "2"))
    await run("promote-to-production/promote-to-production", target=TARGET, candidate=first, approval=None)
    assert await site.arms() == {"stable": ("deployed-1", 100.0)}

    async with await site.load() as answers:
        await site.history(answers)
        plan = QUICK.model_dump(mode="json")
        canary = await run("canary-rollout/canary-rollout", target=TARGET, candidate=second, plan=plan, note="worker")
    assert await site.arms() == {"stable": ("deployed-2", 100.0)}
    assert "deployed-2" in canary.name or TARGET in canary.name

    await run("reconcile-rollouts/reconcile-rollouts")  # all saved targets: nothing is lost, so nothing happens
    assert await site.arms() == {"stable": ("deployed-2", 100.0)}
    await run("fleet-report/fleet-report", targets=[TARGET])
    assert await rows_of("fleet-report") >= {("deployed-1", "SCALED_TO_ZERO"), ("deployed-2", "READY")}
    await run("clean-up-orphans/clean-up-orphans", targets=[TARGET], action="scale_to_zero", older_than_seconds=0)
    assert {id for id, _ in await rows_of("clean-up-orphans", "What was done")} == {"deployed-1", "deployed-2"}
    assert await site.deployments() == {"deployed-1": "SCALED_TO_ZERO", "deployed-2": "READY"}


@pytest.mark.timeout(500)
async def test_a_run_that_waits_for_a_yes_before_traffic_has_no_process(site: Site) -> None:
    """Suspended, answered, and run again by the worker up to its end."""
    await run("promote-to-production/promote-to-production", target=TARGET, candidate=_json(site, "8"), approval=None)
    approval = {"before": ["traffic"], "timeout_seconds": 600}
    plan = {**QUICK.model_dump(mode="json"), "steps": [50]}
    parameters = {"target": TARGET, "candidate": _json(site, "9"), "plan": plan, "approval": approval}
    async with get_client() as client, await site.load() as answers:
        await site.history(answers)
        deployment = await client.read_deployment_by_name("canary-rollout/canary-rollout")
        started = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        async def state_name() -> str:
            state = (await client.read_flow_run(started.id)).state
            return state.name or "" if state else ""

        async def is_suspended() -> bool:
            assert await state_name() not in ("Failed", "Crashed")
            return await state_name() == "Suspended"

        await eventually(is_suspended, seconds=120)
        assert await site.arms() == {"stable": ("deployed-8", 100.0)}
        assert await reconcile_rollouts([site.target]) == [], "it is not lost: a person is to answer"
        await orders.answer(site.target.endpoint, "promote", "go", "ada")

        async def is_promoted() -> bool:
            assert await state_name() not in ("Failed", "Crashed")
            return await state_name() == "Promoted"

        await eventually(is_promoted, seconds=200)
    assert await site.arms() == {"stable": ("deployed-9", 100.0)}


def _json(site: Site, version: str) -> Any:
    return json.loads(site.spec(version, "good").model_dump_json())


async def rows_of(key: str, column: str = "Status") -> set[tuple[str, str]]:
    """Deployments in a table artifact, and what it says of them."""
    table = await Artifact.aget(key)
    assert table is not None
    return {(row["Deployment"], row[column]) for row in json.loads(str(table.data))}


@pytest_asyncio.fixture
async def nightly(deployed: dict[str, str], tmp_path: Path) -> AsyncIterator[Hosted]:
    """A second target, at a provider whose zero changes settings."""
    async with hosted("baseten", tmp_path) as hosting:
        await hosting.target.credentials.save("nightly", overwrite=True)
        await hosting.target.save("nightly", overwrite=True)
        yield hosting
        await DeploymentTarget.adelete("nightly")


async def pause_and_resume(name: str) -> None:
    """As a person does with the switch in the UI, which erases what the schedule itself says of parameters."""
    async with get_client() as client:
        for active in (False, True):
            deployment = await client.read_deployment_by_name(name)
            await client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=active)
        [schedule] = (await client.read_deployment_by_name(name)).schedules
    assert schedule.active


async def give(name: str, **parameters: Any) -> None:
    """As a person does in the UI: parameters of the deployment, for all its runs."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(name)
        await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))


async def test_down_paused_resumed_and_up_again_leaves_all_settings_as_they_were(site: Site, nightly: Hosted) -> None:
    down, up, both = "scale-to-zero/scale-down", "wake-up/wake-up", [TARGET, "nightly"]
    [first] = await nightly.production()
    async with client_of(nightly.target) as client:
        before = await client.scale(first.id, Autoscaling(min_replicas=2, max_replicas=3))
    local = await ready(site)
    await give(down, targets=both, only_if_idle_seconds=None)
    await give(up, targets=both)
    await run(down)
    [asleep] = await nightly.production()
    assert asleep.autoscaling is not None
    assert asleep.autoscaling.min_replicas == 0
    assert await ready(site) == set()

    await pause_and_resume(down)
    await pause_and_resume(up)
    await run(up)
    [after] = await nightly.production()
    assert (after.autoscaling, after.ready) == (before.autoscaling, True)
    assert await ready(site) == local


async def ready(site: Site) -> set[str]:
    return {id for id, status in (await site.deployments()).items() if status == "READY"}


async def test_schedules_have_the_time_zone_and_are_on(deployed: dict[str, str]) -> None:
    async with get_client() as client:
        flows = ("clean-up-orphans", "fleet-report", "wake-up")
        for name in ("scale-to-zero/scale-down", *(f"{flow}/{flow}" for flow in flows)):
            [schedule] = (await client.read_deployment_by_name(name)).schedules
            assert schedule.active
            assert schedule.slug
            assert schedule.schedule.timezone == "Europe/Berlin"  # type: ignore[union-attr]


async def test_redeploying_leaves_what_a_person_paused_paused(deployed: dict[str, str]) -> None:
    prefect, file = str(BIN / "prefect"), str(ROOT / "flows" / "prefect.yaml")
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("wake-up/wake-up")
        await client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
        await asyncio.to_thread(call, deployed, prefect, "--no-prompt", "deploy", "--prefect-file", file, "--all")
        [schedule] = (await client.read_deployment_by_name("wake-up/wake-up")).schedules
    assert not schedule.active
