"""The example of Fiddler's page does what it says, and its tables name what there is."""

import ast
import re
from pathlib import Path

import pytest

import prefect_modeldeploy
from prefect_modeldeploy.providers.fiddler import FiddlerCredentials, JobStatus, conditions
from prefect_modeldeploy.providers.fiddler.specs import Options
from tests.providers.fiddler_kit import Account, account, artifact, fiddler_sandbox

__all__ = ["account", "fiddler_sandbox"]

PAGE = (Path(prefect_modeldeploy.__file__).parent / "docs" / "providers" / "fiddler.md").read_text()


async def test_the_example_runs(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = account.sandbox["fiddler"]
    given = {"FIDDLER_URL": told["base_url"], "FIDDLER_TOKEN": told["token"], "ARTIFACT": str(artifact(tmp_path))}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = compile(example, "fiddler.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, {})
    assert "'sum': 142" in capsys.readouterr().out
    [second] = [one for one in await account.client.find(model="churn") if one.version == "v2"]
    assert (second.environment, second.replicas.ready) == ("production", 2)


def test_every_option_and_every_field_of_the_block_is_on_the_page() -> None:
    own = [name for name in FiddlerCredentials.model_fields if name in FiddlerCredentials.__annotations__]
    options = [field.alias or name for name, field in Options.model_fields.items()]
    assert len(own) == 8
    assert [name for name in own + options if f"`{name}`" not in PAGE] == []


def test_the_tables_of_states_are_the_same_in_the_code_and_on_the_page() -> None:
    rows = r"\| ([A-Z]+) +\| (yes|no) +\| (yes|no) "
    told, coded = re.findall(rows, PAGE), re.findall(rows, conditions.__doc__ or "")
    assert len(set(coded)) == 9
    assert sorted(set(told)) == sorted(set(coded))
    assert [word for word in JobStatus if word not in PAGE] == []
