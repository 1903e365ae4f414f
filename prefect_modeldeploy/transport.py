"""The one way to call HTTP: authentication, timeouts, retries by class, typed errors, no secret in any text.

Which failures are sent again depends on what they say about the effect of the first try:

| failure                         | reads, and calls safe to repeat | calls that are not safe to repeat       |
|---------------------------------|---------------------------------|-----------------------------------------|
| connect error                   | again                           | again (the request was never sent)      |
| 425, 429, 503 with a delay      | again                           | again (the server declined to start)    |
| 408, 500 by vendor rule, 502-504| again                           | raised with `effect_unknown=True`       |
| timeout or reset after sending  | again                           | raised with `effect_unknown=True`       |
| any other status                | raised                          | raised                                  |

A create whose effect is unknown is looked up before it is sent again: `create_once`.
"""

import logging
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina
from pydantic import SecretStr

from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidInput,
    NotFound,
    Problem,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from prefect_modeldeploy.urls import check_base_url

T = TypeVar("T")
Logger = logging.Logger | logging.LoggerAdapter[Any]

_log = logging.getLogger(__name__)
_REDACTED = "**********"
_DECLINED = frozenset({425, 429})
_TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying.

    Args:
        attempts: Tries in all, the first one included.
        total_seconds: Time in all, waits included; a vendor's delay that does not fit is not waited for.
        first_seconds: Upper bound of the first wait; it doubles with each try (full jitter).
        longest_seconds: Upper bound of a single wait that the vendor did not ask for.
    """

    attempts: int = 6
    total_seconds: float = 60.0
    first_seconds: float = 0.25
    longest_seconds: float = 8.0


@dataclass(frozen=True, slots=True)
class SecretHeader(httpx.Auth):
    """Sends a secret in a header, e.g. `SecretHeader(token, scheme="Bearer")`. Its repr does not show it."""

    secret: SecretStr
    scheme: str = ""
    header: str = "Authorization"

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the header (httpx calls this)."""
        value = self.secret.get_secret_value()
        request.headers[self.header] = f"{self.scheme} {value}" if self.scheme else value
        yield request


def read_problem(response: httpx.Response) -> Problem:
    """Read an error answer: the usual envelopes, else the text itself. A vendor with its own passes its own reader."""
    try:
        body = response.json()
    except ValueError:
        body = None
    found = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(found, dict):
        message = found.get("message") or found.get("detail") or found.get("error")
        code = found.get("code")
    else:
        message, code = found, None
    text = str(message) if message else response.text[:500] or response.reason_phrase
    return Problem(text, response.status_code, str(code) if code else None, retry_after=retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """Seconds from a `Retry-After` header (a number, or an HTTP date); None without a usable one."""
    value = response.headers.get("retry-after", "").strip()
    if value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(when.tzinfo or UTC)).total_seconds())


def trusted() -> ssl.SSLContext:
    """The authorities that Python trusts, read once for all clients: that takes longer than a request."""
    return _trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _trusted(file: str | None, directory: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()  # it looks at these variables itself


class Transport:
    """Calls one serving system's API. Use as an async context manager.

    Args:
        provider: Name for messages.
        base_url: Prefix of every path; plain http only on loopback unless `allow_http`.
        auth: How requests are authenticated.
        secrets: Values that must appear in no message; wherever one does, it is replaced.
        read_error: Turns an error answer into a `Problem`.
        retryable: Further status codes that this vendor documents as transient.
        logger: Where retries are logged; a Prefect run logger shows them in the UI.
    """

    def __init__(
        self,
        provider: str,
        base_url: str,
        *,
        auth: httpx.Auth | None = None,
        secrets: Iterable[SecretStr] = (),
        headers: Mapping[str, str] | None = None,
        policy: RetryPolicy | None = None,
        timeout: float = 30.0,
        read_error: Callable[[httpx.Response], Problem] = read_problem,
        retryable: Collection[int] = (),
        allow_http: bool = False,
        logger: Logger = _log,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._provider, self._policy, self._logger = provider, policy or RetryPolicy(), logger
        self._read_error, self._transient = read_error, _TRANSIENT | frozenset(retryable)
        self._secrets = [secret.get_secret_value() for secret in secrets if secret.get_secret_value()]
        self._http = httpx.AsyncClient(
            base_url=check_base_url("base_url", base_url, allow_http=allow_http),
            auth=auth,
            headers={"User-Agent": "prefect-modeldeploy", **(headers or {})},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            # Never followed: a redirect to another origin must not carry the credentials along.
            follow_redirects=False,
            transport=http,
            verify=trusted(),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    def hide(self, secret: SecretStr) -> None:
        """Keep one more secret out of every message, such as a token that was fetched later."""
        if secret.get_secret_value() not in self._secrets:
            self._secrets.append(secret.get_secret_value())

    async def call(self, method: str, path: str, *, idempotent: bool | None = None, **options: Any) -> Any:
        """Send a request and return the decoded JSON answer (None when the body is empty).

        Args:
            method: HTTP method.
            path: Path below the base URL.
            idempotent: Whether sending it twice is the same as once. None: by the method (POST and PATCH are not).
            options: Passed on to httpx: `json`, `params`, `content`, `headers`, `timeout`...

        Raises:
            ProviderError: The subclass says what kind; `effect_unknown` says whether it may have worked.
        """
        response = await self.send(method, path, idempotent=idempotent, **options)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            text = self._redact(response.text)[:200]
            problem = Problem(f"the answer is not JSON: {text!r}", response.status_code)
            # The decoder's error holds the whole text.
            raise ProviderError(self._provider, f"{method} {path}", problem) from (
                None if self._holds_secret(response.text) else error
            )

    async def send(self, method: str, path: str, *, idempotent: bool | None = None, **options: Any) -> httpx.Response:
        """As `call`, but returns the whole response."""
        repeatable = method.upper() in _IDEMPOTENT_METHODS if idempotent is None else idempotent
        backoff = _Backoff(self._policy, repeatable, self._transient, self._logger)
        async for attempt in stamina.retry_context(
            on=backoff, attempts=self._policy.attempts, timeout=self._policy.total_seconds
        ):
            with attempt:
                return await self._once(method, path, repeatable, options)
        raise AssertionError("unreachable: stamina returns or raises")

    async def _once(self, method: str, path: str, repeatable: bool, options: Mapping[str, Any]) -> httpx.Response:
        operation = f"{method} {path}"
        try:
            response = await self._http.request(method, path, **options)
        except httpx.TransportError as error:
            sent = not isinstance(error, _NEVER_SENT)
            where = error.request.url.netloc.decode()
            problem = Problem(f"{self._redact(str(error)) or type(error).__name__} ({where})")
            raise ProviderUnavailable(self._provider, operation, problem, effect_unknown=sent and not repeatable) from (
                None if self._holds_secret(str(error)) else error
            )
        if response.is_success:
            return response
        raise self._refusal(operation, response, repeatable)

    def _refusal(self, operation: str, response: httpx.Response, repeatable: bool) -> ProviderError:
        problem = self._read_error(response)
        status = response.status_code
        if response.is_redirect:
            problem = Problem("answered with a redirect, which is not followed: check the base URL", status)
        clean = replace(
            problem,
            message=self._redact(problem.message),
            status_code=status,
            code=problem.code and self._redact(problem.code),
            parameters=self._clean(problem.parameters),
        )
        ambiguous = status in self._transient - _DECLINED or status >= 500
        declined = status == 503 and problem.retry_after is not None
        return _class_of(status)(
            self._provider, operation, clean, effect_unknown=ambiguous and not declined and not repeatable
        )

    def _holds_secret(self, text: str) -> bool:
        return any(secret in text for secret in self._secrets)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _REDACTED)
        return text

    def _clean(self, value: Any) -> Any:
        match value:
            case str():
                return self._redact(value)
            case dict():
                return {self._clean(name): self._clean(entry) for name, entry in value.items()}
            case list():
                return [self._clean(entry) for entry in value]
            case _:
                return value


class _Backoff:
    """stamina's back-off hook: whether to try again, and after how many seconds."""

    def __init__(self, policy: RetryPolicy, repeatable: bool, transient: Collection[int], logger: Logger) -> None:
        self._policy, self._repeatable, self._transient, self._logger = policy, repeatable, transient, logger
        self._tries, self._deadline = 0, time.monotonic() + policy.total_seconds

    def __call__(self, error: Exception) -> bool | float:
        self._tries += 1
        if not may_retry(error, repeatable=self._repeatable, transient=self._transient):
            return False
        assert isinstance(error, ProviderError)
        ceiling = min(self._policy.longest_seconds, self._policy.first_seconds * 2 ** (self._tries - 1))
        asked = error.retry_after
        wait = random.uniform(0, ceiling) if asked is None else asked + random.uniform(0, 0.1 * asked)  # noqa: S311
        if self._tries >= self._policy.attempts or time.monotonic() + wait > self._deadline:
            return False
        self._logger.warning("%s; trying again in %.1f s (try %d)", error, wait, self._tries + 1)
        return wait


def may_retry(error: Exception, *, repeatable: bool, transient: Collection[int] = _TRANSIENT) -> bool:
    """Whether sending the same request again can succeed without doing its effect twice.

    This is the one classification: the transport retries by it, and the tasks' `retry_condition_fn` uses it too.
    """
    if not isinstance(error, ProviderError) or error.effect_unknown or error.problem.final:
        return False
    status = error.problem.status_code
    if status is None:
        return isinstance(error, ProviderUnavailable)
    if status in _DECLINED or (status == 503 and error.retry_after is not None):
        return True
    return repeatable and status in transient


def _class_of(status: int) -> type[ProviderError]:
    if status in (401, 403):
        return AuthenticationFailed
    if status >= 500 or status == 408:
        return ProviderUnavailable
    return {404: NotFound, 409: Conflict, 429: RateLimited}.get(status, ProviderError)


async def create_once(
    create: Callable[[], Awaitable[T]],
    look_up: Callable[[], Awaitable[T | None]],
    *,
    logger: Logger = _log,
    tries: int = 3,
    taken: Collection[int] = (),
) -> T:
    """Create something without ever creating it twice.

    When the answer to `create` was lost, `look_up` (by name or marker) decides: found means created, and only when it
    is not there is the request sent again. Statuses in `taken` are how the vendor refuses what there is already:
    somebody else may have just created the very same, which is looked up too.

    Raises:
        ProviderError: What the last try said.
    """
    for left in reversed(range(tries)):
        try:
            return await create()
        except ProviderError as error:
            if not error.effect_unknown and error.problem.status_code not in taken:
                raise
            logger.warning("%s; looking whether it was created before trying again", error)
            found = await look_up()
            if found is not None:
                return found
            if not left or not error.effect_unknown:
                raise
    raise InvalidInput("tries", tries, "must be at least 1")
