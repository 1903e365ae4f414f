"""Arms whose bodies are translated: the process that does it outlives the node, and is never left behind by one."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import ValidationError

from prefect_modeldeploy.local.arms import Arms
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.hop import Hop
from prefect_modeldeploy.local.store import Store
from prefect_modeldeploy.traffic.envelope import Envelope
from tests.conftest import eventually
from tests.local.conftest import RunningNode, no_process, processes_of
from tests.local.test_arms import put, vendor
from tests.local.test_killed_node import kill, revive
from tests.traffic.load import Answers, load

WRAPS = Envelope(field="input", answer=("output",))


def hops_of(home: Home) -> list[int]:
    return [pid for pid, said in processes_of(home) if "prefect_modeldeploy.traffic.adapter" in said]


def port_of(pid: int) -> int:
    (listening,) = [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return int(listening.laddr.port)


async def more(answers: Answers, arm: str, count: int) -> None:
    """Wait until an arm has answered so many more requests."""
    goal = answers.by_arm[arm] + count
    await eventually(lambda: answers.by_arm[arm] >= goal, seconds=60)


async def test_an_adapted_canary_answers_everything_while_the_node_is_killed_and_started_again(
    own_node: RunningNode,
) -> None:
    node = own_node
    async with vendor() as there:
        native, adapted = there.arm("d1"), there.arm("d2", adapter=WRAPS)
        url = await put(node, "prod", stable=(native, 100.0))
        assert hops_of(node.home) == [], "nothing is started that no arm needs"
        url = await put(node, "prod", stable=(native, 50.0), canary=(adapted, 50.0))
        hop = hops_of(node.home)
        assert len(hop) == 1
        async with load(url, rate=200, body=b'{"x": 1}') as answers:
            await more(answers, "canary", 20)
            await kill(node)
            await more(answers, "canary", 50)
            await revive(node)
            await more(answers, "canary", 50)
        assert not answers.failures
        assert hops_of(node.home) == hop, "it was adopted, and no second one started"


async def test_a_killed_adapter_is_started_again_and_no_request_is_lost(own_node: RunningNode) -> None:
    node = own_node
    async with vendor() as there:
        url = await put(node, "prod", stable=(there.arm("d1", adapter=WRAPS), 100.0))
        (first,) = hops_of(node.home)
        port = port_of(first)
        async with load(url, rate=200, body=b'{"x": 1}') as answers:
            await more(answers, "stable", 20)
            os.kill(first, signal.SIGKILL)
            await no_process(first)
            await more(answers, "stable", 50)
        assert not answers.failures
        (second,) = hops_of(node.home)
        assert second != first
        assert port_of(second) == port
        await kill(node)
        await revive(node)
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: hops_of(node.home) not in ([], [second]))
        assert (await node.http.post(url, json={})).is_success, "an adopted one is watched as well"


async def test_a_stopped_node_leaves_no_adapter_and_the_next_one_finds_a_port(own_node: RunningNode) -> None:
    node = own_node
    async with vendor() as there:
        url = await put(node, "prod", stable=(there.arm("d1", adapter=WRAPS), 100.0))
        (hop,) = hops_of(node.home)
        port = port_of(hop)
        assert await stop_node(node.home)
        await no_process(hop)
        assert processes_of(node.home) == []
        with socket.create_server(("127.0.0.1", port)):
            await revive(node)
            assert (await node.http.post(url, json={"x": 1})).json() == {"echo": {"x": 1}}
            (hop,) = hops_of(node.home)
            assert port_of(hop) != port


async def test_a_changed_envelope_is_in_force_when_the_node_says_so_and_costs_no_reload(node: RunningNode) -> None:
    async with vendor() as there:
        url = await put(node, "changing", stable=(there.arm("d1", adapter=WRAPS), 100.0))
        config = (node.home.gateway / "haproxy.cfg").read_text()
        for number in range(20):
            envelope = Envelope(field="input", answer=("output",), constants={"näme": f"\r\n%[{number}]"})
            await node.client.put_arm(there.arm("d1", adapter=envelope))
            assert (await node.http.post(url, json=number)).json() == {"echo": number}
            assert there.seen[-1]["body"] == {"input": number, "näme": f"\r\n%[{number}]"}
        assert (node.home.gateway / "haproxy.cfg").read_text() == config
        large = Envelope(field="input", answer=("output",), constants={"much": "x" * 7000})
        await node.client.put_arm(there.arm("d1", adapter=large))
        body = {"x": "y" * 1_000_000}
        assert (await node.http.post(url, json=body)).json() == {"echo": body}
        with pytest.raises(ValidationError, match="at most 8000 bytes"):
            there.arm("d1", adapter=Envelope(field="f" * 8000, answer=("output",)))


@contextmanager
def store_of(home: Home) -> Iterator[Store]:
    home.prepare()
    store = Store(home.database)
    try:
        yield store
    finally:
        store.close()
        for left in hops_of(home):  # by a test that failed
            os.kill(left, signal.SIGKILL)


async def test_it_ends_some_time_after_the_last_arm_that_needed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_modeldeploy.local.hop.LINGER_SECONDS", 0.05)
    home = Home(tmp_path)
    with store_of(home) as store:
        async with vendor() as there:
            arms = Arms(store, home, changed=lambda: None)
            await arms.start()
            for name, adapter in {"native": None, "d1": WRAPS, "d2": WRAPS}.items():
                await arms.put(there.arm(name, adapter=adapter))
            (first,) = hops_of(home)
            arms.delete("d1")
            arms.delete("d2")
            await arms.put(there.arm("d3", adapter=WRAPS))
            await asyncio.sleep(0.2)
            assert hops_of(home) == [first], "it was needed again in time"
            arms.delete("d3")
            await no_process(first)
            await arms.put(there.arm("d3", adapter=WRAPS))
            (second,) = hops_of(home)
            await arms.stop()
            await no_process(second)


async def test_a_request_that_did_not_come_by_way_of_the_gateway_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with store_of(home) as store:
        hop = Hop(store, home, moved=lambda: None)
        hop.need(True)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            answer = await http.post("http://{}:{}".format(*hop.address), json={})
        assert (answer.status_code, "by way of the gateway" in answer.text) == (400, True)
        await hop.stop()


async def test_a_node_that_cannot_start_leaves_it_as_it_was_found(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with store_of(home) as store:
        killed = Hop(store, home, moved=lambda: None)
        killed.need(True)
        (left,) = hops_of(home)
        failing = Hop(store, home, moved=lambda: None)
        failing.adopt()
        failing.need(True)
        await failing.let_go()
        assert hops_of(home) == [left]
        await killed.stop()
        failing.adopt()
        failing.need(True)
        (own,) = hops_of(home)
        assert own != left
        await failing.let_go()
        await no_process(own)


async def test_one_whose_node_dies_before_it_has_written_it_down_ends_by_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-m", "prefect_modeldeploy.traffic.adapter", str(fd), "direct.sock"]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, pass_fds=(fd,), timeout=60, check=True)
    assert said.returncode == 0


def test_it_imports_next_to_nothing() -> None:
    program = (
        "import sys, prefect_modeldeploy.traffic.adapter\n"
        "print([m for m in ('prefect', 'pydantic', 'httpx', 'psutil', 'importlib.metadata') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"
