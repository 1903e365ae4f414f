"""The block that holds a Fiddler token, and opens a client for whatever generation the server is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import InvalidInput, NotFound
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials, address_of
from prefect_modeldeploy.providers.fiddler.api import Api, Generation, is_v3, read_error
from prefect_modeldeploy.providers.fiddler.api2 import Api2
from prefect_modeldeploy.providers.fiddler.api3 import Api3
from prefect_modeldeploy.providers.fiddler.client import FiddlerClient
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire
from prefect_modeldeploy.traffic.envelope import Envelope
from prefect_modeldeploy.transport import RetryPolicy, SecretHeader, Transport
from prefect_modeldeploy.urls import check_base_url


class FiddlerCredentials(ServingCredentials):
    """Serves models with Fiddler, by its v3 API, or by v2 on servers older than 24.4.

    Attributes:
        base_url: Root of the Fiddler server.
        token: API token.
        project: Project that models are looked for and created in.
        organization: Name of the organization, for servers with the v2 API.
        api: Generation of the API.
        job_timeout_seconds: How long to wait for a job of Fiddler's.
        delete_any_model: Whether deleting may delete models that this package did not create.
        allow_http: Whether plain http to another machine is allowed.

    Example:
        ```python
        from prefect_modeldeploy.providers.fiddler import FiddlerCredentials

        fiddler = FiddlerCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Fiddler Credentials"
    _block_type_slug = "fiddler-credentials"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/providers/fiddler.md"  # type: ignore[assignment]
    _description = "Deploys, stops, starts, scales and promotes models on Fiddler."

    client_class: ClassVar[type[ServingClient]] = FiddlerClient

    base_url: str = Field(description="Root of the Fiddler server, such as https://acme.fiddler.ai; it takes no path.")
    token: SecretStr = Field(min_length=1, description="API token, from Settings, Credentials in Fiddler.")
    project: str | None = Field(
        None, description="Name or UUID of the project of the models. Needed to create the first version of a model."
    )
    organization: str | None = Field(None, description="Name of the organization. Needed only for the v2 API.")
    api: Generation = Field("auto", description="Generation of the API: v3, v2, or auto to ask the server.")
    job_timeout_seconds: float = Field(
        1800.0, gt=0, description="Seconds that a promotion, a roll-back or a deletion waits for Fiddler's job."
    )
    delete_any_model: bool = Field(
        False,
        description="Deleting a deployment deletes its model with all data. True allows it for any model, "
        "not only for those that this package created.",
    )
    allow_http: bool = Field(False, description="Allow plain http to another machine: the token goes in clear.")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        url = check_base_url("base_url", self.base_url, allow_http=self.allow_http)
        parts = urlsplit(url)
        if parts.path or parts.query or parts.fragment:
            raise InvalidInput("base_url", url, f"Fiddler's API takes no path: give {parts.scheme}://{parts.netloc}")
        if self.api == "v2" and not (self.organization and self.project):
            missing = "project" if self.organization else "organization"
            raise InvalidInput(missing, None, "the v2 API addresses models by organization and project: set both")
        return self

    def wire(self) -> Wire:
        """One address for all models: the body names the model, and rows travel in lists."""
        return "adapter"

    def arm(self, deployment: Deployment) -> RemoteArm:
        """The one address for predictions, the model being named in the body."""
        url = address_of(deployment)
        names: dict[str, Any] = {"model_id": deployment.id}
        if urlsplit(url).path == Api2.predict_path:
            project, _, model = deployment.id.partition(":")
            names = {"project_name": project, "organization_name": self.organization, "model_name": model}
        return RemoteArm(
            id=deployment.id,
            provider=deployment.provider,
            url=url,
            headers={"Authorization": SecretStr(f"Bearer {self.token.get_secret_value()}")},
            adapter=Envelope(field="data", constants=names, answer=("data", "predictions"), rows=True),
        )

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[FiddlerClient]:
        """Yield a client; with `api="auto"` the server is asked for its version first.

        Raises:
            AuthenticationFailed: The token is wrong.
            InvalidInput: The server has only v2, and the organization or the project is not set.
        """
        url = self.base_url.rstrip("/")
        async with self._transport(url) as transport:
            yield FiddlerClient(
                await self._open(transport),
                url,
                job_timeout_seconds=self.job_timeout_seconds,
                delete_any_model=self.delete_any_model,
            )

    def _transport(self, url: str, policy: RetryPolicy | None = None) -> Transport:
        return Transport(
            "fiddler",
            url,
            auth=SecretHeader(self.token, scheme="Bearer"),
            secrets=[self.token],
            policy=policy,
            read_error=read_error,
            retryable=(500,),  # the official client repeats every 5xx but 501
            allow_http=self.allow_http,
            logger=self.logger,
        )

    async def _open(self, transport: Transport) -> Api:
        api3 = Api3(transport, self.project)
        if self.api == "v3":
            return api3
        if self.api == "auto":
            try:
                if is_v3(await api3.server_info()):
                    return api3
            except NotFound:
                self.logger.debug("the server knows no v3; trying v2")
        if self.organization is None or self.project is None:
            missing = "project" if self.organization else "organization"
            raise InvalidInput(missing, None, "this server is older than 24.4, and its v2 API needs it: set it")
        return Api2(transport, self.organization, self.project)
