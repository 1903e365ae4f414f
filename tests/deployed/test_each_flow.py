"""Every flow of the package is run once by a process worker, and once by `.serve()`."""

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import eventually
from tests.deployed.kit import NAMES, ROOT, is_deployed, run_each_flow, running
from tests.flows.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the set-up is counted too

SERVED = {
    "canary.py": {"canary-rollout": "canary", "plan-rollout": "plan"},
    "fleet.py": {"fleet-report": "mornings", "clean-up-orphans": "nights"},
    "promote.py": {"promote-to-production": "promote"},
    "roll_back.py": {"roll-back": "by-hand", "reconcile-rollouts": "always"},
    "scale_schedule.py": {"scale-to-zero": "evenings", "wake-up": "mornings"},
}
"""What the scripts in flows/ call their deployments; never as flows/prefect.yaml does, or one would break the other."""


@pytest_asyncio.fixture
async def served(environment: dict[str, str], elsewhere: Path) -> AsyncIterator[dict[str, str]]:
    """All scripts at the top level, each in a process of its own; yields the deployment of each flow.

    One after the other: `.serve()` gives up at a 503, which a server on SQLite may answer when all come at once.
    """
    assert set(SERVED) == {script.name for script in ROOT.glob("flows/*.py")}
    with ExitStack() as scripts:
        deployments = {}
        for script, names in SERVED.items():
            scripts.enter_context(running(environment, sys.executable, str(ROOT / "flows" / script), cwd=elsewhere))
            for flow, name in names.items():
                deployments[flow] = f"{flow}/{name}"
                await eventually(partial(is_deployed, deployments[flow]), 120, every=0.5)
        yield deployments


async def test_a_worker_runs_each_flow(deployed: dict[str, str], worker: None, site: Site) -> None:
    await run_each_flow(site, NAMES)


async def test_serve_runs_each_flow(served: dict[str, str], site: Site) -> None:
    await run_each_flow(site, served)
