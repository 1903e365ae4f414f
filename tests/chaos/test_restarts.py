"""What a rollout depends on is killed in its middle and started again: the rollout goes on, and losses are counted.

The death of the serving node alone, which loses nothing, is in tests/flows/test_node_killed.py.
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from prefect_modeldeploy import DeploymentSpec, DeploymentTarget, canary_rollout, promote_to_production
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.target import client_of, router_of
from prefect_modeldeploy.traffic.admin import AdminSocket, Workers
from tests import prefect_server as servers
from tests.chaos.accidents import Case
from tests.chaos.scenes import PLAN, local_site
from tests.chaos.watching import watched
from tests.conftest import eventually
from tests.flows import arms_kit
from tests.flows.conftest import QUICK
from tests.flows.hosted import MAKERS
from tests.providers import scale_kit
from tests.sandbox.kit import sandbox_process
from tests.traffic.load import CONNECTIONS, Answers, load

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
@pytest.mark.parametrize("with_node", [False, True], ids=["by its node", "by the next node"])
async def test_the_gateways_proxy_is_killed_and_started_again(tmp_path: Path, with_node: bool) -> None:
    """The node starts it again; where that dies as well, the next one does, which the rollout itself has started."""
    home, plan = Home(tmp_path / "node"), QUICK.model_copy(update={"step_seconds": 4.0})
    async with local_site(home.directory, 1) as site, watched(site.target) as seen:
        async with await site.load(rate=200, try_again=True) as answers:
            await site.history(answers)
            running = asyncio.create_task(canary_rollout(site.target, site.spec("2"), plan))
            await eventually(lambda: answers.by_arm["canary"] > 20)
            lost, killed_at = _lost(answers), time.monotonic()
            former = await _kill_gateway(home, with_node)
            await eventually(partial(_is_replaced, home, former))
            back, away = answers.by_arm.copy(), time.monotonic() - killed_at
            await eventually(lambda: all(answers.by_arm[arm] > back[arm] + 20 for arm in ("stable", "canary")))
            record = await running
        async with router_of(site.target) as (router, name):
            windows, _ = await router.windows(name)
    await stop_node(home.directory)
    print(f"away for {away:.2f} s: {answers.refused} connections refused, lost {_lost(answers)}")
    assert record.outcome == "promoted", record.reason
    assert lost == []
    assert len(_lost(answers)) <= CONNECTIONS, "what was on its way, and no more"
    assert not [failure for failure in _lost(answers) if failure.startswith("status")]
    assert not seen.wrong
    assert all(sum(window.weights.values()) == pytest.approx(100) for window in windows), "as each request was split"
    counted = sum(arm.requests + arm.excluded.total() for window in windows for arm in window.arms.values())
    models = len(answers.failures) - len(_lost(answers))
    assert abs(answers.count + models - counted) <= CONNECTIONS, "of what was on its way the log may say nothing"


async def _kill_gateway(home: Home, with_node: bool) -> Workers:
    """Returns which processes it was."""
    proxy, node = await AdminSocket(home.gateway).workers(), home.read_node()
    assert proxy is not None
    assert node is not None
    for pid in (*([node.pid] if with_node else ()), proxy.master, *proxy.all):
        os.kill(pid, signal.SIGKILL)
    return proxy


async def _is_replaced(home: Home, former: Workers) -> bool:
    proxy = await AdminSocket(home.gateway).workers()
    return proxy is not None and proxy.current is not None and proxy.master != former.master


def _lost(answers: Answers) -> list[str]:
    """Failures that are none of the models' own."""
    return [failure for failure in answers.failures if failure != "status 500"]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("provider", ["baseten", "gradient"])
async def test_a_provider_is_killed_and_comes_back_while_our_gateway_splits(tmp_path: Path, provider: str) -> None:
    """Both arms are there, so both are away together: that is no evidence against the canary."""
    arguments, restarted = _kept(tmp_path), tmp_path / "restarted"
    plan = PLAN.model_copy(update={"step_seconds": 6.0})
    restarted.mkdir()
    async with (
        sandbox_process(tmp_path, provider, arguments=arguments) as (sandbox, process),
        AsyncExitStack() as later,
    ):
        there = await MAKERS[provider](sandbox, tmp_path)
        await there.control.behave(error_rate=0.04)
        gateway, node = await later.enter_async_context(arms_kit.gateway_at(tmp_path / "node"))
        later.push_async_callback(stop_node, tmp_path / "node")
        target = there.target.model_copy(update={"gateway": gateway})
        [first] = await there.production()
        await promote_to_production(target, first.id)
        url = f"{await node.url(target.endpoint)}/predict"
        seen = await later.enter_async_context(watched(target))
        answers = await later.enter_async_context(load(url, rate=100, body=b'{"x": 1}'))
        await eventually(lambda: answers.count > 100)
        running = asyncio.create_task(canary_rollout(target, there.candidate, plan))
        await eventually(lambda: answers.by_arm["canary"] > 20)
        await eventually(lambda: there.candidate.name in (tmp_path / "state.json").read_text())
        lost, killed_at = _lost(answers), time.monotonic()
        process.kill()
        await process.wait()
        async with sandbox_process(restarted, provider, arguments=arguments) as (sandbox, _):
            await sandbox.control.behave(error_rate=0.04)  # what is no state of the provider's is gone
            away, back = time.monotonic() - killed_at, answers.by_arm.copy()
            await eventually(lambda: all(answers.by_arm[arm] > back[arm] + 20 for arm in ("stable", "canary")))
            meanwhile = _lost(answers)
            record = await running
            async with client_of(target) as client:
                found = await client.find(model=target.model)
            await later.aclose()
    print(f"away for {away:.2f} s: lost {Counter(meanwhile)} of {answers.count}")
    assert record.outcome == "promoted", record.reason
    assert lost == []
    assert _lost(answers) == meanwhile, "nothing more, since it is back"
    assert not seen.wrong
    assert [d.id for d in found if d.name == there.candidate.name] == [record.canary], "created once"


@pytest.mark.usefixtures("prefect_server")
async def test_a_provider_is_killed_and_comes_back_with_what_it_knew(tmp_path: Path) -> None:
    arguments, state = _kept(tmp_path), tmp_path / "state.json"
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


def _kept(directory: Path) -> list[str]:
    """Arguments of a sandbox that is, when it is started again, where it was and as it was."""
    return ["--state", str(directory / "state.json"), "--port", str(free_port())]
