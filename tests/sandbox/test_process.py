"""A sandbox as users start it: a process, a ready file, ports, a state file, an end."""

import json
import signal
import stat
import subprocess
import sys
from asyncio import create_subprocess_exec
from pathlib import Path

import httpx
import pytest

from prefect_modeldeploy.local.ports import free_port
from tests.conftest import eventually
from tests.sandbox.kit import sandbox_process

READY = {
    "baseten": ({"base_url", "inference_url", "api_key"}, {"model_id", "deployment_id"}),
    "scale": ({"base_url", "api_key", "account_id"}, {"model_instance_id"}),
    "foundry": (
        {"base_url", "token", "client_id", "client_secret"},
        {"model_rid", "model_version_rid", "branch"},
    ),
    "fiddler": (
        {"base_url", "token", "organization"},
        {"project_id", "project_name", "model_id", "model_name", "dataset_id"},
    ),
    "gradient": ({"base_url", "graphql_url", "api_key"}, {"project_id"}),
}
"""The ready file: what is told of each provider, and of its first world."""


async def test_the_command_line_starts_all_five_in_one_process_with_the_promised_ready_file(tmp_path: Path) -> None:
    file = tmp_path / "ready.json"
    start = ("sandbox", "start", "--ready-file", str(file), "--speed", "0")
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "prefect_modeldeploy.cli", *start), stdout=subprocess.DEVNULL
    )
    try:
        await eventually(lambda: file.exists() or process.returncode is not None)
        ready = json.loads(file.read_text())
        assert set(ready) == {"control_url", *READY}
        assert {name: (set(ready[name]) - {"seed"}, set(ready[name]["seed"])) for name in READY} == READY
        async with httpx.AsyncClient(trust_env=False) as http:
            assert set((await http.get(f"{ready['control_url']}/v1/status")).json()["providers"]) == set(READY)
            answers = {name: await http.get(ready[name]["base_url"]) for name in READY}
        assert all(answer.status_code < 500 for answer in answers.values()), answers
    finally:
        process.terminate()
        await process.wait()


async def test_the_ready_file_is_written_when_all_answer_for_nobody_else_to_read(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path, "scale") as (sandbox, process):
        assert stat.S_IMODE((tmp_path / "ready.json").stat().st_mode) == 0o600
        assert set(sandbox.ready) == {"control_url", "scale"}
        scale = sandbox["scale"]
        async with httpx.AsyncClient(trust_env=False, headers={"x-api-key": scale["api_key"]}) as http:
            found = await http.get(f"{scale['base_url']}/v4/models/{scale['seed']['model_instance_id']}/deployments")
        assert [one["status"] for one in found.json()["items"]] == ["READY"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() in (0, -signal.SIGTERM)


async def test_ports_follow_the_one_that_is_given(tmp_path: Path) -> None:
    port = free_port()
    async with sandbox_process(tmp_path, "scale", arguments=["--port", str(port)]) as (sandbox, _):
        assert sandbox.ready["control_url"] == f"http://127.0.0.1:{port}"
        assert sandbox["scale"]["base_url"] == f"http://127.0.0.1:{port + 1}"


async def test_a_killed_sandbox_comes_back_with_its_world(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with sandbox_process(tmp_path, "scale", arguments=["--state", str(state)]) as (first, process):
        scale = first["scale"]
        headers = {"x-api-key": scale["api_key"]}
        path = f"/v4/models/{scale['seed']['model_instance_id']}/deployments"
        async with httpx.AsyncClient(base_url=scale["base_url"], trust_env=False, headers=headers) as http:
            made = (await http.post(path, json={"name": "kept"})).json()
        await eventually(lambda: state.exists() and "kept" in state.read_text())
        process.kill()
        await process.wait()
    async with sandbox_process(tmp_path, "scale", arguments=["--state", str(state)]) as (second, _):
        assert second["scale"]["api_key"] == scale["api_key"]
        assert made["id"] in await second.control.table("scale", "deployments")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--providers", "sagemaker"], "providers='sagemaker': there is no such emulator"),
        (["--providers", "scale", "--speed", "-1"], "speed=-1.0"),
        (["--providers", "scale", "--port", "70000"], "port=70000: cannot listen"),
    ],
)
async def test_a_failure_to_start_is_one_line(arguments: list[str], problem: str) -> None:
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "prefect_modeldeploy.sandbox", *arguments), stderr=subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().startswith(f"modeldeploy sandbox: {problem}")
    assert err.decode().count("\n") == 1


def test_the_process_does_not_load_prefect() -> None:
    script = "import sys, prefect_modeldeploy.sandbox.scale; print(json.dumps('prefect' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", "import json;" + script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
