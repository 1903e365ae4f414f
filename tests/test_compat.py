"""What is said about an environment whose Prefect server cannot start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy import compat
from prefect_modeldeploy.errors import ModelDeployError


def installed(monkeypatch: pytest.MonkeyPatch, prefect: str, fastapi: str, sqlalchemy: str = "2.0.58") -> None:
    versions = {"prefect": prefect, "fastapi": fastapi, "sqlalchemy": sqlalchemy}
    monkeypatch.setattr(compat, "version", versions.__getitem__)


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (("3.8.8", "0.151.0"), r"fastapi=0\.151\.0 breaks the server of prefect=3\.8\.8: install 'fastapi<0\.151'"),
        (("3.8.4", "0.165.1"), r"fastapi=0\.165\.1 breaks the server of prefect=3\.8\.4: install 'fastapi<0\.151'"),
        (
            ("3.8.8", "0.150.0", "2.1.9"),
            r"sqlalchemy=2\.1\.9 ends every schedule on the server of prefect=3\.8\.8: install 'sqlalchemy<2\.1'",
        ),
    ],
)
def test_a_broken_pair_of_versions_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, versions: tuple[str, ...], said: str
) -> None:
    installed(monkeypatch, *versions)
    with temporary_settings({PREFECT_API_URL: None}):
        with pytest.raises(ModelDeployError, match=said):
            compat.check_prefect_server()
        with pytest.warns(UserWarning, match=said):
            compat.warn_if_server_cannot_start()


@pytest.mark.parametrize("versions", [("3.8.8", "0.150.0", "2.0.58"), ("3.9.1", "0.165.1", "2.1.9")])
def test_good_versions_are_not_mentioned(monkeypatch: pytest.MonkeyPatch, versions: tuple[str, ...]) -> None:
    installed(monkeypatch, *versions)
    with temporary_settings({PREFECT_API_URL: None}):
        assert compat.check_prefect_server() is None


def test_a_remote_server_has_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "3.8.8", "0.165.1")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        assert compat.check_prefect_server() is None


@pytest.mark.slow
def test_whoever_uses_tasks_flows_or_scripts_is_told_once(tmp_path: Path) -> None:
    for name, version in {"fastapi": "0.155.0", "prefect": "3.8.8"}.items():
        package = tmp_path / "site" / f"{name}-{version}.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    env = inherited | {"PYTHONPATH": path, "PREFECT_HOME": str(tmp_path / "home")}
    program = """
import sys, prefect_modeldeploy.tasks, prefect_modeldeploy.flows
print("NEXT", file=sys.stderr)
from prefect_modeldeploy.block_scripts import run
async def main(): return "done"
run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    said = "fastapi=0.155.0 breaks the server of prefect=3.8.8: install 'fastapi<0.151'"
    assert [part.count(said) for part in done.stderr.split("NEXT")] == [1, 1]
    assert done.stdout == "done\n"
