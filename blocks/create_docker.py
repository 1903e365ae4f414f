"""Create or update the Docker Serving block, after one harmless call that shows whether the engine answers.

    MODELDEPLOY_DOCKER_HOST=unix:///var/run/docker.sock python blocks/create_docker.py

| variable                         | meaning                                                     | default          |
|----------------------------------|-------------------------------------------------------------|------------------|
| MODELDEPLOY_DOCKER_HOST          | address of the engine                                       | what DOCKER_HOST |
|                                  |                                                             | says at run time |
| MODELDEPLOY_DOCKER_BIND          | IP address there at which ports are published               | 127.0.0.1        |
| MODELDEPLOY_DOCKER_ADDRESS       | host name or IP address at which they are reached           | the one before   |
| MODELDEPLOY_DOCKER_REGISTRY      | registry of private images; needs the next two              | none             |
| MODELDEPLOY_DOCKER_REGISTRY_USER | user name there                                             | none             |
| MODELDEPLOY_DOCKER_REGISTRY_KEY  | password or token there                                     | none             |
| MODELDEPLOY_DOCKER_SECRETS       | names (a,b) of variables that containers get, as here       | none             |
| MODELDEPLOY_DOCKER_BLOCK         | name of the block                                           | docker           |
"""

import asyncio
import os
import sys
from typing import Any

from prefect.types import SecretDict
from prefect_docker import DockerHost, DockerRegistryCredentials

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.docker import DockerServing


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: see the table at the top of {sys.argv[0]}")
    return value


def from_environment() -> DockerServing:
    given: dict[str, Any] = {}
    if url := os.environ.get("MODELDEPLOY_DOCKER_HOST"):
        given["host"] = DockerHost(base_url=url)
    if registry := os.environ.get("MODELDEPLOY_DOCKER_REGISTRY"):
        given["registry"] = DockerRegistryCredentials(
            registry_url=registry,
            username=required("MODELDEPLOY_DOCKER_REGISTRY_USER"),
            password=required("MODELDEPLOY_DOCKER_REGISTRY_KEY"),
        )
    for field, name in (("bind_address", "MODELDEPLOY_DOCKER_BIND"), ("address", "MODELDEPLOY_DOCKER_ADDRESS")):
        if value := os.environ.get(name):
            given[field] = value
    names = filter(None, os.environ.get("MODELDEPLOY_DOCKER_SECRETS", "").split(","))
    return DockerServing(secret_env=SecretDict({name: required(name) for name in names}), **given)


async def main() -> None:
    serving = from_environment()
    async with serving.get_client() as client:
        version, found = await client.engine.version(), await client.find()
    name = os.environ.get("MODELDEPLOY_DOCKER_BLOCK", "docker")
    await serving.save(name, overwrite=True)
    print(f"saved docker-serving/{name}; engine {version}, {len(found)} deployments")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ModelDeployError, ValueError) as error:
        sys.exit(f"docker: {str(error).removeprefix('docker: ')}")
