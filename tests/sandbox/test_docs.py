"""The page of the sandbox: its example runs, and its tables name all that there is."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

import prefect_modeldeploy
from prefect_modeldeploy.sandbox import PROVIDERS
from prefect_modeldeploy.sandbox.faults import Kind
from prefect_modeldeploy.sandbox.lifecycle import Fate
from tests.readme import execute
from tests.sandbox.kit import running_sandbox

PAGE = (Path(prefect_modeldeploy.__file__).parent / "docs" / "sandbox.md").read_text()


async def test_the_example_sets_faults_fates_and_behaviours_and_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    async with running_sandbox("scale") as sandbox:
        (tmp_path / "ready.json").write_text(json.dumps(sandbox.ready))
        await execute(example)
        assert [one.kind for one in await sandbox.control.faults()] == ["lost_answer", "status"]
        assert [one.outcome for one in await sandbox.control.fates()] == ["stuck"]
        assert [one.callable for one in await sandbox.control.behaviours()] == ["math:sqrt"]
        await sandbox.control.reset()
        assert await sandbox.control.faults() == []
        assert await sandbox.control.fates() == []
        assert await sandbox.control.behaviours() == []
    assert "lost_answer" in capsys.readouterr().out


@pytest.mark.parametrize("word", [*get_args(Kind), *get_args(Fate.model_fields["outcome"].annotation)])
def test_every_fault_and_every_fate_is_on_the_page(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_what_is_unknown_of_every_vendor_is_in_one_table() -> None:
    [table] = re.findall(r"\| vendor \| unknown \| the emulator \|\n(.*)", PAGE, re.DOTALL)
    vendors = [line.split(" | ")[0].removeprefix("| ").lower() for line in table.splitlines()[1:]]
    assert set(vendors) == set(PROVIDERS)
    assert len(vendors) > 100
