"""Create or update the Docker Serving block, after harmless calls that show whether engine and registry answer.

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

import os
from typing import Any

from prefect.types import SecretDict
from prefect_docker import DockerHost, DockerRegistryCredentials

from prefect_modeldeploy.block_scripts import changed, given, required, run, save, saved
from prefect_modeldeploy.providers.docker import DockerServing

VARIABLES = {"bind_address": "MODELDEPLOY_DOCKER_BIND", "address": "MODELDEPLOY_DOCKER_ADDRESS"}


def from_environment() -> dict[str, Any]:
    fields: dict[str, Any] = {**given(VARIABLES)}
    if url := os.environ.get("MODELDEPLOY_DOCKER_HOST"):
        fields["host"] = DockerHost(base_url=url)
    if registry := os.environ.get("MODELDEPLOY_DOCKER_REGISTRY"):
        fields["registry"] = DockerRegistryCredentials(
            registry_url=registry,
            username=required("MODELDEPLOY_DOCKER_REGISTRY_USER"),
            password=required("MODELDEPLOY_DOCKER_REGISTRY_KEY"),
        )
    if names := os.environ.get("MODELDEPLOY_DOCKER_SECRETS"):
        why = "MODELDEPLOY_DOCKER_SECRETS names it"
        fields["secret_env"] = SecretDict({name: required(name, why) for name in names.split(",") if name})
    return fields


async def main() -> str:
    fields, name = from_environment(), os.environ.get("MODELDEPLOY_DOCKER_BLOCK", "docker")
    serving = changed(DockerServing, await saved(DockerServing, name), fields)
    async with serving.get_client() as client:
        version, found = await client.engine.version(), await client.find()
        await client.engine.login()
    done = await save(serving, name)
    return f"{done}; engine {version}, {len(found)} deployments"


if __name__ == "__main__":
    run(main, VARIABLES)
