"""The block."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Self

import httpx
from prefect.types import SecretDict
from prefect_docker import DockerHost, DockerRegistryCredentials
from pydantic import Field, SecretStr, model_validator

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials
from prefect_modeldeploy.providers.docker.client import DockerClient
from prefect_modeldeploy.providers.docker.containers import Container
from prefect_modeldeploy.providers.docker.engine import Engine
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire


class DockerServing(ServingCredentials):
    """Serves models from containers on a Docker host.

    Attributes:
        host: The Docker host.
        registry: Credentials for the registry of the images.
        bind_address: Where ports are published on the Docker host.
        address: Where they are reached.
        lowest_port: First port to choose from.
        highest_port: Last port to choose from.
        secret_env: Secret environment variables of the containers.

    Example:
        ```python
        from prefect_modeldeploy import DockerServing

        serving = DockerServing.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Docker Serving"
    _block_type_slug = "docker-serving"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/14a315b79990200db7341e42553e23650b34bb96-250x250.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/providers/docker.md"  # type: ignore[assignment]
    _description = "Serves models from containers on a Docker host, behind the gateway."

    client_class: ClassVar[type[ServingClient]] = DockerClient

    host: DockerHost | None = Field(
        None, title="Host", description="The Docker host. None: the one that DOCKER_HOST names, else this machine's."
    )
    registry: DockerRegistryCredentials | None = Field(
        None,
        title="Registry",
        description="Credentials for the registry of the images. None: images that anybody may pull.",
    )
    bind_address: str = Field(
        "127.0.0.1",
        description="IP address of the Docker host at which ports are published. Containers ask nobody for a key: "
        "choose one that only the gateway's machine can reach.",
    )
    address: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9.-]+$",
        description="Host name or IP address at which flows and the gateway reach these ports. None: the bind address.",
    )
    lowest_port: int = Field(20_000, ge=1, le=65535, description="First port of the Docker host to choose from.")
    highest_port: int = Field(29_999, ge=1, le=65535, description="Last port of the Docker host to choose from.")
    secret_env: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description='Secret environment variables of the containers that are made with this block: {"NAME": "value"}.',
    )

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        try:
            bind = ipaddress.IPv4Address(self.bind_address)
        except ValueError as error:
            raise InvalidInput("bind_address", self.bind_address, f"must be an IPv4 address: {error}") from None
        if bind.is_unspecified and self.address is None:
            raise InvalidInput("address", None, f"say where ports at bind_address={self.bind_address!r} are reached")
        if self.lowest_port > self.highest_port:
            raise ValueError(f"lowest_port={self.lowest_port} must not be above highest_port={self.highest_port}")
        return self

    def wire(self) -> Wire:
        """Path and payload are the container's own."""
        return "native"

    def arm(self, deployment: Deployment) -> RemoteArm:
        """All its replicas; the proxy checks their health, and spreads the requests."""
        first, *others = deployment.raw["addresses"]
        options = Container(deployment.raw["serving"][0]).options
        return RemoteArm(
            id=deployment.id,
            provider=deployment.provider,
            url=f"http://{first}{options.predict_path}",
            replicas=tuple(others),
            health_path=options.health_path,
        )

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[DockerClient]:
        """Yield a client. The engine is not called before it is needed."""
        secret_env = {name: SecretStr(str(value)) for name, value in self.secret_env.get_secret_value().items()}
        engine = Engine(self.host or DockerHost(), self.registry, secret_env.values())
        # As the gateway reaches them: not by a proxy of the environment. Plain http needs no authorities to be read.
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:  # noqa: S501
            try:
                yield DockerClient(
                    engine,
                    http,
                    bind=self.bind_address,
                    address=self.address or self.bind_address,
                    ports=range(self.lowest_port, self.highest_port + 1),
                    secret_env=secret_env,
                    logger=self.logger,
                )
            finally:
                await engine.close()
