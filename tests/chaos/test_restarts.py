"""What a rollout depends on is killed in its middle and started again: the rollout goes on, and no request is lost.

The serving node and the gateway's proxy have tests of their own: tests/flows/test_node_killed.py, tests/traffic.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from prefect_modeldeploy import DeploymentSpec, DeploymentTarget, canary_rollout, promote_to_production
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.target import client_of
from tests import prefect_server as servers
from tests.chaos.accidents import Case
from tests.chaos.stories import local_site
from tests.conftest import eventually
from tests.flows.conftest import QUICK
from tests.providers import scale_kit
from tests.sandbox.kit import sandbox_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@asynccontextmanager
async def a_server() -> AsyncIterator[servers.Server]:
    with servers.restartable_server("--no-ui") as server:
        await asyncio.to_thread(servers.wait_for, server.url)
        yield server


async def test_prefects_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    home, never = tmp_path / "node", tmp_path / "struck"
    never.touch()  # the accident of this process has been: nothing else befalls it
    plan = QUICK.model_copy(update={"step_seconds": 4.0})
    async with a_server() as server, local_site(home, 1) as site:
        arguments = {"target": site.target, "candidate": site.spec("2"), "plan": plan}
        case = Case(canary_rollout, arguments, site.target, "end:saved", "kill", never).write(tmp_path / "case")
        async with await site.load(rate=100) as answers:
            await site.history(answers, 100)
            # A process of its own: what Prefect keeps in one for good belongs to the server that it met first.
            running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.chaos.victim", str(case)),
                env={**os.environ, "PREFECT_API_URL": server.url},
            )
            await eventually(lambda: answers.by_arm["canary"] > 20, seconds=120)
            server.kill()
            seen = answers.by_arm["canary"]
            await eventually(lambda: answers.by_arm["canary"] > seen + 100)  # its share stays while nobody is there
            server.start()
            assert await running.wait() == 0
        assert await site.arms() == {"stable": (f"{site.target.model}-2", 100.0)}
        assert not [failure for failure in answers.failures if failure != "status 500"]
    await stop_node(home)


@pytest.mark.usefixtures("prefect_server")
async def test_a_provider_is_killed_and_comes_back_with_what_it_knew(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        arguments = ["--state", str(state), "--port", str(probe.getsockname()[1])]
    async with sandbox_process(tmp_path, "scale", speed=4.0, arguments=arguments) as (sandbox, process):
        credentials = scale_kit.credentials_of(sandbox)
        model = sandbox["scale"]["seed"]["model_instance_id"]
        target = DeploymentTarget(credentials=credentials, model=model, endpoint="restarted")
        running = asyncio.create_task(
            promote_to_production(target, DeploymentSpec(name="fraud-v2", model=model), mode="native")
        )
        await eventually(lambda: state.exists() and "fraud-v2" in state.read_text())
        process.kill()
        await process.wait()
    async with sandbox_process(tmp_path, "scale", speed=4.0, arguments=arguments):
        record = await running
        assert record.outcome == "promoted", record.reason
        async with client_of(target) as client:
            found = await client.find(model=model)
        assert [d.name for d in found if d.environment == "production"] == ["fraud-v2"]
        assert len({d.name for d in found}) == len(found)
