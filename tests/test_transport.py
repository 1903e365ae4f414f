"""What the transport sends again, what it raises, and what it never shows."""

import asyncio
import logging
import socket
import traceback
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

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
from prefect_modeldeploy.transport import RetryPolicy, SecretHeader, Transport, create_once, may_retry, retry_after
from prefect_modeldeploy.urls import check_base_url
from tests.conftest import serve

KEY = "planted-secret-key"


class Api:
    """A server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.requests: list[Request] = []
        self.url = ""

    async def answer(self, request: Request) -> Response:
        await request.body()
        self.requests.append(request)
        return self.answers.pop(0) if self.answers else JSONResponse({"ok": True})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    async with serve(Starlette(routes=[Route("/{path:path}", api.answer, methods=methods)])) as url:
        api.url = url
        yield api


def connect(url: str, **options: object) -> Transport:
    key = SecretStr(KEY)
    return Transport("acme", url, auth=SecretHeader(key, scheme="Bearer"), secrets=[key], **options)  # type: ignore[arg-type]


def refusal(status: int, **headers: str) -> Response:
    return JSONResponse({"code": "NOPE", "message": f"no, said {KEY}"}, status, headers=headers)


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_a_read_is_sent_again_after_a_transient_answer(api: Api, without_waits: None, status: int) -> None:
    api.answers = [refusal(status), refusal(status)]
    async with connect(api.url) as transport:
        assert await transport.call("GET", "/v1/models") == {"ok": True}
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ProviderError), (401, AuthenticationFailed), (403, AuthenticationFailed), (404, NotFound), (409, Conflict)],
)
async def test_any_other_4xx_is_raised_at_once(
    api: Api, without_waits: None, status: int, kind: type[ProviderError]
) -> None:
    api.answers = [refusal(status)]
    async with connect(api.url) as transport:
        with pytest.raises(kind) as caught:
            await transport.call("GET", "/v1/models")
    assert len(api.requests) == 1
    assert caught.value.problem.code == "NOPE"
    assert not caught.value.effect_unknown


@pytest.mark.parametrize(
    ("status", "headers", "sent"),
    [
        (429, {}, 2),
        (425, {}, 2),
        (503, {"Retry-After": "0"}, 2),
        (503, {}, 1),
        (502, {}, 1),
        (504, {}, 1),
        (500, {}, 1),
    ],
)
async def test_a_create_is_sent_again_only_when_it_was_declined(
    api: Api, without_waits: None, status: int, headers: dict[str, str], sent: int
) -> None:
    api.answers = [refusal(status, **headers)]
    async with connect(api.url) as transport:
        if sent == 2:
            await transport.call("POST", "/v1/deployments", json={})
        else:
            with pytest.raises(ProviderUnavailable) as caught:
                await transport.call("POST", "/v1/deployments", json={})
            assert caught.value.effect_unknown
    assert len(api.requests) == sent


async def test_a_connect_error_is_retried_even_for_a_create(without_waits: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with connect(url, policy=RetryPolicy(attempts=3)) as transport:
            with pytest.raises(ProviderUnavailable) as caught:
                await transport.call("POST", "/v1/deployments", json={})
    assert not caught.value.effect_unknown


async def test_a_lost_answer_to_a_create_leaves_the_effect_unknown() -> None:
    received = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(url) as transport:
            with pytest.raises(ProviderUnavailable) as caught:
                await transport.call("POST", "/v1/deployments", json={})
    assert caught.value.effect_unknown
    assert len(received) == 1


async def test_the_vendors_delay_is_honoured_when_it_fits_and_reported_when_it_does_not(api: Api) -> None:
    api.answers = [refusal(429, **{"Retry-After": "3600"})]
    async with connect(api.url) as transport:
        with pytest.raises(RateLimited) as caught:
            await transport.call("GET", "/v1/models")
    assert caught.value.retry_after == 3600
    assert len(api.requests) == 1


async def test_attempts_are_bounded_and_each_retry_is_logged(
    api: Api, without_waits: None, caplog: pytest.LogCaptureFixture
) -> None:
    api.answers = [refusal(503) for _ in range(10)]
    with caplog.at_level(logging.WARNING):
        async with connect(api.url, policy=RetryPolicy(attempts=4)) as transport:
            with pytest.raises(ProviderUnavailable):
                await transport.call("GET", "/v1/models")
    assert len(api.requests) == 4
    assert sum("trying again" in record.message for record in caplog.records) == 3


async def test_a_secret_is_in_no_message_log_or_repr(
    api: Api, without_waits: None, caplog: pytest.LogCaptureFixture
) -> None:
    api.answers = [refusal(503), refusal(400)]
    with caplog.at_level(logging.DEBUG, logger="prefect_modeldeploy"):
        async with connect(api.url) as transport:
            with pytest.raises(ProviderError) as caught:
                await transport.call("GET", "/v1/models")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert KEY not in shown + caplog.text + repr(SecretHeader(SecretStr(KEY)))
    assert api.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_secret_that_came_later_is_in_no_parameter_and_no_text_either(api: Api) -> None:
    parameters = {"token": ["later-secret"], "later-secret": KEY}
    api.answers = [JSONResponse({"message": "no"}, 400), Response("<html>later-secret</html>")]

    def read(response: httpx.Response) -> Problem:
        return Problem("no later-secret", 418, "later-secret", parameters)

    async with connect(api.url, read_error=read) as transport:
        transport.hide(SecretStr("later-secret"))
        with pytest.raises(ProviderError) as refused:
            await transport.call("GET", "/v1/models")
        with pytest.raises(ProviderError, match="not JSON") as garbled:
            await transport.call("GET", "/v1/models")
    shown = repr(refused.value.problem) + "".join(traceback.format_exception(garbled.value))
    assert "later-secret" not in shown
    assert KEY not in shown


async def test_what_the_vendor_calls_final_is_not_tried_again(api: Api) -> None:
    api.answers = [refusal(429)]
    async with connect(api.url, read_error=lambda _: Problem("no", 429, final=True)) as transport:
        with pytest.raises(RateLimited):
            await transport.call("GET", "/v1/models")
    assert len(api.requests) == 1


async def test_a_redirect_is_not_followed(api: Api) -> None:
    async with serve(Starlette()) as elsewhere:
        api.answers = [RedirectResponse(elsewhere)]
        async with connect(api.url) as transport:
            with pytest.raises(ProviderError, match="redirect"):
                await transport.call("GET", "/v1/models")


async def test_an_answer_that_is_no_json_names_the_call(api: Api) -> None:
    api.answers = [Response("<html>")]
    async with connect(api.url) as transport:
        with pytest.raises(ProviderError, match=r"GET /v1/models .*not JSON.*<html>"):
            await transport.call("GET", "/v1/models")


@pytest.mark.parametrize("url", ["http://api.example.com", "http://10.0.0.1", "ftp://x", "api.example.com", ""])
def test_a_base_url_that_would_leak_or_cannot_work_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidInput, match="base_url"):
        check_base_url("base_url", url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]"]
)
def test_https_anywhere_and_http_on_loopback_are_fine(url: str) -> None:
    assert check_base_url("base_url", url) == url.rstrip("/")


def test_a_password_in_a_base_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_base_url("base_url", f"https://me:{KEY}@example.com")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("1.5", 1.5), ("", None), ("soon", None), ("-3", None)])
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert retry_after(httpx.Response(503, headers={"Retry-After": header})) == seconds


def test_retry_after_as_a_date_in_the_past_means_now() -> None:
    assert retry_after(httpx.Response(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0.0


def test_nothing_but_a_providers_error_is_worth_a_retry() -> None:
    assert not may_retry(ValueError("no"), repeatable=True)
    lost = ProviderUnavailable("acme", "POST /", Problem("gone"), effect_unknown=True)
    assert not may_retry(lost, repeatable=True)


class Shelf:
    """Something that can be created; the answer may be lost after, or before, the effect."""

    def __init__(self, lost: list[str]) -> None:
        self.lost, self.made = lost, 0

    async def create(self) -> str:
        how = self.lost.pop(0) if self.lost else ""
        if how != "before":
            self.made += 1
        if how:
            raise ProviderUnavailable("acme", "POST /", Problem("gone"), effect_unknown=True)
        return "it"

    async def look_up(self) -> str | None:
        return "it" if self.made else None


@pytest.mark.parametrize("lost", [[], ["after"], ["before"], ["before", "after"], ["before", "before"]])
async def test_a_create_whose_answer_was_lost_never_makes_two(lost: list[str]) -> None:
    shelf = Shelf(lost)
    assert await create_once(shelf.create, shelf.look_up) == "it"
    assert shelf.made == 1


async def test_a_create_that_is_lost_each_time_gives_up() -> None:
    shelf = Shelf(["before"] * 3)
    with pytest.raises(ProviderUnavailable):
        await create_once(shelf.create, shelf.look_up)
    assert shelf.made == 0
