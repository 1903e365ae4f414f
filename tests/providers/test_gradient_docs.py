"""The docs page and the script that makes the block: what they say is run."""

import ast
import asyncio
import importlib.util
import re
from inspect import iscoroutine
from pathlib import Path
from typing import Any

import pytest

import prefect_modeldeploy
from prefect_modeldeploy.block_scripts import run
from prefect_modeldeploy.deployments import Capability
from prefect_modeldeploy.providers.gradient import GradientCredentials
from tests.sandbox.kit import RunningSandbox, running_sandbox

PAGE = Path(prefect_modeldeploy.__file__).parent / "docs" / "providers" / "gradient.md"
SCRIPT = Path(__file__).parents[2] / "blocks" / "create_gradient.py"


def variables(sandbox: RunningSandbox) -> dict[str, str]:
    ready = sandbox["gradient"]
    return {
        "PAPERSPACE_API_KEY": ready["api_key"],
        "GRADIENT_PROJECT": ready["seed"]["project_id"],
        "GRADIENT_BASE_URL": ready["base_url"],
    }


async def test_the_example_of_the_page_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    code = compile(example, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with running_sandbox("gradient") as sandbox:
        for name, value in variables(sandbox).items():
            monkeypatch.setenv(name, value)
        running = eval(code, {})
        assert iscoroutine(running)
        await running
        [made] = (await sandbox.control.table("gradient", "deployments")).values()
    assert made["name"] == "fraud-v2"
    assert "{'sum': 3.0" in capsys.readouterr().out


def test_the_page_describes_every_field_of_the_block_and_every_capability() -> None:
    text = PAGE.read_text()
    for field in set(GradientCredentials.model_fields) - {"allow_http"}:
        assert f"`{field}`" in text, field
    for capability in Capability:
        assert capability.lower().replace("_", " ") in text.lower(), capability


# --- blocks/create_gradient.py ----------------------------------------------------------------------------------------


def script() -> Any:
    found = importlib.util.spec_from_file_location("create_gradient", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("prefect_server")
async def test_the_script_saves_the_block_and_updates_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_sandbox("gradient") as sandbox:
        for name, value in {**variables(sandbox), "GRADIENT_BLOCK": "of-a-test"}.items():
            monkeypatch.setenv(name, value)
        assert await script().main() == "created gradient-credentials/of-a-test; 0 deployments in the project"
        monkeypatch.setenv("GRADIENT_ENDPOINT_KEY", "planted-password")
        assert await script().main() == "updated gradient-credentials/of-a-test; 0 deployments in the project"
        saved = await GradientCredentials.aload("of-a-test")
        assert saved.endpoint_key is not None
        assert saved.project_id == sandbox["gradient"]["seed"]["project_id"]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("missing", ["PAPERSPACE_API_KEY", "GRADIENT_PROJECT"])
async def test_a_missing_variable_or_a_wrong_one_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    async with running_sandbox("gradient") as sandbox:
        for name, value in variables(sandbox).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv(missing)
        with pytest.raises(SystemExit, match=f"^{missing} is not set") as ended:
            await asyncio.to_thread(run, script().main, script().VARIABLES)
        assert "\n" not in str(ended.value)
        monkeypatch.setenv(missing, "wrong")
        with pytest.raises(SystemExit, match=r"^gradient: GET .*(Unauthorized|Project not found)") as ended:
            await asyncio.to_thread(run, script().main, script().VARIABLES)
        assert "\n" not in str(ended.value)
