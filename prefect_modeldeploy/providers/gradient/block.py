"""The credentials block."""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from prefect_modeldeploy.deployments import Capability, Deployment
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials, address_of
from prefect_modeldeploy.providers.gradient.client import GradientBase, GradientClient, GradientGraphClient
from prefect_modeldeploy.providers.gradient.graph import GraphApi, read_graph_error
from prefect_modeldeploy.providers.gradient.problems import read_error
from prefect_modeldeploy.providers.gradient.rest import RestApi
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire
from prefect_modeldeploy.transport import RetryPolicy, SecretHeader, Transport
from prefect_modeldeploy.urls import check_base_url

REST_URL = "https://api.paperspace.com/v1"
GRAPHQL_URL = "https://api.paperspace.com/graphql"
LOGS_URL = "https://logs.paperspace.io"


class GradientCredentials(ServingCredentials):
    """Deployments of Paperspace Gradient (DigitalOcean).

    Attributes:
        api_key: API key of the team.
        project_id: Project of the deployments.
        api: Which of the vendor's APIs.
        base_url: Address of the API.
        logs_url: Address of the GraphQL API's log host.
        cluster_id: Cluster of new deployments (GraphQL only).
        endpoint_key: Password of deployments that are protected by `basicAuthKey`.
        predict_path: Path of predict requests that name none.
        allow_http: Allow plain http to other machines.

    Example:
        ```python
        from prefect_modeldeploy.providers.gradient import GradientCredentials

        gradient = GradientCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Gradient Credentials"
    _block_type_slug = "gradient-credentials"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/providers/gradient.md"  # type: ignore[assignment]
    _description = "Deployments of Paperspace Gradient, over REST v1 or the retired GraphQL API."

    client_class: ClassVar[type[ServingClient]] = GradientClient

    api_key: SecretStr = Field(description="API key of the team, from the console's team settings.")
    project_id: str | None = Field(
        None, description="Id of the project of the deployments. Needed to create; None lists the whole team's."
    )
    api: Literal["rest", "graphql"] = Field(
        "rest",
        description="Which API. rest: v1, the current one. graphql: no longer available since 2024-07-15, says the "
        "vendor.",
    )
    base_url: str | None = Field(
        None, description=f"Address of the API. None: {REST_URL}, or {GRAPHQL_URL} for GraphQL."
    )
    logs_url: str | None = Field(None, description=f"Address of the log host (GraphQL only). None: {LOGS_URL}.")
    cluster_id: str | None = Field(None, description="Id of the cluster of new deployments (GraphQL only).")
    endpoint_key: SecretStr | None = Field(
        None, description="Password of deployments that are protected by basicAuthKey; the user is paperspace."
    )
    predict_path: str = Field("/", description="Path of predict requests that name none; it is the container's own.")
    allow_http: bool = Field(False, description="Allow plain http to other machines than this one.")

    @field_validator("cluster_id", "logs_url", mode="after")
    @classmethod
    def _graphql_only(cls, value: str | None, info: Any) -> str | None:
        if value is not None and info.data.get("api") == "rest":
            raise ValueError(
                f"{info.field_name}={value!r}: REST v1 has no such thing; use api='graphql', or leave it out"
            )
        return value

    def can(self, capability: Capability) -> bool:
        """Whether this API has the capability."""
        return self._kind().can(capability)

    def wire(self) -> Wire:
        """Path and payload are the container's own."""
        return "native"

    def arm(self, deployment: Deployment) -> RemoteArm:
        """The container, at `predict_path`. The load balancer asks for the endpoint's password, if it has one."""
        headers = {}
        if self.endpoint_key is not None:
            login = base64.b64encode(f"paperspace:{self.endpoint_key.get_secret_value()}".encode()).decode()
            headers["Authorization"] = SecretStr(f"Basic {login}")
        url = f"{address_of(deployment).rstrip('/')}/{self.predict_path.lstrip('/')}"
        return RemoteArm(id=deployment.id, provider=deployment.provider, url=url, headers=headers)

    def _kind(self) -> type[GradientBase]:
        return GradientClient if self.api == "rest" else GradientGraphClient

    def _secrets(self) -> list[SecretStr]:
        return [self.api_key, *([self.endpoint_key] if self.endpoint_key else [])]

    async def place(self) -> str:
        """The account's, whichever API is asked for them."""
        return f"gradient {urlsplit(self.base_url or REST_URL).netloc}"

    @asynccontextmanager
    async def get_client(self, *, policy: RetryPolicy | None = None, **options: Any) -> AsyncIterator[GradientBase]:
        """Yield a client: a `GradientClient`, or a `GradientGraphClient` with `api="graphql"`.

        Args:
            policy: How long to keep trying.
            options: `settle_seconds`, `grace_seconds`, `logger` of the client.

        Raises:
            InvalidInput: The API key is empty, or the base URL cannot work.
        """
        if not self.api_key.get_secret_value().strip():
            raise InvalidInput("api_key", "", "is empty: make one in the console's team settings")
        url = self.base_url or (REST_URL if self.api == "rest" else GRAPHQL_URL)
        shared: dict[str, Any] = {
            "secrets": self._secrets(), "policy": policy, "allow_http": self.allow_http,
            **({"logger": options["logger"]} if "logger" in options else {}),
        }  # fmt: skip
        check_base_url("base_url", url, allow_http=self.allow_http)
        async with AsyncExitStack() as stack:
            api = await self._open(stack, url, shared)
            client = self._kind()(
                api, allow_http=self.allow_http, endpoint_key=self.endpoint_key, secrets=self._secrets(),
                predict_path=self.predict_path, policy=policy, **options,
            )  # fmt: skip
            yield await stack.enter_async_context(client)

    async def _open(self, stack: AsyncExitStack, url: str, shared: dict[str, Any]) -> RestApi | GraphApi:
        bearer = SecretHeader(self.api_key, scheme="Bearer")
        if self.api == "rest":
            transport = Transport("gradient", url, auth=bearer, read_error=read_error, **shared)
            return RestApi(await stack.enter_async_context(transport), self.project_id)
        # httpx would end the path of a base URL with a slash.
        parts = urlsplit(url)
        host, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/") or "/graphql"
        transport = Transport("gradient", host, auth=bearer, read_error=read_graph_error, **shared)
        header = SecretHeader(self.api_key, header="X-API-Key")
        logs = Transport("gradient", self.logs_url or LOGS_URL, auth=header, read_error=read_graph_error, **shared)
        await stack.enter_async_context(transport)
        await stack.enter_async_context(logs)
        return GraphApi(transport, logs, self.project_id, self.cluster_id, path)
