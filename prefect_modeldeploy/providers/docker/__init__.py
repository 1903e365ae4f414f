"""Model containers on a Docker host: its block, and the Engine API in our words."""

from prefect_modeldeploy.providers.docker.block import DockerServing
from prefect_modeldeploy.providers.docker.client import DockerClient

__all__ = ["DockerClient", "DockerServing"]
