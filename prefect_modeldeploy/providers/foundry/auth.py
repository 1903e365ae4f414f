"""OAuth2 client credentials: one token for all requests of a client, renewed in time, by one request at a time."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import httpx
from pydantic import SecretStr

from prefect_modeldeploy.errors import AuthenticationFailed, Problem, ProviderError, ProviderUnavailable
from prefect_modeldeploy.transport import Transport

TOKEN_PATH = "/multipass/api/oauth2/token"  # noqa: S105 - a path
REVOKE_PATH = "/multipass/api/oauth2/revoke_token"

MARGIN_SECONDS = 60.0
"""A token counts as ended so long before it does, as in the official client; at most half of its life."""

UNSAID_LIFE_SECONDS = 600.0
"""When the answer does not say how long the token lives. One that ends earlier is renewed after the 401."""


class ClientCredentials(httpx.Auth):
    """Adds a token to each request, and gets a new one when it ends or is refused (401), once per request.

    Args:
        transport: To the stack's root, without authentication and with one attempt: the caller's transport retries.
        client_id: Of the OAuth2 application.
        client_secret: Its secret.
        scopes: Operation scopes to ask for; `offline_access` is added, as the official client does. Empty: none.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        transport: Transport,
        client_id: str,
        client_secret: SecretStr,
        scopes: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._id, self._secret, self._scopes = transport, client_id, client_secret, list(scopes)
        self._clock, self._lock = clock, anyio.Lock()
        self._listeners: list[Callable[[SecretStr], None]] = []
        self._token: SecretStr | None = None
        self._ends_at = 0.0

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the token; after a 401 once more with a new one (httpx calls this)."""
        token = await self.token()
        request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        response = yield request
        if response.status_code == 401:
            token = await self.token(instead_of=token)
            request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
            yield request

    async def token(self, *, instead_of: SecretStr | None = None) -> SecretStr:
        """Return a token that lives for a while, or one that is not `instead_of`.

        Raises:
            AuthenticationFailed: The application's id, secret or scopes were refused.
            ProviderUnavailable: No token came; nothing was sent to the API, so the call may be tried again.
        """
        async with self._lock:
            if self._token is None or self._token == instead_of or self._clock() >= self._ends_at:
                self._token = None
                self._token = await self._fetch()
            return self._token

    @property
    def fresh_seconds(self) -> float:
        """For how long the present token will do; then `token()` gives another one."""
        return max(0.0, self._ends_at - self._clock()) if self._token is not None else 0.0

    def on_token(self, listener: Callable[[SecretStr], None]) -> None:
        """Have every new token told, so that it can be kept out of messages."""
        self._listeners.append(listener)

    async def revoke(self) -> None:
        """Sign out: the token, if there is one, is of no use any more."""
        async with self._lock:
            token, self._token = self._token, None
        if token is not None:
            form = {**self._client(), "token": token.get_secret_value()}
            await self._transport.call("POST", REVOKE_PATH, idempotent=True, data=form)

    def _client(self) -> dict[str, str]:
        return {"client_id": self._id, "client_secret": self._secret.get_secret_value()}

    async def _fetch(self) -> SecretStr:
        form = {**self._client(), "grant_type": "client_credentials"}
        if self._scopes:
            form["scope"] = " ".join([*self._scopes, "offline_access"])
        asked_at = self._clock()
        try:
            answer = await self._transport.call("POST", TOKEN_PATH, idempotent=True, data=form)
        except ProviderError as error:
            raise _as_never_sent(error) from None
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token:
            problem = Problem("the token endpoint gave no access_token: check the base URL")
            raise AuthenticationFailed("foundry", f"POST {TOKEN_PATH}", problem)
        secret = SecretStr(token)
        for tell in self._listeners:
            tell(secret)
        life = _seconds(answer.get("expires_in"))
        self._ends_at = asked_at + life - min(MARGIN_SECONDS, life / 2)
        return secret


def _as_never_sent(error: ProviderError) -> ProviderError:
    """The API's request was not sent: a blip of the token endpoint may be retried even for a create.

    `may_retry` takes an unavailability without a status for exactly that.
    """
    problem = error.problem
    status = problem.status_code
    if status is None or status in (408, 425, 429) or status >= 500:
        text = f"no token [{status}]: {problem.message}" if status else f"no token: {problem.message}"
        unsent = replace(problem, message=text, status_code=None)
        return ProviderUnavailable(error.provider, error.operation, unsent)
    return AuthenticationFailed(error.provider, error.operation, problem)


def _seconds(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return UNSAID_LIFE_SECONDS
