"""Scale's Generative AI Platform (SGP) as a provider: its V4 API, and V5 as far as it deploys.

| vendor's word (V4) | status          | ready | may receive traffic                                              |
|--------------------|-----------------|-------|------------------------------------------------------------------|
| UPDATE_PENDING     | PENDING         | no    | no, unless it served before: it goes on to                       |
| UPDATE_IN_PROGRESS | UPDATING        | no    | as above                                                         |
| READY              | READY           | yes   | yes; it says nothing about workers, so a wait sends a request    |
| READY, put to zero | SCALED_TO_ZERO  | no    | yes: the first request wakes it                                  |
| UPDATE_FAILED      | FAILED          | no    | no                                                               |
| DELETE_IN_PROGRESS | STOPPING        | no    | no                                                               |
| any other          | UNKNOWN         | no    | no                                                               |

Only READY is confirmed by the vendor; the other words are those of its open serving backend. V5's are in `v5.py`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, WithJsonSchema, model_validator

from prefect_modeldeploy.deployments import Capability, Deployment
from prefect_modeldeploy.errors import UnsupportedOperation
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials, address_of
from prefect_modeldeploy.providers.scale.client import ScaleClient
from prefect_modeldeploy.providers.scale.v5 import ScaleV5Client
from prefect_modeldeploy.providers.scale.wire import read_problem
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire
from prefect_modeldeploy.transport import SecretHeader, Transport
from prefect_modeldeploy.urls import check_base_url

__all__ = ["ScaleClient", "ScaleCredentials", "ScaleV5Client"]

BASE_URL = "https://api.egp.scale.com"


class ScaleCredentials(ServingCredentials):
    """Access to models on Scale's Generative AI Platform.

    Attributes:
        api_key: The API key.
        account_id: The account to work in.
        base_url: Address of the API.
        api: Which API deploys: v4 or v5.
        probe: Request that a deployment must answer to count as ready while somebody waits.
        allow_http: Allow plain http to other machines.

    Example:
        ```python
        from prefect_modeldeploy.providers.scale import ScaleCredentials

        credentials = ScaleCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Scale Credentials"
    _block_type_slug = "scale-credentials"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/providers/scale.md"  # type: ignore[assignment]
    _description = "Models, deployments and model servers on Scale's Generative AI Platform (SGP)."

    client_class: ClassVar[type[ServingClient]] = ScaleClient

    api_key: SecretStr = Field(description="API key of the Scale platform.")
    account_id: str | None = Field(
        None, description="Id of the account to work in. V5 and the creation of models need it. None: the key's own."
    )
    base_url: str = Field(
        BASE_URL, description="Address of the API; https, or http on this machine, unless allow_http is set."
    )
    api: Literal["v4", "v5"] = Field(
        "v4", description="Which API deploys: v4 (model instances and deployments) or v5 (models that serve; preview)."
    )
    probe: Annotated[dict[str, Any] | None, WithJsonSchema({})] = Field(
        default_factory=dict,
        description="JSON of a request that a V4 deployment must answer (400 or 422 will do) before a wait believes "
        "that it is ready. null: the vendor's word is enough.",
    )
    allow_http: bool = Field(False, description="Allow plain http to other machines: the API key is sent in clear.")

    @model_validator(mode="after")
    def _address(self) -> Self:
        check_base_url("base_url", self.base_url, allow_http=self.allow_http)
        return self

    def can(self, capability: Capability) -> bool:
        """Whether the chosen API has the capability."""
        return (ScaleV5Client if self.api == "v5" else ScaleClient).can(capability)

    def wire(self) -> Wire:
        """V4 takes and gives the model's own JSON.

        Raises:
            UnsupportedOperation: V5 names the model in the body, by a name that a promotion gives to another one.
        """
        if self.api == "v4":
            return "native"
        hint = "V5 addresses a model by its name, which a promotion gives to another one; use api='v4'"
        raise UnsupportedOperation(self.client_class.provider, Capability.TRAFFIC, hint)

    def arm(self, deployment: Deployment) -> RemoteArm:
        """V4's `execute` of this very deployment; it takes JSON objects only."""
        self.wire()
        account = {"x-selected-account-id": SecretStr(self.account_id)} if self.account_id else {}
        headers = {"x-api-key": self.api_key, **account}
        url = address_of(deployment)
        return RemoteArm(id=deployment.id, provider=deployment.provider, url=url, headers=headers)

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[ServingClient]:
        """Yield a client of the chosen API.

        Raises:
            InvalidInput: The base URL cannot be used.
        """
        async with self._transport() as transport:
            url = self.base_url.rstrip("/")
            if self.api == "v5":
                yield ScaleV5Client(transport, url)
            else:
                yield ScaleClient(transport, url, self.account_id, self.probe)

    def _transport(self) -> Transport:
        return Transport(
            "scale",
            self.base_url,
            auth=SecretHeader(self.api_key, header="x-api-key"),
            secrets=[self.api_key],
            headers={"x-selected-account-id": self.account_id} if self.account_id else {},
            read_error=read_problem,
            timeout=60.0,
            allow_http=self.allow_http,
            logger=self.logger,
        )
