"""Getting into Foundry: a token, or an application whose tokens end."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx
import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_modeldeploy.errors import AuthenticationFailed, ProviderError, ProviderUnavailable
from prefect_modeldeploy.providers.foundry import FoundryCredentials
from prefect_modeldeploy.providers.foundry.auth import ClientCredentials
from prefect_modeldeploy.providers.foundry.problems import read_error
from prefect_modeldeploy.transport import RetryPolicy, Transport, may_retry
from tests.providers.foundry_kit import Foundry, Permissive, foundry, shared_foundry, stack

__all__ = ["shared_foundry", "stack"]

TOKEN = "/multipass/api/oauth2/token"


class TestBlock(BlockStandardTestSuite):
    """Prefect's own standard for blocks."""

    @pytest.fixture
    def block(self) -> type[FoundryCredentials]:
        return FoundryCredentials

    def test_has_a_valid_image(self, block: type) -> None:
        """Prefect's test downloads the logo; tests of ours need no network."""
        assert str(block._logo_url).startswith("https://")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "token"),
        ({"token": "t", "client_id": "i", "client_secret": "s"}, "token"),
        ({"client_id": "i"}, "client_secret"),
        ({"client_secret": "s"}, "client_id"),
        ({"token": "t", "client_id": "i"}, "client_secret"),
        ({"token": "t\n"}, "token"),
        ({"token": "t", "base_url": "http://stack.example"}, "base_url"),
        ({"token": "t", "base_url": "stack.example"}, "base_url"),
        ({"token": "t", "base_url": "https://stack.example/api/"}, "base_url"),
    ],
)
def test_a_block_that_cannot_work_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}="):
        FoundryCredentials(**{"base_url": "https://stack.example", **fields})


def test_a_refused_block_does_not_show_its_secrets() -> None:
    for fields in ({"token": "planted", "client_id": "i"}, {"token": "planted\n"}, {"client_secret": "planted"}):
        with pytest.raises(ValidationError) as caught:
            FoundryCredentials(base_url="https://x", **fields)  # type: ignore[arg-type]
        assert "planted" not in str(caught.value) + repr(caught.value)


def test_plain_http_is_for_loopback_unless_it_is_allowed() -> None:
    for fields in ({"base_url": "http://127.0.0.1:1"}, {"base_url": "http://stack.example", "allow_http": True}):
        assert FoundryCredentials(token="t", **fields)  # type: ignore[arg-type]


def test_read_write_and_execute_are_asked_for_by_default() -> None:
    block = FoundryCredentials(base_url="https://stack.example", token=SecretStr("t"))
    assert block.scopes == ["api:models-read", "api:models-write", "api:models-execute"]
    assert "planted" not in repr(FoundryCredentials(base_url="https://stack.example", token=SecretStr("planted")))


async def test_a_wrong_token_is_refused(stack: Foundry) -> None:
    async with stack.block(token=SecretStr("wrong")).get_client() as client:
        with pytest.raises(AuthenticationFailed) as caught:
            await client.get("ri.a..b.c")
    assert caught.value.problem.code == "Default:Unauthorized"


# --- OAuth2 -------------------------------------------------------------------------------------------------------


async def tokens(stack: Foundry) -> int:
    return len(await stack.sent("POST", TOKEN))


async def test_an_application_gets_in_with_one_token_for_many_requests(stack: Foundry) -> None:
    async with stack.application().get_client() as client:
        await asyncio.gather(*(client.find(model=stack.model) for _ in range(30)))
    assert await tokens(stack) == 1
    [request] = await stack.sent("POST", TOKEN)
    assert "scope=api%3Amodels-read+api%3Amodels-write+api%3Amodels-execute+offline_access" in str(request.body)
    assert "grant_type=client_credentials" in str(request.body)


async def test_scopes_bound_what_a_client_can_do(stack: Foundry) -> None:
    async with stack.application(scopes=["api:models-read"]).get_client() as client:
        [found] = await client.find(model=stack.model)
        with pytest.raises(AuthenticationFailed, match="lacks a scope") as caught:
            await client.predict(found.id, {"x": 1})
    assert caught.value.problem.parameters is not None
    assert caught.value.problem.parameters["missingScope"] == "api:models-execute"


async def test_a_token_that_ended_early_is_renewed_once_however_many_requests_find_out(stack: Foundry) -> None:
    async with stack.application().get_client() as client:
        await client.find(model=stack.model)
        await stack.control.advance(3601)
        found = await asyncio.gather(*(client.find(model=stack.model) for _ in range(40)))
    assert all(found)
    assert await tokens(stack) == 2


async def test_a_create_goes_through_a_renewal_and_makes_one(stack: Foundry) -> None:
    """A 401 has no effect, so even a create is sent again with the new token."""
    async with stack.application().get_client() as client:
        await client.promote_version(stack.model, stack.version, "staging")
        await stack.control.advance(3601)
        await client.create(stack.spec("staging"))
    assert len([one for one in await stack.lives() if one["branch"] == "staging"]) == 1


async def test_a_token_ends_twice_in_a_row_of_requests_and_none_is_lost() -> None:
    class Hasty(Permissive):
        token_seconds: ClassVar[float] = 1.0

    async with foundry(Hasty) as own, own.application().get_client() as client:
        live = (await own.production()).id

        async def ask(number: int) -> float:
            await asyncio.sleep(0.04 * number)
            return float((await client.predict(live, {"x": number}))["sum"])

        answers = await asyncio.gather(*(ask(number) for number in range(40)))
        assert answers == list(range(40))
        asked = await tokens(own)
        assert asked >= 3, "the first, and one for each time that it ended"
        statuses = [request.status for request in await own.sent("POST", "*/transformJson")]
        assert statuses.count(200) == 40


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TokenEndpoint:
    """Counts what it is asked; slow enough for others to come meanwhile."""

    def __init__(self, expires_in: Any = 3600) -> None:
        self.asked, self.at_once, self.most_at_once, self.expires_in = 0, 0, 0, expires_in
        self.answers: list[httpx.Response] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked, self.at_once = self.asked + 1, self.at_once + 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        if self.answers:
            return self.answers.pop(0)
        life = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return httpx.Response(200, json={"access_token": f"token-{self.asked}", "token_type": "bearer", **life})


@asynccontextmanager
async def application(endpoint: TokenEndpoint, clock: Clock) -> AsyncIterator[ClientCredentials]:
    http, once = httpx.MockTransport(endpoint), RetryPolicy(attempts=1)
    async with Transport("foundry", "https://stack.example", policy=once, read_error=read_error, http=http) as root:
        yield ClientCredentials(root, "id", SecretStr("planted-secret"), ["a"], clock=clock)


@pytest.mark.parametrize(
    ("expires_in", "fresh_until"),
    [(3600, 3540), (180, 120), (90, 45), (10, 5), ("3600", 3540), (None, 540), ("x", 540)],
)
async def test_a_token_is_renewed_a_minute_before_it_ends(expires_in: Any, fresh_until: float) -> None:
    endpoint, clock = TokenEndpoint(expires_in), Clock()
    async with application(endpoint, clock) as auth:
        first = await auth.token()
        clock.now += fresh_until - 0.1
        assert await auth.token() == first
        clock.now += 0.2
        assert await auth.token() != first
    assert endpoint.asked == 2


async def test_one_renewal_at_a_time() -> None:
    endpoint, clock = TokenEndpoint(), Clock()
    async with application(endpoint, clock) as auth:
        for _ in range(3):
            found = await asyncio.gather(*(auth.token() for _ in range(50)))
            assert len({token.get_secret_value() for token in found}) == 1
            clock.now += 3600
    assert (endpoint.asked, endpoint.most_at_once) == (3, 1)


async def test_a_refused_token_is_renewed_once_by_all_who_held_it() -> None:
    endpoint = TokenEndpoint()
    async with application(endpoint, Clock()) as auth:
        old = await auth.token()
        await asyncio.gather(*(auth.token(instead_of=old) for _ in range(50)))
    assert endpoint.asked == 2


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_blip_of_the_token_endpoint_may_be_retried_even_for_a_create(status: int) -> None:
    endpoint = TokenEndpoint()
    endpoint.answers = [httpx.Response(status, headers={"Retry-After": "3"})]
    async with application(endpoint, Clock()) as auth:
        with pytest.raises(ProviderUnavailable, match=rf"no token \[{status}\]") as caught:
            await auth.token()
        assert may_retry(caught.value, repeatable=False)
        assert caught.value.retry_after == 3
        assert await auth.token()


async def test_the_blip_is_retried_by_one_layer_only(stack: Foundry, without_waits: None) -> None:
    await stack.control.fault(method="POST", path=TOKEN, kind="status", status=503, times=2)
    async with stack.application().get_client() as client:
        await client.create(stack.spec("staging"))
    assert await tokens(stack) == 3
    await stack.control.forget_requests()
    await stack.control.fault(method="POST", path=TOKEN, kind="reset", times=None)
    async with stack.application().get_client() as client:
        with pytest.raises(ProviderUnavailable):
            await client.find(model=stack.model)
    assert await tokens(stack) <= RetryPolicy().attempts


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(401, json={"error": "invalid_client"}), "invalid_client"),
        (httpx.Response(400, json={"error": "invalid_scope", "error_description": "no such scope"}), "no such scope"),
        (httpx.Response(200, json={}), "no access_token"),
        (httpx.Response(200, json=[1]), "no access_token"),
    ],
)
async def test_a_refused_application_is_no_reason_to_try_again(answer: httpx.Response, message: str) -> None:
    endpoint = TokenEndpoint()
    endpoint.answers = [answer]
    async with application(endpoint, Clock()) as auth:
        with pytest.raises(AuthenticationFailed, match=message) as caught:
            await auth.token()
    assert not may_retry(caught.value, repeatable=True)
    assert "planted-secret" not in "".join(traceback.format_exception(caught.value))


async def test_a_proxy_is_told_the_header_and_when_to_ask_again(stack: Foundry) -> None:
    url = f"{stack.sandbox['foundry']['base_url']}/api/v2/models/{stack.model}?preview=true"
    for block, lasts in ((stack.block(), False), (stack.application(), True)):
        header, seconds = await block.authorization()
        assert (seconds is not None and 3500 < seconds <= 3540) is lasts
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(url, headers={"authorization": header.get_secret_value()})
        assert answer.status_code == 200
        assert header.get_secret_value() not in repr(header)


async def test_signing_out_ends_the_token(stack: Foundry) -> None:
    about = stack.sandbox["foundry"]
    async with Transport("foundry", about["base_url"]) as root:
        auth = ClientCredentials(root, about["client_id"], SecretStr(about["client_secret"]))
        token = await auth.token()
        await auth.revoke()
        await auth.revoke()
    assert len(await stack.sent("POST", "*/revoke_token")) == 1
    async with stack.block(token=token).get_client() as client:
        with pytest.raises(AuthenticationFailed):
            await client.get("ri.a..b.c")


async def test_neither_secret_nor_token_is_in_any_text(stack: Foundry, caplog: pytest.LogCaptureFixture) -> None:
    secret = stack.sandbox["foundry"]["client_secret"]
    with caplog.at_level(logging.DEBUG, logger="prefect_modeldeploy"):
        async with stack.application().get_client() as client:
            await client.find(model=stack.model)
            [token] = await stack.control.table("foundry", "tokens")
            body = {"errorName": "Echo", "errorDescription": f"{token} {secret}", "parameters": {"t": [token]}}
            for answer in (body, f"<html>{token}</html>"):
                await stack.control.fault(
                    method="GET", kind="status", status=200 if answer is not body else 400, body=answer
                )
                with pytest.raises(ProviderError) as caught:
                    await client.get("ri.a..b.c")
                shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.problem)
                assert token not in shown
                assert secret not in shown
    assert token not in caplog.text
    assert secret not in caplog.text
    assert token not in str([request.model_dump() for request in await stack.sent()])
