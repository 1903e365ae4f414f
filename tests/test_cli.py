"""The command line, in a terminal's terms: what it prints, where, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_modeldeploy import __version__
from prefect_modeldeploy.cli import app


def modeldeploy(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"} | ({"MODELDEPLOY_HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "prefect_modeldeploy.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


@pytest.mark.parametrize(
    "command",
    [
        *([], ["node"], ["node", "start"], ["node", "status"], ["node", "stop"], ["sandbox", "start"], ["demo"]),
        *(["plan"], ["halt"], ["allow"], ["approve"], ["order"], ["rollout"], ["deployments-path"]),
    ],
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app([*command, "--help"])
    assert not ended.value.code
    assert "Usage: modeldeploy" in capsys.readouterr().out


def test_the_version_is_the_packages() -> None:
    assert modeldeploy("--version").stdout.strip() == __version__


def test_an_unknown_command_is_refused_in_one_line() -> None:
    refused = modeldeploy("nodes")
    assert refused.returncode == 2
    assert refused.stderr.startswith('error: Unknown command "nodes".')
    assert refused.stderr.count("\n") == 1


def test_the_life_of_a_node(tmp_path: Path) -> None:
    home = tmp_path / "home"
    gone = modeldeploy("node", "status", home=home)
    assert gone.returncode == 3
    assert "modeldeploy node start" in gone.stderr

    started = modeldeploy("node", "start", "--json", home=home)
    assert started.returncode == 0, started.stderr
    facts = json.loads(started.stdout.splitlines()[-1])
    try:
        assert json.loads(modeldeploy("node", "start", "--json", home=home).stdout)["pid"] == facts["pid"]
        status = json.loads(modeldeploy("node", "status", "--json", home=home).stdout)
        assert (status["pid"], status["gateway_url"]) == (facts["pid"], facts["gateway_url"])
        assert facts["gateway_url"] in modeldeploy("node", "status", home=home).stdout
        second = modeldeploy("node", "start", "--foreground", home=home)
        assert second.returncode == 1
        assert str(facts["pid"]) in second.stderr
    finally:
        stopped = modeldeploy("node", "stop", home=home)
    assert "stopped" in stopped.stdout
    assert modeldeploy("node", "status", home=home).returncode == 3


def test_a_home_that_cannot_be_is_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = modeldeploy("node", "start", home=tmp_path / "file" / "home")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "MODELDEPLOY_HOME" in done.stderr
    assert "Traceback" not in done.stderr
