"""Ways to do what a user does: on the command line, with a deployment, and with the switch of a schedule."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

import prefect_modeldeploy.flows as flows
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site, has_told

ROOT = Path(__file__).parents[2]
FLOWS = {flow.name for flow in vars(flows).values() if isinstance(flow, Flow)}


def call(environment: dict[str, str], *command: str, cwd: Path = ROOT) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running(environment: dict[str, str], *command: str, cwd: Path) -> Iterator[None]:
    """A command that runs until it is told to end."""
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


async def run(name: str, job_variables: dict[str, Any] | None = None, **parameters: Any) -> FlowRun:
    """Run a deployment to its end, which must be a good one."""
    run = await run_deployment(name, parameters=parameters, job_variables=job_variables, timeout=200, poll_interval=0.5)
    assert run.state is not None
    assert run.state.is_completed(), f"{name}: {run.state.type} {run.state.message}"
    return run


async def is_deployed(name: str) -> bool:
    async with get_client() as client:
        try:
            await client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
    return True


async def runs_of(name: str) -> list[FlowRun]:
    """All runs that a deployment has had or will have."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(name)
        return await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
        )


async def runs_by(creator: str, name: str) -> list[FlowRun]:
    """Runs of a deployment that a `SCHEDULE` or an `AUTOMATION` has made, and that have begun."""
    return [run for run in await runs_of(name) if run.start_time and run.created_by and run.created_by.type == creator]


async def all_ended(name: str) -> bool:
    """Whether no run of a deployment is to come or under way."""
    return all(run.state and run.state.is_final() for run in await runs_of(name))


async def is_to_run(name: str) -> bool:
    """Whether a run of a deployment has been made for a time to come."""
    return any(run.state and run.state.is_scheduled() for run in await runs_of(name))


async def switch(name: str, *, on: bool) -> None:
    """The switch of a deployment's schedule, as a person finds it in the UI."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(name)
        [schedule] = deployment.schedules
        await client.update_deployment_schedule(deployment.id, schedule.id, active=on)


async def is_on(name: str) -> bool:
    async with get_client() as client:
        [schedule] = (await client.read_deployment_by_name(name)).schedules
    return schedule.active


NAMES = {flow: f"{flow}/{flow}" for flow in FLOWS} | {"scale-to-zero": "scale-to-zero/scale-down"}
"""What flows/prefect.yaml calls the deployment of each flow."""

TRANSITIONS = {
    "planned",
    "claimed",
    "deployed",
    "ready",
    "attached",
    "shifted",
    "judged",
    "approved",
    "full",
    "baked",
    "promoted",
    "retired",
    "ended",
}
"""Of a rollout that goes well."""


async def run_each_flow(site: Site, deployments: dict[str, str], **job_variables: Any) -> None:
    """One after the other: what each leaves is what the next one finds."""
    ran = set()

    async def flow(name: str, **parameters: object) -> str | None:
        ran.add(name)
        return (await run(deployments[name], job_variables, **parameters)).state_name

    target = site.target.endpoint
    first, second = (f"{target}-{version}" for version in ("1", "2"))
    candidate = spec_as_json(site, "2")
    await flow("promote-to-production", target=target, candidate=spec_as_json(site, "1"), approval=None)
    assert await site.arms() == {"stable": (first, 100.0)}

    await flow("plan-rollout", target=target, candidate=candidate)
    preview = await Artifact.aget(f"plan-local-{target}")
    assert preview is not None
    assert second in str(preview.data)
    assert set(await deployments_of(site)) == {first}, "a dry run creates nothing"

    async with await site.load() as answers:
        await site.history(answers)
        plan = QUICK.model_dump(mode="json")
        assert await flow("canary-rollout", target=target, candidate=candidate, plan=plan) == "Promoted"
    assert [failure for failure in answers.failures if failure != "status 500"] == []  # the models' own
    assert await site.arms() == {"stable": (second, 100.0)}
    waited = await Artifact.aget(f"{target}-ready")
    assert waited is not None
    assert (waited.type, float(str(waited.data))) == ("progress", 100.0)
    await eventually(lambda: has_told(site.target, TRANSITIONS), 60, every=0.5)

    await flow("roll-back", target=target, note="by hand")
    assert await site.arms() == {"stable": (first, 100.0)}

    await flow("reconcile-rollouts")  # all saved targets: nothing is lost, so nothing happens
    assert await site.arms() == {"stable": (first, 100.0)}

    await flow("scale-to-zero", targets=[target], only_if_idle_seconds=None)
    await eventually(lambda: all_sleep(site), 60, every=0.2)
    await flow("wake-up", targets=[target])
    assert await deployments_of(site) == {first: "READY", second: "SCALED_TO_ZERO"}

    await flow("fleet-report", targets=[target])
    assert await rows_of("fleet-report") == {(first, "READY"), (second, "SCALED_TO_ZERO")}
    await flow("clean-up-orphans", targets=[target], action="scale_to_zero", older_than_seconds=0)
    assert {id for id, _ in await rows_of("clean-up-orphans", "What was done")} == {first, second}
    assert await deployments_of(site) == {first: "READY", second: "SCALED_TO_ZERO"}
    assert ran == FLOWS


async def all_sleep(site: Site) -> bool:
    """Whether all replicas are gone: what they were at, they answer first."""
    return set((await deployments_of(site)).values()) == {"SCALED_TO_ZERO"}


async def deployments_of(site: Site) -> dict[str, str]:
    return {id: status for id, status in (await site.deployments()).items() if id.startswith(site.target.model)}


def spec_as_json(site: Site, version: str) -> Any:
    return json.loads(site.spec(version, "good").model_dump_json())


async def rows_of(key: str, column: str = "Status") -> set[tuple[str, str]]:
    """Deployments in a table artifact, and what it says of them."""
    table = await Artifact.aget(key)
    assert table is not None
    return {(row["Deployment"], row[column]) for row in json.loads(str(table.data))}
