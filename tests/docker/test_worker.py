"""Flows in containers: flows/docker/prefect.yaml builds their image, and a real Docker worker runs them."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio
import yaml
from prefect.settings import get_current_settings

from prefect_modeldeploy import DeploymentTarget, LocalServing
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.home import Home
from tests.conftest import eventually
from tests.deployed.kit import NAMES, run_each_flow
from tests.docker import worker_image
from tests.flows.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(900)]

FILES = Path(__file__).parents[2] / "flows" / "docker"
PREFECT = [sys.executable, "-m", "prefect"]
BASE, IMAGE = "modeldeploy-tests/base:1", "modeldeploy-tests/flows"


@pytest.fixture(scope="module")
def files(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Those of the project, with a base image that needs no registry."""
    directory = tmp_path_factory.mktemp("docker") / "files"
    shutil.copytree(FILES, directory)
    dockerfile, deployments = directory / "Dockerfile", directory / "prefect.yaml"
    dockerfile.write_text(dockerfile.read_text().replace("FROM prefecthq/prefect:3-python3.11", f"FROM {BASE}"))
    content = yaml.safe_load(deployments.read_text())
    [build] = content["build"][0].values()
    build |= {"image_name": IMAGE, "pull": False}
    for deployment in content["deployments"]:
        deployment.pop("schedules", None)  # a run of its own accord would hold up the worker's end
    deployments.write_text(yaml.dump(content))
    worker_image.build(engine, BASE)
    yield directory
    for image in (f"{IMAGE}:{build['tag']}", BASE):
        engine.images.remove(image, force=True)


@pytest.fixture(scope="module")
def worker(files: Path, prefect_server: None) -> Iterator[None]:
    """The deployments, made as the file says, and a Docker worker."""
    api = get_current_settings().api.url
    assert api
    environment = {**os.environ, "PREFECT_API_URL": api}

    def prefect(*arguments: str) -> None:
        done = subprocess.run([*PREFECT, *arguments], env=environment, cwd=files, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    prefect("work-pool", "create", "modeldeploy-docker", "--type", "docker")
    prefect("--no-prompt", "deploy", "--all")
    start = [*PREFECT, "worker", "start", "--pool", "modeldeploy-docker"]
    running = subprocess.Popen(start, env=environment, cwd=files)
    yield
    running.terminate()
    running.wait(120)


@pytest_asyncio.fixture(scope="module")
async def site(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A node outside of all containers."""
    home = Home(tmp_path_factory.mktemp("node"))
    info = await ensure_node(home)
    serving = LocalServing(url=info.control_url, token=home.token())
    site = Site(DeploymentTarget(credentials=serving, model="contained", endpoint="contained"))
    await site.target.save("contained", overwrite=True)
    yield site
    await stop_node(home)


@pytest.mark.usefixtures("worker")
async def test_a_docker_worker_runs_each_flow(site: Site, engine: docker.DockerClient) -> None:
    """In containers that share the network of this machine, so that they reach a server and a node on loopback."""
    await run_each_flow(site, NAMES, network_mode="host")
    theirs = {"ancestor": f"{IMAGE}:latest"}
    await eventually(lambda: not engine.containers.list(all=True, filters=theirs, ignore_removed=True))
