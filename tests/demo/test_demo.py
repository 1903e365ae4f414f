"""`modeldeploy demo --json` as a new user runs it: everything is real, and all that was promised is in its output."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.settings import get_current_settings

from tests.conftest import eventually
from tests.report.reading import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


COMMAND = [sys.executable, "-m", "prefect_modeldeploy.cli", "demo", "--json"]


def environment_in(directory: Path, **settings: str) -> dict[str, str]:
    """Nothing of this machine's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    for name, folder in {"MODELDEPLOY_HOME": "home", "PREFECT_HOME": "prefect", "TMPDIR": "temporary"}.items():
        environment[name] = str(directory / folder)
        (directory / folder).mkdir()
    return environment | settings


def run_demo(directory: Path, **settings: str) -> dict[str, Any]:
    """The object on the last line of its output."""
    environment = environment_in(directory, **settings)
    ended = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False, timeout=800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
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


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_a_demo_that_is_told_to_end_ends_all_that_it_started(told: signal.Signals, tmp_path: Path) -> None:
    said, printed = tmp_path / "said", tmp_path / "printed"
    with said.open("wb") as stderr, printed.open("wb") as stdout:
        demo = subprocess.Popen(
            COMMAND, env=environment_in(tmp_path), stdout=stdout, stderr=stderr, start_new_session=True
        )
    try:
        await eventually(lambda: "requests a second" in said.read_text() or demo.poll() is not None, seconds=300)
        assert demo.poll() is None, said.read_text()
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) >= 3, said.read_text()  # the node, Prefect's server, the requests
        # A terminal tells all of them, a supervisor the one that it knows.
        os.killpg(demo.pid, told) if told is signal.SIGINT else demo.send_signal(told)
        await asyncio.to_thread(demo.wait, 120)
    finally:
        demo.kill()
    assert demo.returncode == 130, said.read_text()
    facts = json.loads(printed.read_text().splitlines()[-1])
    assert (facts["ok"], facts["unmet"]) == (False, ["interrupted"])
    await eventually(lambda: not any(each.is_running() for each in started))
    leaves_nothing_behind(tmp_path)
