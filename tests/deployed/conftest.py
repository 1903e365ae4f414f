"""What a user has: a Prefect server with its scheduler, flows/prefect.yaml deployed to it, and a worker at work."""

import os
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy import DeploymentTarget, LocalServing
from prefect_modeldeploy.local.autostart import stop_node
from tests.deployed.kit import call, running
from tests.flows.conftest import Site
from tests.prefect_server import Server, restartable_server, wait_for
from tests.readme import block_after

LINES = block_after("Deployments with schedules:", "bash").splitlines()


@pytest.fixture(scope="package")
def prefect_server() -> Iterator[Server]:
    """A server for these tests only, whose scheduler looks more often than every minute, and not an hour ahead."""
    settings = {"LOOP_SECONDS": "2", "MIN_SCHEDULED_TIME": "PT1M", "MAX_RUNS": "5"}
    brisk = {f"PREFECT_SERVER_SERVICES_SCHEDULER_{name}": value for name, value in settings.items()}
    with restartable_server("--no-ui", **brisk) as server:
        wait_for(server.url)
        # What Prefect sends in the background goes to the server that it met first, unless it begins anew.
        EventsWorker.drain_all()
        with temporary_settings({PREFECT_API_URL: server.url}):
            yield server
        EventsWorker.drain_all()


@pytest_asyncio.fixture(scope="package")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    directory = tmp_path_factory.mktemp("site")
    yield directory
    await stop_node(directory)


@pytest.fixture(scope="package")
def environment(home: Path, prefect_server: Server) -> dict[str, str]:
    """What the subprocesses see: this package's server and node. They look for runs every second."""
    here = {"MODELDEPLOY_HOME": str(home), "PREFECT_API_URL": prefect_server.url}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    brisk = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    return {**os.environ, **here, **brisk, "PATH": path, "PREFECT_LOGGING_LEVEL": "WARNING"}


@pytest.fixture(scope="package")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has nothing to do with the project."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="package")
def prepared(environment: dict[str, str]) -> dict[str, str]:
    """The README's own lines, but for the last two: block types, blocks, and a work pool."""
    for line in LINES[:-2]:
        call(environment, "bash", "-euc", line)
    return environment


@pytest.fixture(scope="module")
def deployed(prepared: dict[str, str]) -> dict[str, str]:
    """The line that deploys flows/prefect.yaml: again for every module, for `.serve()` makes deployments of its own."""
    call(prepared, "bash", "-euc", LINES[-2])
    return prepared


@pytest.fixture
def worker(deployed: dict[str, str], elsewhere: Path) -> Iterator[None]:
    """The last line, from another directory."""
    with running(deployed, *shlex.split(LINES[-1]), cwd=elsewhere):
        yield


@pytest.fixture
async def site(environment: dict[str, str], home: Path) -> Site:
    """A saved target for each try of a test, with the name of its model."""
    name = f"m{uuid4().hex[:8]}"
    target = DeploymentTarget(credentials=LocalServing(home=home), model=name, endpoint=name)
    await target.save(name)
    return Site(target)
