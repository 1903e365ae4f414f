"""The Scale Credentials block: Prefect's own standards, its fields, and what it must not show."""

import logging

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import NotFound
from prefect_modeldeploy.providers.scale import BASE_URL, ScaleClient, ScaleCredentials, ScaleV5Client
from tests.providers.scale_kit import Account, account, account_in, scale_sandbox
from tests.sandbox.kit import RunningSandbox

__all__ = ["account", "scale_sandbox"]

KEY = "planted-scale-key-987654"


class TestScaleCredentials(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[ScaleCredentials]:
        return ScaleCredentials

    def test_has_a_valid_image(self, block: type[ScaleCredentials]) -> None:
        # Prefect's own test downloads the logo; this one stays offline.
        assert str(block._logo_url).startswith("https://")


def test_the_defaults_are_the_vendors() -> None:
    block = ScaleCredentials(api_key=SecretStr(KEY))
    assert block.base_url == BASE_URL == "https://api.egp.scale.com"
    assert (block.api, block.probe, block.account_id) == ("v4", {}, None)
    assert block._block_type_slug == "scale-credentials"


async def test_each_api_has_its_client() -> None:
    async with ScaleCredentials(api_key=SecretStr(KEY)).get_client() as client:
        assert isinstance(client, ScaleClient)
    async with ScaleCredentials(api_key=SecretStr(KEY), api="v5").get_client() as v5:
        assert isinstance(v5, ScaleV5Client)


def test_the_capabilities_of_both_apis_are_these() -> None:
    expected = {
        "CREATE",
        "UPDATE",
        "DELETE",
        "LIST",
        "SCALE",
        "SCALE_TO_ZERO",
        "WAKE",
        "PROMOTE",
        "ROLL_BACK",
        "PREDICT",
    }
    assert {str(one) for one in ScaleClient.capabilities} == expected
    assert ScaleV5Client.capabilities == ScaleClient.capabilities
    assert not ScaleCredentials(api_key=SecretStr(KEY)).can(Capability.TRAFFIC)


@pytest.mark.parametrize("url", ["http://api.egp.scale.com", "ftp://x", "api.egp.scale.com", "https://u:p@x"])
def test_an_address_that_would_send_the_key_in_clear_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        ScaleCredentials(api_key=SecretStr(KEY), base_url=url)


def test_plain_http_is_for_this_machine_unless_it_is_allowed() -> None:
    assert ScaleCredentials(api_key=SecretStr(KEY), base_url="http://127.0.0.1:1/public/").base_url
    assert ScaleCredentials(api_key=SecretStr(KEY), base_url="http://proxy.internal", allow_http=True).base_url


async def test_a_path_of_the_address_is_kept(scale_sandbox: RunningSandbox) -> None:
    base_url = scale_sandbox["scale"]["base_url"] + "/public/"
    await scale_sandbox.control.reset()
    async with account_in(scale_sandbox, base_url=base_url) as account:
        with pytest.raises(NotFound):
            await account.client.get("m/d")
    assert [request.path for request in await scale_sandbox.control.requests()] == ["/public/v4/models/m/deployments/d"]


async def test_every_call_carries_the_key_and_the_account(account: Account) -> None:
    await account.client.find()
    for request in await account.sent():
        assert request.headers["x-selected-account-id"] == account.credentials.account_id
        assert request.headers["x-api-key"] == "**********"
        assert "authorization" not in request.headers
    assert len(await account.sent()) == 2


async def test_the_key_is_in_no_log_no_message_and_no_dump(
    account: Account, caplog: pytest.LogCaptureFixture, without_waits: None
) -> None:
    key = account.credentials.api_key.get_secret_value()
    await account.control.fault(kind="status", status=503, body={"detail": f"no luck with {key}"}, times=2)
    with caplog.at_level(logging.DEBUG):
        await account.client.find()
    assert "no luck" in caplog.text
    assert key not in caplog.text
    assert key not in account.credentials.model_dump_json() + repr(account.credentials)


async def test_a_redirect_never_takes_the_key_along(account: Account) -> None:
    elsewhere = {"location": "http://127.0.0.1:1/stolen"}
    await account.control.fault(kind="status", status=302, body={}, headers=elsewhere)
    with pytest.raises(Exception, match="redirect"):
        await account.client.find()
    assert len(await account.sent()) == 1


async def test_a_saved_block_is_loaded_with_its_secret(prefect_server: None) -> None:
    await ScaleCredentials(api_key=SecretStr(KEY), account_id="a").save("scale-test", overwrite=True)  # type: ignore[misc]
    loaded = await ScaleCredentials.aload("scale-test")
    assert loaded.api_key.get_secret_value() == KEY
    assert loaded.account_id == "a"
