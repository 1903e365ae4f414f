"""`modeldeploy demo --json` as a new user runs it: everything is real, and all that was promised is in its output."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.settings import get_current_settings

from tests.report.reading import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run_demo(directory: Path, **settings: str) -> dict[str, Any]:
    """Run it with nothing of this machine's: the object on the last line of its output."""
    own = {"MODELDEPLOY_HOME": "home", "PREFECT_HOME": "prefect", "TMPDIR": "temporary"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    for name, folder in own.items():
        environment[name] = str(directory / folder)
        (directory / folder).mkdir()
    command = [sys.executable, "-m", "prefect_modeldeploy.cli", "demo", "--json"]
    environment |= settings
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return facts


def is_as_promised(facts: dict[str, Any], directory: Path) -> None:
    assert set(facts) == {"ok", "seconds", "rollouts", "requests", "wake_seconds", "report", "unmet"}
    assert (facts["ok"], facts["unmet"]) == (True, [])
    assert isinstance(facts["seconds"], float)

    outcomes = {each["version"]: each["outcome"] for each in facts["rollouts"]}
    assert outcomes == {"2": "promoted", "3": "rolled_back"}
    for each in facts["rollouts"]:
        assert set(each) == {"version", "outcome", "seconds", "decided_by"}
        assert 0 < each["seconds"] < facts["seconds"]
    assert facts["rollouts"][1]["decided_by"] == "failures"

    requests = facts["requests"]
    assert set(requests) == {"sent", "answered", "failed_by_model", "lost", "by_arm"}
    assert requests["lost"] == 0
    assert requests["failed_by_model"] > 0
    assert requests["sent"] == requests["answered"] + requests["failed_by_model"] == sum(requests["by_arm"].values())
    assert set(requests["by_arm"]) == {"stable", "canary"}
    assert 0 < facts["wake_seconds"] < facts["seconds"]

    report = Path(facts["report"])
    assert report.parent == directory / "home" / "reports"
    page = Page(report.read_text(encoding="utf-8"))
    assert "Version 3 was rolled back" in page.text
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    links = {value for _, key, value in page.attributes if key in ("href", "xlink:href", "src", "srcset")}
    assert all(link.startswith("#") for link in links)


def leaves_nothing_behind(directory: Path) -> None:
    """No file of its node, and no process that has to do with it."""
    assert list((directory / "temporary").glob("modeldeploy-demo-*")) == []
    own = str(directory / "temporary")
    assert [p.info for p in psutil.process_iter(["cmdline", "pid"]) if own in " ".join(p.info["cmdline"] or ())] == []


def test_the_demo_needs_no_server_and_keeps_its_promises(tmp_path: Path) -> None:
    is_as_promised(run_demo(tmp_path), tmp_path)
    leaves_nothing_behind(tmp_path)


def test_with_a_prefect_server_the_demo_shows_up_there(prefect_server: None, tmp_path: Path) -> None:
    url = str(get_current_settings().api.url)
    is_as_promised(run_demo(tmp_path, PREFECT_API_URL=url), tmp_path)
    with httpx.Client(base_url=url, trust_env=False) as http:

        def runs(**where: Any) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = http.post("/flow_runs/filter", json=where).raise_for_status().json()
            return found

        demo = runs(flows={"name": {"any_": ["modeldeploy-demo"]}}, sort="START_TIME_DESC")[0]
        assert demo["state_type"] == "COMPLETED"
        inner = runs(flow_runs={"parent_flow_run_id": {"any_": [demo["id"]]}}, sort="START_TIME_ASC")
        flows = [http.get(f"/flows/{each['flow_id']}").json()["name"] for each in inner]
        assert flows == ["promote-to-production", "canary-rollout", "canary-rollout", "scale-to-zero"]
        assert {each["state_type"] for each in inner} == {"COMPLETED"}
