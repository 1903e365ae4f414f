"""The block: where the stack is, and how to get in."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Self

import httpx
from pydantic import ConfigDict, Field, SecretStr, model_validator

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials, address_of
from prefect_modeldeploy.providers.foundry.api import FoundryApi
from prefect_modeldeploy.providers.foundry.auth import TOKEN_PATH, ClientCredentials
from prefect_modeldeploy.providers.foundry.client import FoundryClient
from prefect_modeldeploy.providers.foundry.problems import read_error
from prefect_modeldeploy.traffic.arm import Grant, RemoteArm, Wire
from prefect_modeldeploy.traffic.envelope import Envelope
from prefect_modeldeploy.transport import RetryPolicy, SecretHeader, Transport
from prefect_modeldeploy.urls import check_base_url

SCOPES = ("api:models-read", "api:models-write", "api:models-execute")
"""Operation scopes: to get and list; to create, replace, start, disable and promote; to send requests to models."""


class FoundryCredentials(ServingCredentials):
    """Gets into a Palantir Foundry stack, with a token or as an OAuth2 application (client credentials).

    Attributes:
        base_url: The stack's address.
        token: A user's token; or
        client_id: Id of an OAuth2 application, and
        client_secret: its secret.
        scopes: What the application asks for.
        branches: Which branch of a model stands for which environment.
        allow_http: Allow plain http to other machines.

    Example:
        ```python
        from prefect_modeldeploy import FoundryCredentials

        foundry = FoundryCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Foundry Credentials"
    _block_type_slug = "foundry-credentials"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/providers/foundry.md"  # type: ignore[assignment]
    _description = "Live deployments of models on Palantir Foundry, with a token or OAuth2 client credentials."

    # pydantic shows the input in its errors, and the token is part of it.
    model_config = ConfigDict(hide_input_in_errors=True)

    client_class: ClassVar[type[ServingClient]] = FoundryClient

    base_url: str = Field(
        description="Address of the stack, such as https://example.palantirfoundry.com; without /api."
    )
    token: SecretStr | None = Field(None, description="A user's token. Instead: Client Id and Client Secret.")
    client_id: str | None = Field(None, description="Id of an OAuth2 application, for client credentials.")
    client_secret: SecretStr | None = Field(None, description="Secret of that application.")
    scopes: list[str] = Field(
        list(SCOPES), description="Operation scopes that the application asks for. Default: read, write and execute."
    )
    branches: dict[str, str] = Field(
        {"production": "master"},
        description="Branch of a model that stands for an environment. An environment that is not named here has a "
        "branch of its own name.",
    )
    allow_http: bool = Field(False, description="Allow plain http to other machines, which sends secrets in clear.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        root = check_base_url("base_url", self.base_url, allow_http=self.allow_http)
        if root.endswith("/api"):
            raise InvalidInput("base_url", self.base_url, f"leave out /api: {root.removesuffix('/api')}")
        application = (self.client_id is not None, self.client_secret is not None)
        if application == (True, False):
            raise InvalidInput("client_secret", None, "is required with client_id")
        if application == (False, True):
            raise InvalidInput("client_id", None, "is required with client_secret")
        if (self.token is not None) == all(application):
            raise InvalidInput("token", None, "set either token, or client_id and client_secret")
        for name, secret in (("token", self.token), ("client_secret", self.client_secret)):
            if secret is not None and not secret.get_secret_value().isprintable():
                raise InvalidInput(
                    name, "**********", "holds a line break or another character that no header can carry"
                )
        return self

    def wire(self) -> Wire:
        """transformJson wraps bodies in `input` and `output`."""
        return "adapter"

    def arm(self, deployment: Deployment) -> RemoteArm:
        """`transformJson`, with the user's token, or with tokens that the gateway gets for the application."""
        given: dict[str, Any] = {}
        if self.token is not None:
            given["headers"] = {"Authorization": SecretStr(f"Bearer {self.token.get_secret_value()}")}
        else:
            given["grant"] = Grant(
                token_url=f"{self.base_url.rstrip('/')}{TOKEN_PATH}",
                client_id=self.client_id or "",
                client_secret=self.client_secret or SecretStr(""),
                scopes=(*self.scopes, "offline_access") if self.scopes else (),
            )
        failures = ("InferenceFailure", "InferenceTimeout")
        envelope = Envelope(field="input", answer=("output",), error_name="errorName", failures=failures)
        url = address_of(deployment)
        return RemoteArm(id=deployment.id, provider=deployment.provider, url=url, adapter=envelope, **given)

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[FoundryClient]:
        """Yield a client. With OAuth2, it fetches a token at its first request and renews it in time."""
        async with AsyncExitStack() as stack:
            api_url = f"{self.base_url.rstrip('/')}/api"
            auth = await self._auth(stack)
            transport = await stack.enter_async_context(self._transport(api_url, auth))
            if isinstance(auth, ClientCredentials):
                auth.on_token(transport.hide)
            yield FoundryClient(FoundryApi(transport), api_url=api_url, branches=self.branches, logger=self.logger)

    async def authorization(self) -> tuple[SecretStr, float | None]:
        """What an `Authorization` header needs now, for who calls the deployments without this client: a proxy.

        Returns:
            The header's value, and after how many seconds to ask again; None: never, it is a user's token.
        """
        async with AsyncExitStack() as stack:
            auth = await self._auth(stack)
            if isinstance(auth, ClientCredentials):
                token = await auth.token()
                return SecretStr(f"Bearer {token.get_secret_value()}"), auth.fresh_seconds
        assert self.token is not None, "checked by the block"
        return SecretStr(f"Bearer {self.token.get_secret_value()}"), None

    async def _auth(self, stack: AsyncExitStack) -> httpx.Auth:
        if self.token is not None:
            return SecretHeader(self.token, scheme="Bearer")
        assert self.client_id is not None, "checked by the block"
        assert self.client_secret is not None, "checked by the block"
        root = self._transport(self.base_url, None, RetryPolicy(attempts=1))  # the other one retries for both
        await stack.enter_async_context(root)
        auth = ClientCredentials(root, self.client_id, self.client_secret, self.scopes)
        auth.on_token(root.hide)
        return auth

    def _transport(self, url: str, auth: httpx.Auth | None, policy: RetryPolicy | None = None) -> Transport:
        secrets = [secret for secret in (self.token, self.client_secret) if secret is not None]
        return Transport(
            "foundry",
            url,
            auth=auth,
            secrets=secrets,
            policy=policy,
            read_error=read_error,
            allow_http=self.allow_http,
            logger=self.logger,
        )
