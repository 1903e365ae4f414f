"""The examples of Scale's page do what it says, and its tables name what there is."""

import ast
import re
from pathlib import Path

import pytest

import prefect_modeldeploy
from prefect_modeldeploy.providers.scale import ScaleCredentials
from prefect_modeldeploy.providers.scale.translate import STATUSES, ScaleOptions
from prefect_modeldeploy.providers.scale.v5 import STATUSES as V5_STATUSES
from tests.providers.scale_kit import Account, account, scale_sandbox
from tests.sandbox.kit import RunningSandbox

__all__ = ["account", "scale_sandbox"]

PAGE = (Path(prefect_modeldeploy.__file__).parent / "docs" / "providers" / "scale.md").read_text()


async def test_the_example_runs(
    account: Account, scale_sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = scale_sandbox["scale"]
    for name in ("api_key", "account_id", "base_url"):
        monkeypatch.setenv(f"SCALE_{name.upper()}", scale[name])
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = compile(example, "scale.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, {})
    await running
    [record] = await account.records("fraud-v2")
    assert record["vendor_configuration"]["max_workers"] == 4
    [server] = (await account.control.table("scale", "servers")).values()
    assert (server["alias"], server["model_deployment_id"]) == ("fraud-production", record["id"])


@pytest.mark.parametrize("word", [*STATUSES, *V5_STATUSES, *ScaleOptions.model_fields])
def test_every_word_is_on_the_page(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_every_field_of_the_block_is_on_the_page() -> None:
    own = [name for name in ScaleCredentials.model_fields if name in ScaleCredentials.__annotations__]
    assert len(own) == 6
    assert [name for name in own if f"`{name}`" not in PAGE] == []
