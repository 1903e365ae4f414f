"""Every flow of the package is run once by a process worker, and once by `.serve()`."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from tests.conftest import eventually
from tests.deployed.kit import FLOWS, ROOT, is_deployed, rows_of, run, running, spec_as_json
from tests.flows.conftest import QUICK, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the set-up is counted too

SERVED = {
    "canary-rollout": "canary",
    "clean-up-orphans": "nights",
    "fleet-report": "mornings",
    "plan-rollout": "plan",
    "promote-to-production": "promote",
    "reconcile-rollouts": "always",
    "roll-back": "by-hand",
    "scale-to-zero": "evenings",
    "wake-up": "mornings",
}
"""What the scripts in flows/ call their deployments; never as flows/prefect.yaml does, or one would break the other."""


@pytest.fixture
def served(environment: dict[str, str], elsewhere: Path) -> Iterator[None]:
    """All scripts at the top level, each in a process of its own."""
    with ExitStack() as scripts:
        for script in sorted(ROOT.glob("flows/*.py")):
            scripts.enter_context(running(environment, sys.executable, str(script), cwd=elsewhere))
        yield


async def test_a_worker_runs_each_flow(deployed: dict[str, str], worker: None, site: Site) -> None:
    names = {flow: flow for flow in FLOWS} | {"scale-to-zero": "scale-down"}
    await run_each_flow(site, {flow: f"{flow}/{name}" for flow, name in names.items()})


async def test_serve_runs_each_flow(served: None, site: Site) -> None:
    deployments = {flow: f"{flow}/{name}" for flow, name in SERVED.items()}
    for deployment in deployments.values():
        await eventually(lambda deployment=deployment: is_deployed(deployment), 120, every=0.5)
    await run_each_flow(site, deployments)


async def deployments_of(site: Site) -> dict[str, str]:
    return {id: status for id, status in (await site.deployments()).items() if id.startswith(site.target.model)}


async def run_each_flow(site: Site, deployments: dict[str, str]) -> None:
    """One after the other: what each leaves is what the next one finds."""
    ran = set()

    async def flow(name: str, **parameters: object) -> str | None:
        ran.add(name)
        return (await run(deployments[name], **parameters)).state_name

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
    assert await site.arms() == {"stable": (second, 100.0)}

    await flow("roll-back", target=target, note="by hand")
    assert await site.arms() == {"stable": (first, 100.0)}

    await flow("reconcile-rollouts")  # all saved targets: nothing is lost, so nothing happens
    assert await site.arms() == {"stable": (first, 100.0)}

    await flow("scale-to-zero", targets=[target], only_if_idle_seconds=None)
    assert set((await deployments_of(site)).values()) == {"SCALED_TO_ZERO"}
    await flow("wake-up", targets=[target])
    assert await deployments_of(site) == {first: "READY", second: "SCALED_TO_ZERO"}

    await flow("fleet-report", targets=[target])
    assert await rows_of("fleet-report") == {(first, "READY"), (second, "SCALED_TO_ZERO")}
    await flow("clean-up-orphans", targets=[target], action="scale_to_zero", older_than_seconds=0)
    assert {id for id, _ in await rows_of("clean-up-orphans", "What was done")} == {first, second}
    assert await deployments_of(site) == {first: "READY", second: "SCALED_TO_ZERO"}
    assert ran == FLOWS
