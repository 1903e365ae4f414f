"""The Fiddler Credentials block: Prefect's own standards, its fields, and what it must not show."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_modeldeploy.block_scripts import run
from prefect_modeldeploy.errors import AuthenticationFailed, InvalidInput
from prefect_modeldeploy.providers.fiddler import FiddlerCredentials
from tests.providers.fiddler_kit import Account, account, credentials, fiddler_sandbox

__all__ = ["account", "fiddler_sandbox"]

TOKEN = "planted-token-9d1c"


def block(**fields: Any) -> FiddlerCredentials:
    return FiddlerCredentials(**{"base_url": "https://acme.fiddler.ai", "token": SecretStr(TOKEN), **fields})


@pytest.mark.usefixtures("prefect_server")
class TestBlock(BlockStandardTestSuite):
    """Prefect's own standard for blocks."""

    @pytest.fixture
    def block(self) -> type:
        return FiddlerCredentials

    def test_has_a_valid_image(self, block: type) -> None:
        """Prefect's test downloads the logo; tests of ours need no network."""
        assert str(block._logo_url).startswith("https://")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("prefect_server")
async def test_it_is_saved_and_loaded_whole() -> None:
    kept = block(project="p", organization="o", api="v2", job_timeout_seconds=5.0, delete_any_model=True)
    await kept.save("fiddler-test", overwrite=True)
    loaded = await FiddlerCredentials.aload("fiddler-test")
    fields = set(FiddlerCredentials.model_fields)
    assert loaded.model_dump(include=fields) == kept.model_dump(include=fields)
    assert loaded.token.get_secret_value() == TOKEN


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"base_url": "https://acme.fiddler.ai/api"}, "base_url.*takes no path"),
        ({"base_url": "https://acme.fiddler.ai/?x=1"}, "base_url.*takes no path"),
        ({"base_url": "http://acme.fiddler.ai"}, "base_url.*in clear"),
        ({"base_url": "acme.fiddler.ai"}, "base_url"),
        ({"base_url": "https://user:secret@acme.fiddler.ai"}, "base_url.*password"),
        ({"token": ""}, "token"),
        ({"api": "v4"}, "api"),
        ({"api": "v2", "project": "p"}, "organization"),
        ({"api": "v2", "organization": "o"}, "project"),
        ({"job_timeout_seconds": 0}, "job_timeout_seconds"),
    ],
)
def test_a_field_that_cannot_work_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises((ValidationError, InvalidInput), match=f"(?s){named}") as refused:
        block(**fields)
    assert TOKEN not in str(refused.value)


def test_plain_http_is_for_loopback_or_when_allowed() -> None:
    assert block(base_url="http://127.0.0.1:80/").base_url
    assert block(base_url="http://fiddler.internal", allow_http=True).base_url


def test_the_token_is_not_shown() -> None:
    kept = block()
    for shown in (repr(kept), str(kept), kept.model_dump_json(), repr(kept.model_dump())):
        assert TOKEN not in shown


async def test_a_wrong_token_is_said_at_once(account: Account) -> None:
    wrong = credentials(account.sandbox, token=SecretStr(TOKEN))
    with pytest.raises(AuthenticationFailed, match="Invalid token") as refused:
        async with wrong.get_client():
            pass
    assert TOKEN not in str(refused.value)


async def test_a_project_that_is_not_there_is_said_by_name(account: Account) -> None:
    async with credentials(account.sandbox, project="nothing").get_client() as client:
        with pytest.raises(InvalidInput, match="project='nothing'"):
            await client.find()


# --- blocks/create_fiddler.py -----------------------------------------------------------------------------------------

SCRIPT = Path(__file__).parents[2] / "blocks" / "create_fiddler.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with no variable set."""
    for name in ("URL", "TOKEN", "PROJECT", "ORGANIZATION", "BLOCK"):
        monkeypatch.delenv(f"FIDDLER_{name}", raising=False)
    found = importlib.util.spec_from_file_location("create_fiddler", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("missing", ["FIDDLER_URL", "FIDDLER_TOKEN"])
async def test_the_script_names_a_missing_variable_in_one_line(
    script: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name, value in {"FIDDLER_URL": "https://acme.fiddler.ai", "FIDDLER_TOKEN": TOKEN}.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(run, script.main, script.VARIABLES)
    said = str(ended.value)
    assert said.startswith(f"{missing} is not set")
    assert "\n" not in said
    assert TOKEN not in said


@pytest.mark.usefixtures("prefect_server")
async def test_the_script_saves_the_block_and_does_it_again(
    account: Account, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = account.sandbox["fiddler"]
    given = {"FIDDLER_URL": told["base_url"], "FIDDLER_TOKEN": told["token"], "FIDDLER_PROJECT": "bank_churn"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for done in ("created", "updated"):
        assert await script.main() == f"{done} fiddler-credentials/fiddler; v3 API, 1 model versions"
    saved = await FiddlerCredentials.aload("fiddler")
    assert (saved.project, saved.base_url) == ("bank_churn", told["base_url"])
    monkeypatch.setenv("FIDDLER_TOKEN", TOKEN)
    with pytest.raises(SystemExit, match=r"^fiddler: .*Invalid token") as ended:
        await asyncio.to_thread(run, script.main, script.VARIABLES)
    assert TOKEN not in str(ended.value)
