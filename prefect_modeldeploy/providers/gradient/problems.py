"""The vendor's error envelopes, its codes, and which of our errors they are."""

from collections.abc import Mapping
from typing import Any

import httpx

from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    NotFound,
    Problem,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from prefect_modeldeploy.transport import retry_after

PROVIDER = "gradient"

STATUS_OF = {
    "BAD_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_SUPPORTED": 405,
    "TIMEOUT": 408,
    "CONFLICT": 409,
    "PRECONDITION_FAILED": 412,
    "PAYLOAD_TOO_LARGE": 413,
    "TOO_MANY_REQUESTS": 429,
    "CLIENT_CLOSED_REQUEST": 499,
    "INTERNAL_SERVER_ERROR": 500,
    "PARSE_ERROR": 400,
}
"""The vendor's error codes, and the statuses that they go with (Paperspace/cli `client.ts`)."""


def read_error(response: httpx.Response) -> Problem:
    """The vendor's envelope `{code, message, details?, issues?}`; a page of a proxy as its text."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or "message" not in body:
        text = response.text[:500] or response.reason_phrase
        return Problem(text, response.status_code, retry_after=retry_after(response))
    return problem_of(body, response.status_code, retry_after(response))


def problem_of(body: Mapping[str, Any], status: int, delay: float | None = None) -> Problem:
    """What an envelope says, with the fields that its issues name."""
    issues = [issue for issue in body.get("issues") or [] if isinstance(issue, dict)]
    told = "; ".join(
        f"{'.'.join(map(str, issue['path']))}: {issue.get('message')}"
        if issue.get("path")
        else str(issue.get("message"))
        for issue in issues
    )
    message = f"{body['message']} ({told})" if told else str(body["message"])
    more = {name: body[name] for name in ("details", "issues") if body.get(name) is not None}
    return Problem(message, status, str(body["code"]) if body.get("code") else None, more or None, delay)


def refusal(operation: str, problem: Problem) -> ProviderError:
    """The error of our tree for a refusal that came with a success status (both APIs do that)."""
    status = problem.status_code or 400
    if status >= 500 or status == 408:
        return ProviderUnavailable(PROVIDER, operation, problem)
    kinds: dict[int, type[ProviderError]] = {
        401: AuthenticationFailed, 403: AuthenticationFailed, 404: NotFound, 409: Conflict, 429: RateLimited,
    }  # fmt: skip
    return kinds.get(status, ProviderError)(PROVIDER, operation, problem)


def strange(operation: str, message: str, *, unknown: bool = False) -> ProviderError:
    """The error for an answer that is not what the operation answers."""
    return ProviderError(PROVIDER, operation, Problem(message), effect_unknown=unknown)
