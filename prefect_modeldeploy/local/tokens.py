"""Access tokens of arms: fetched with OAuth2 client credentials, one fetch at a time, renewed before they end."""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from prefect_modeldeploy.errors import GatewayError, InvalidInput
from prefect_modeldeploy.local.tls import client_context
from prefect_modeldeploy.traffic.arm import Grant, RemoteArm

MARGIN_SECONDS = 60.0
"""A token counts as ended so long before it does; at most half of its life."""

UNSAID_LIFE_SECONDS = 600.0
"""When the answer does not say how long the token lives."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and until when it is good for new requests (seconds since the epoch)."""

    value: SecretStr
    fresh_until: float

    @property
    def fresh(self) -> bool:
        """Whether it will do."""
        return time.time() < self.fresh_until


async def fetch(arm: RemoteArm, grant: Grant) -> Token:
    """Get a token from the arm's token endpoint.

    Raises:
        InvalidInput: The endpoint refuses the client's id, secret or scopes.
        GatewayError: It cannot be reached, or gave no token.
    """
    # The node starts without an HTTP client; only arms like this one need it.
    import httpx

    from prefect_modeldeploy.errors import ProviderError, ProviderUnavailable, RateLimited
    from prefect_modeldeploy.transport import RetryPolicy, Transport

    parts, asked_at = urlsplit(grant.token_url), time.time()
    transport = Transport(
        arm.provider,
        f"{parts.scheme}://{parts.netloc}",
        secrets=[grant.client_secret],
        policy=RetryPolicy(attempts=3, total_seconds=5.0),
        allow_http=True,  # what may be plain http is the provider's block to say
        http=httpx.AsyncHTTPTransport(verify=client_context(arm.ca_file)),
    )
    form = {
        "grant_type": "client_credentials",
        "client_id": grant.client_id,
        "client_secret": grant.client_secret.get_secret_value(),
        **({"scope": " ".join(grant.scopes)} if grant.scopes else {}),
    }
    async with transport:
        try:
            answer = await transport.call("POST", parts.path, idempotent=True, data=form)
        except (ProviderUnavailable, RateLimited) as error:
            raise GatewayError(f"no token for {arm.id}: {error}") from None
        except ProviderError as error:
            raise InvalidInput("grant.client_id", grant.client_id, f"no token for {arm.id}: {error}") from None
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise GatewayError(f"no token for {arm.id}: {grant.token_url} answered without an access_token")
    life = _seconds(answer.get("expires_in"))
    return Token(SecretStr(token), asked_at + life - min(MARGIN_SECONDS, life / 2))


def _seconds(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return UNSAID_LIFE_SECONDS
