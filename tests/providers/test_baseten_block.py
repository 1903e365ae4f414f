"""The Baseten Credentials block: Prefect's own standards, its fields, and what it and everything else must not show."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.errors import AuthenticationFailed, InvalidInput, ModelDeployError
from prefect_modeldeploy.providers.baseten import BasetenCredentials
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of

KEY = "planted-key-4711"


def block(**fields: Any) -> BasetenCredentials:
    return BasetenCredentials(**{"api_key": SecretStr(KEY), **fields})


@pytest.mark.usefixtures("prefect_server")
class TestBlock(BlockStandardTestSuite):
    """Prefect's own standard for blocks."""

    @pytest.fixture
    def block(self) -> type:
        return BasetenCredentials

    def test_has_a_valid_image(self, block: type) -> None:
        """Prefect's test downloads the logo; tests of ours need no network."""
        assert str(block._logo_url).startswith("https://")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("prefect_server")
async def test_it_is_saved_and_loaded_whole() -> None:
    kept = block(predict_timeout_seconds=5.0, visible_seconds=2.0, base_url="https://baseten.internal")
    await kept.save("baseten-test", overwrite=True)
    loaded = await BasetenCredentials.aload("baseten-test")
    fields = set(BasetenCredentials.model_fields)
    assert loaded.model_dump(include=fields) == kept.model_dump(include=fields)
    assert loaded.api_key.get_secret_value() == KEY
    assert loaded.can(Capability.PROMOTE)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"base_url": "http://api.baseten.co"}, "base_url.*in clear"),
        ({"base_url": "api.baseten.co"}, "base_url"),
        ({"inference_url": "http://model-{model_id}.api.baseten.co"}, "inference_url.*in clear"),
        ({"inference_url": "ftp://x"}, "inference_url"),
        ({"inference_url": "https://u:secret@x"}, "inference_url.*password"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "two words"}, "api_key"),
        ({"predict_timeout_seconds": 0}, "predict_timeout_seconds"),
        ({"visible_seconds": -1}, "visible_seconds"),
    ],
)
def test_a_field_that_cannot_work_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises((ValidationError, InvalidInput), match=f"(?s){named}") as refused:
        block(**fields)
    assert KEY not in str(refused.value)


def test_plain_http_is_for_loopback_or_when_allowed() -> None:
    assert block(base_url="http://127.0.0.1:80", inference_url="http://localhost:80/inference")
    assert block(base_url="http://baseten.internal", inference_url="http://baseten.internal", allow_http=True)


async def test_an_address_without_a_model_gets_it_appended() -> None:
    async with block().get_client() as vendor, block(inference_url="https://x/y").get_client() as other:
        assert vendor.inference.url("abc", "production") == "https://model-abc.api.baseten.co/production"
        assert other.inference.url("abc", "production") == "https://x/y/model-abc/production"


async def test_no_secret_is_shown_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is said while much goes wrong: logs of all levels, exceptions, reprs, the sandbox's journal."""
    caplog.set_level(logging.DEBUG)
    async with baseten() as (sandbox, client):
        facts = (await sandbox.control.state("baseten"))["facts"]
        ready = sandbox["baseten"]
        planted = [facts["api_key"], facts["s3_secret"], facts["s3_session_token"], facts["download_secret"], KEY]
        said: list[str] = []
        credentials = block(
            api_key=SecretStr(facts["api_key"]), base_url=ready["base_url"], inference_url=ready["inference_url"]
        )
        said += [repr(credentials), credentials.model_dump_json(), repr(client), repr(credentials.get_client())]
        await sandbox.control.fault(method="POST", path="/v1/models/*", kind="lost_answer")
        await sandbox.control.fault(method="PUT", kind="status", status=500, body=facts["s3_secret"], times=1)
        created = await _until_done(client, tmp_path, said)
        said.append(repr(created))
        await sandbox.control.fault(kind="status", status=400, body={"code": "X", "message": facts["api_key"]})
        await _refused(client.get(seeded(sandbox)), said)
        await _refused(client.get("none/none"), said)
        async with block(base_url=ready["base_url"]).get_client() as stranger:
            await _refused(stranger.find(), said)
        said += [one.model_dump_json() for one in await sandbox.control.requests()]
        text = "\n".join([*said, caplog.text])
        assert "lost" in text or "disconnected" in text
        for secret in planted:
            assert secret not in text


async def _until_done(client: Any, tmp_path: Path, said: list[str]) -> Any:
    for _ in range(3):
        try:
            return await client.create(spec_of(make_truss(tmp_path)))
        except ModelDeployError as error:
            said += [repr(error), str(error)]
    raise AssertionError("it could not be created")


async def _refused(call: Any, said: list[str]) -> None:
    with pytest.raises(ModelDeployError) as raised:
        await call
    error: BaseException | None = raised.value
    while error is not None:
        said += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__


# --- blocks/create_baseten.py -----------------------------------------------------------------------------------------

SCRIPT = Path(__file__).parents[2] / "blocks" / "create_baseten.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with no variable set."""
    for name in ("API_KEY", "BASE_URL", "INFERENCE_URL", "BLOCK"):
        monkeypatch.delenv(f"BASETEN_{name}", raising=False)
    found = importlib.util.spec_from_file_location("create_baseten", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


async def test_the_script_names_a_missing_variable_in_one_line(script: Any) -> None:
    with pytest.raises(SystemExit, match=r"^BASETEN_API_KEY is not set[^\n]*$"):
        await script.main()


@pytest.mark.usefixtures("prefect_server")
async def test_the_script_saves_the_block_and_does_it_again(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with baseten() as (sandbox, _):
        ready = sandbox["baseten"]
        for name in ("api_key", "base_url", "inference_url"):
            monkeypatch.setenv(f"BASETEN_{name.upper()}", ready[name])
        monkeypatch.setenv("BASETEN_BLOCK", "baseten-of-a-script")
        for done in ("created", "updated"):
            assert await script.main() == f"{done} baseten-credentials/baseten-of-a-script; 1 models"
        saved = await BasetenCredentials.aload("baseten-of-a-script")
        async with saved.get_client() as client:
            assert (await client.get(seeded(sandbox))).ready
        monkeypatch.setenv("BASETEN_API_KEY", KEY)
        with pytest.raises(AuthenticationFailed):
            await script.main()
        assert (await BasetenCredentials.aload("baseten-of-a-script")).api_key == SecretStr(ready["api_key"])
