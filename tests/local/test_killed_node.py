"""The node is killed: the proxy and the replicas serve on, and the next node takes everything over."""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, DeploymentUpdate
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.client import NodeClient
from tests.conftest import eventually
from tests.local.conftest import RunningNode, no_process, processes_of, start

Status = DeploymentStatus


@dataclass
class Load:
    """What became of the requests so far."""

    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    async def more(self, requests: int = 100) -> None:
        """Wait until so many more were answered."""
        goal = self.statuses.total() + requests
        await eventually(lambda: self.statuses.total() >= goal)


@asynccontextmanager
async def load(url: str, callers: int = 4) -> AsyncIterator[Load]:
    seen, over = Load(), asyncio.Event()

    async def call() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            while not over.is_set():
                try:
                    seen.statuses[(await http.post(f"{url}/predict", json=1)).status_code] += 1
                except httpx.HTTPError as error:
                    seen.errors.append(repr(error))

    tasks = [asyncio.create_task(call()) for _ in range(callers)]
    try:
        yield seen
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def kill(node: RunningNode) -> None:
    os.kill(node.info.pid, signal.SIGKILL)
    await no_process(node.info.pid)


async def revive(node: RunningNode) -> None:
    """Start the next node on the same home and point the handle at it."""
    await node.client.__aexit__(None, None, None)
    node.info = await ensure_node(node.home)
    node.client = await NodeClient(node.info.control_url, node.home.token()).__aenter__()


async def test_requests_go_on_while_the_node_is_dead_and_nothing_is_lost(own_node: RunningNode) -> None:
    node = own_node
    await node.deploy("a", "toy_models:pid", autoscaling=Autoscaling(min_replicas=2))
    await node.deploy("b", "toy_models:pid", version="2")
    await node.deploy("asleep", "toy_models:echo")
    await node.client.scale_deployment("asleep", replicas=0)
    await node.until("asleep", Status.SCALED_TO_ZERO)
    await node.deploy("stopped", "toy_models:echo")
    await node.client.stop_deployment("stopped")
    await node.until("stopped", Status.STOPPED)
    url = await node.route("prod", a=70, b=30)
    epoch = await node.client.claim("prod")
    await node.client.append_audit("prod", "ann", {"did": "this"})
    pids = {name: set(await node.replica_pids(name)) for name in ("a", "b")}
    former, cursor = node.info, await node.client.cursor("prod")
    async with load(url) as seen:
        await seen.more()
        await kill(node)
        await seen.more()
        await revive(node)
        await seen.more()
    assert not seen.errors
    assert set(seen.statuses) == {200}
    assert (node.info.gateway_url, node.info.control_url) == (former.gateway_url, former.control_url)
    assert {name: set(await node.replica_pids(name)) for name in ("a", "b")} == pids, "replicas were adopted"
    statuses = {d.id: d.status for d in await node.client.list_deployments()}
    assert statuses == {
        "a": Status.READY,
        "b": Status.READY,
        "asleep": Status.SCALED_TO_ZERO,
        "stopped": Status.STOPPED,
    }
    endpoint = await node.client.get_endpoint("prod")
    assert (endpoint.weights, endpoint.epoch) == ({"stable": 70.0, "canary": 30.0}, epoch)
    assert [entry["event"] for entry in await node.client.audit("prod")] == [{"did": "this"}]
    windows, _ = await node.client.windows("prod", after=cursor)
    counted = sum(arm.requests for window in windows for arm in window.arms.values())
    assert counted == seen.statuses.total(), "what happened while no node ran is counted, once"


async def test_the_next_node_can_still_command_what_it_adopted(own_node: RunningNode) -> None:
    node = own_node
    ready = await node.deploy("a", "toy_models:pid")
    (pid,) = await node.replica_pids("a")
    await kill(node)
    await revive(node)
    await node.client.update_deployment("a", DeploymentUpdate(version="2"))
    await node.until("a", Status.READY)
    await no_process(pid)
    answer = await node.predict(ready.endpoint_url or "", 1)
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "2")
    await node.client.scale_deployment("a", replicas=0)
    await node.until("a", Status.SCALED_TO_ZERO)
    assert (await node.predict(ready.endpoint_url or "", 1)).status_code == 200


async def test_replicas_that_died_with_the_node_are_started_again(own_node: RunningNode) -> None:
    node = own_node
    ready = await node.deploy("a", "toy_models:pid", autoscaling=Autoscaling(min_replicas=2))
    survivor, victim = await node.replica_pids("a")
    await kill(node)
    os.kill(victim, signal.SIGKILL)
    await no_process(victim)
    await revive(node)
    await node.until("a", Status.READY)
    pids = await node.replica_pids("a")
    assert len(pids) == 2
    assert survivor in pids
    assert (await node.predict(ready.endpoint_url or "", 1)).status_code == 200


@pytest.mark.chaos
async def test_a_node_killed_at_any_moment_of_a_start_leaves_no_replica_behind(own_node: RunningNode) -> None:
    node = own_node
    for number, moment in enumerate((0.0, 0.01, 0.03, 0.06, 0.1)):
        await node.deploy(f"d-{number}", "toy_models:pid", wait=False, autoscaling=Autoscaling(min_replicas=2))
        await asyncio.sleep(moment)
        await kill(node)
        await revive(node)
    for number in range(5):
        await node.until(f"d-{number}", Status.READY)

    async def only_what_is_wanted() -> bool:
        listening = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and _is_replica(c.pid)}
        known = {pid for number in range(5) for pid in await node.replica_pids(f"d-{number}")}
        return len(known) == 10 and _of(node, listening) == known

    await eventually(only_what_is_wanted)


@pytest.mark.chaos
async def test_a_node_killed_at_any_moment_of_an_update_ends_up_with_the_new_version(own_node: RunningNode) -> None:
    node = own_node
    ready = await node.deploy("a", "toy_models:pid", autoscaling=Autoscaling(min_replicas=2))
    async with load(ready.endpoint_url or "") as seen:
        for version, moment in enumerate((0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6), start=2):
            await node.client.update_deployment("a", DeploymentUpdate(version=str(version)))
            await asyncio.sleep(moment)
            await kill(node)
            await seen.more(20)
            await revive(node)
            await node.until("a", Status.READY)
            answer = await node.predict(ready.endpoint_url or "", 1)
            assert answer.headers["x-model-version"] == str(version)
    assert not seen.errors
    assert set(seen.statuses) == {200}

    async def only_two() -> bool:
        listening = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and _is_replica(c.pid)}
        return _of(node, listening) == set(await node.replica_pids("a")) and len(await node.replica_pids("a")) == 2

    await eventually(only_two)


def _is_replica(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        return any(name in " ".join(psutil.Process(pid).cmdline()) for name in (" replica ", " zygote "))
    except psutil.Error:
        return False


def _of(node: RunningNode, pids: set[int]) -> set[int]:
    """Those of the processes that work in the node's home."""
    return {pid for pid in pids if psutil.Process(pid).cwd() == str(node.home.directory)}


async def test_a_killed_proxy_comes_back_by_itself(own_node: RunningNode) -> None:
    node = own_node
    ready = await node.deploy("a", "toy_models:pid")
    (pid,) = await node.replica_pids("a")
    for process, said in processes_of(node.home):
        if any("haproxy" in text for text in said):
            os.kill(process, signal.SIGKILL)

    async def answers() -> bool:
        try:
            return (await node.predict(ready.endpoint_url or "", 1)).json() == pid
        except httpx.HTTPError:
            return False

    await eventually(answers)


async def test_a_stopped_node_brings_everything_back(own_node: RunningNode) -> None:
    node = own_node
    await node.deploy("a", "toy_models:pid")
    (pid,) = await node.replica_pids("a")
    url = await node.route("prod", a=100)
    assert await stop_node(node.home)
    await no_process(pid)
    assert processes_of(node.home) == []
    assert node.home.read_node() is None
    await revive(node)
    await node.until("a", Status.READY)
    assert await node.client.url("prod") == url, "the address stays"
    assert (await node.predict(url, 1)).status_code == 200


async def test_nothing_was_running(own_node: RunningNode) -> None:
    assert await stop_node(own_node.home)
    assert not await stop_node(own_node.home)
    await start(own_node.home)


async def test_a_successor_that_cannot_start_leaves_everything_serving(own_node: RunningNode) -> None:
    from tests.local.test_node import run_node

    node = own_node
    ready = await node.deploy("a", "toy_models:pid")
    (pid,) = await node.replica_pids("a")
    await kill(node)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = await asyncio.to_thread(run_node, node.home.directory, "--gateway-port", port)
    assert refused.returncode == 1
    assert (await node.predict(ready.endpoint_url or "", 1)).json() == pid
    await revive(node)
    assert (await node.predict(ready.endpoint_url or "", 1)).json() == pid


@pytest.mark.chaos
async def test_a_replica_that_hangs_is_replaced(own_node: RunningNode) -> None:
    node = own_node
    await node.deploy("a", "toy_models:pid")
    (pid,) = await node.replica_pids("a")
    os.kill(pid, signal.SIGSTOP)

    async def replaced() -> bool:
        pids = await node.replica_pids("a")
        return len(pids) == 1 and pids != [pid]

    await eventually(replaced, seconds=90)
