"""Every flow of the package is run once by a process worker, and once by `.serve()`."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.deployed.kit import NAMES, ROOT, is_deployed, run_each_flow, running
from tests.flows.conftest import Site

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
    await run_each_flow(site, NAMES)


async def test_serve_runs_each_flow(served: None, site: Site) -> None:
    deployments = {flow: f"{flow}/{name}" for flow, name in SERVED.items()}
    for deployment in deployments.values():
        await eventually(lambda deployment=deployment: is_deployed(deployment), 120, every=0.5)
    await run_each_flow(site, deployments)
