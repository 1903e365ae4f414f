"""A real Docker engine: the one that DOCKER_HOST names, or this machine's. No tests without one."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import docker
import pytest
import pytest_asyncio
from docker.errors import DockerException

from prefect_modeldeploy import DeploymentSpec, DockerServing
from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.providers.docker import DockerClient
from tests.docker import image

IMAGE = "modeldeploy-tests/model:1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/docker" in str(item.path):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    try:
        engine = docker.from_env(timeout=30)
        engine.ping()
    except DockerException as error:
        pytest.skip(f"LOUD: no Docker engine answers, nothing of the Docker provider was tested: {error}")
    image.build(engine, IMAGE)
    yield engine
    engine.images.remove(IMAGE, force=True)
    engine.close()


class Host:
    """The engine, and names that no other test uses."""

    def __init__(self, engine: docker.DockerClient) -> None:
        self.engine, self.model = engine, f"m{uuid4().hex[:8]}"

    def spec(self, version: str = "1", *, options: dict[str, Any] | None = None, **more: Any) -> DeploymentSpec:
        fields: dict[str, Any] = {
            "name": f"{self.model}-{version}",
            "model": self.model,
            "version": version,
            "source": IMAGE,
            "env": {"VERSION": version, **more.pop("env", {})},
            "options": {"health_path": "/healthz", "pull": "never", "stop_seconds": 5, **(options or {})},
        }
        return DeploymentSpec(**{**fields, **more})

    def containers(self) -> list[Any]:
        """By name, whatever their state."""
        labelled = {"label": f"modeldeploy.model={self.model}"}
        return sorted(self.engine.containers.list(all=True, filters=labelled), key=lambda one: one.name)

    def names(self) -> list[str]:
        """What is behind the model's name, `g1-r0`."""
        return [one.name.partition(f"{self.model}-")[2].partition("-")[2] for one in self.containers()]

    def clear(self) -> None:
        for container in self.containers():
            container.remove(force=True, v=True)


@pytest.fixture
def host(engine: docker.DockerClient) -> Iterator[Host]:
    host = Host(engine)
    yield host
    host.clear()


@pytest_asyncio.fixture
async def client(host: Host) -> AsyncIterator[DockerClient]:
    async with DockerServing().get_client() as client:
        yield client


async def ready(client: DockerClient, made: Deployment) -> Deployment:
    async for [seen] in client.wait([made.id], lambda one: one.ready, model=made.model_id, timeout_seconds=60):  # noqa: B007
        pass
    return seen
