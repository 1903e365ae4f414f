"""How flows reach a gateway that runs elsewhere, or that other providers' deployments are put behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator

from prefect_modeldeploy.block_schemas import SchemaOnce
from prefect_modeldeploy.local.client import NodeClient, trusting
from prefect_modeldeploy.transport import RetryPolicy
from prefect_modeldeploy.urls import check_base_url

POLICY = RetryPolicy(attempts=5, total_seconds=10.0)
"""A node that is being restarted is back in seconds."""


class Gateway(SchemaOnce, Block):
    """The control API of a serving node, whose proxy splits the traffic of endpoints between deployments anywhere.

    Attributes:
        url: Address of the node's control API.
        token: Its bearer token.
        ca_file: Authorities to trust at that address.
        arms_ca_file: Authorities that the gateway trusts at providers.
        allow_http: Allow plain http to another machine.

    Example:
        ```python
        from prefect_modeldeploy import Gateway

        gateway = Gateway.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Model Gateway"
    _block_type_slug = "model-gateway"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/canary-across-providers.md"  # type: ignore[assignment]
    _description = "A gateway that splits traffic between deployments, at one provider or at two."

    url: str = Field(description="Address of the node's control API; https, or http on this machine.")
    token: SecretStr = Field(
        min_length=1, description="Bearer token of that API, from the file token in the node's home."
    )
    ca_file: str | None = Field(
        None,
        description="PEM file here, with the authorities to trust there. None: those that Python trusts.",
    )
    arms_ca_file: str | None = Field(
        None,
        description="PEM file on the gateway's machine, with the authorities to trust at providers. None: those that "
        "the machine trusts.",
    )
    allow_http: bool = Field(False, description="Allow plain http to another machine: the token goes in clear.")

    @model_validator(mode="after")
    def _address(self) -> Self:
        check_base_url("url", self.url, allow_http=self.allow_http)
        return self

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[NodeClient]:
        """Yield a client of the node, which is a `TrafficRouter` too.

        Raises:
            InvalidInput: `ca_file` cannot be read.
        """
        tls = trusting(self.ca_file)
        async with NodeClient(self.url, self.token, policy=POLICY, tls=tls, allow_http=self.allow_http) as node:
            yield node
