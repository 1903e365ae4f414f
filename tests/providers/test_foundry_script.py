"""blocks/create_foundry.py: saves the block, or says in one line why not."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from prefect_modeldeploy.block_scripts import run
from prefect_modeldeploy.providers.foundry import FoundryCredentials
from tests.providers.foundry_kit import Foundry, shared_foundry, stack

__all__ = ["shared_foundry", "stack"]

SCRIPT = Path(__file__).parents[2] / "blocks" / "create_foundry.py"
NAMES = ("BASE_URL", "MODEL", "TOKEN", "CLIENT_ID", "CLIENT_SECRET", "PRODUCTION_BRANCH", "BLOCK")
GIVEN = {"BASE_URL": "https://stack.example", "MODEL": "ri.a..b.c", "CLIENT_ID": "i", "CLIENT_SECRET": "planted"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with no variable set."""
    for name in NAMES:
        monkeypatch.delenv(f"FOUNDRY_{name}", raising=False)
    found = importlib.util.spec_from_file_location("create_foundry", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


async def said_by(script: Any, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(f"FOUNDRY_{name}", value)
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(run, script.main, script.VARIABLES)
    said = str(ended.value)
    assert "\n" not in said
    assert "planted" not in said
    return said


@pytest.mark.parametrize("missing", GIVEN)
async def test_a_missing_variable_is_named(script: Any, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    said = await said_by(script, monkeypatch, {name: value for name, value in GIVEN.items() if name != missing})
    assert said.startswith(f"FOUNDRY_{missing} is not set")


@pytest.mark.usefixtures("prefect_server")
async def test_what_cannot_work_is_one_line(stack: Foundry, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"BASE_URL": "http://stack.example"}
    assert "FOUNDRY_BASE_URL=" in await said_by(script, monkeypatch, GIVEN | bad)
    wrong = {"BASE_URL": stack.sandbox["foundry"]["base_url"], "MODEL": stack.model}
    assert "invalid_client" in await said_by(script, monkeypatch, GIVEN | wrong)


@pytest.mark.usefixtures("prefect_server")
async def test_the_block_is_saved_again_and_again(stack: Foundry, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    about = stack.sandbox["foundry"]
    given = {"BASE_URL": about["base_url"], "MODEL": stack.model, "TOKEN": about["token"]}
    for name, value in given.items():
        monkeypatch.setenv(f"FOUNDRY_{name}", value)
    for done in ("created", "updated"):
        said = await script.main()
        assert said == f"{done} foundry-credentials/foundry; 1 live deployments of {stack.model}"
        assert about["token"] not in said
    saved = await FoundryCredentials.aload("foundry")
    async with saved.get_client() as client:
        assert [d.environment for d in await client.find(model=stack.model)] == ["production"]

    saved.branches = {"production": "master", "staging": "next"}  # as a person does it in the UI
    await saved.save("foundry", overwrite=True)
    monkeypatch.delenv("FOUNDRY_TOKEN")
    for name in ("CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"FOUNDRY_{name}", about[name.lower()])
    assert "updated" in await script.main()
    saved = await FoundryCredentials.aload("foundry")
    assert (saved.token, saved.client_id) == (None, about["client_id"])
    assert saved.branches == {"production": "master", "staging": "next"}
