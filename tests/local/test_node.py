"""The node process: one per home, its ports, its files, how it starts and ends."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.errors import NodeError
from prefect_modeldeploy.local.autostart import ensure_node, find_node, node_overview, stop_node
from prefect_modeldeploy.local.home import Home
from tests.conftest import eventually
from tests.local.conftest import RunningNode, processes_of


def run_node(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a node that is expected not to start."""
    command = [sys.executable, "-m", "prefect_modeldeploy.local.node", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


async def test_a_second_node_on_the_same_directory_refuses_and_names_the_first(node: RunningNode) -> None:
    refused = await asyncio.to_thread(run_node, node.home.directory)
    assert refused.returncode == 1
    assert f"a node runs there already (pid {node.info.pid})" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (await find_node(node.home)) == node.info, "the first one is unharmed"


async def test_a_control_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = await asyncio.to_thread(run_node, tmp_path, "--port", str(port))
    assert refused.returncode == 1
    assert f"port={port}" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_a_gateway_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = await asyncio.to_thread(run_node, tmp_path, "--gateway-port", str(port))
    assert refused.returncode == 1
    assert str(port) in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_many_starters_end_up_with_one_node(tmp_path: Path) -> None:
    home = Home(tmp_path)
    try:
        found = await asyncio.gather(*(ensure_node(home) for _ in range(4)))
        assert len(set(found)) == 1
    finally:
        await stop_node(home)
    assert processes_of(home) == [], "nobody who came too late takes over afterwards"


async def test_the_ports_that_were_asked_for_are_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    try:
        info = await ensure_node(home, port=ports[0], gateway_port=ports[1])
        assert (info.control_url, info.gateway_url) == tuple(f"http://127.0.0.1:{port}" for port in ports)
    finally:
        await stop_node(home)


async def test_without_autostart_a_missing_node_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="modeldeploy node start"):
        await ensure_node(tmp_path, autostart=False)


async def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    (tmp_path / "node.sqlite").write_text("this is no database" * 100)
    with pytest.raises(NodeError, match="not a database"):
        await ensure_node(home)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    from prefect_modeldeploy.local.store import Store

    home = Home(tmp_path)
    home.prepare()
    store = Store(home.database)
    store.put("schema_version", "99")
    store.close()
    with pytest.raises(NodeError, match="schema 99"):
        await ensure_node(home)


async def test_a_home_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match="MODELDEPLOY_HOME"):
        await ensure_node(tmp_path / "file" / "home")


async def test_a_stale_node_file_of_a_dead_node_misleads_nobody(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
    (tmp_path / "node.json").write_text(f'{{"pid": 1, "control_url": "{url}", "gateway_url": "{url}"}}')
    assert await find_node(home) is None


async def test_the_overview_shows_what_is_there(node: RunningNode) -> None:
    await node.deploy("n-overview", "toy_models:echo")
    overview = await node_overview(node.home)
    assert overview is not None
    assert overview["gateway_healthy"] is True
    assert {d["id"]: d["status"] for d in overview["deployments"]}["n-overview"] == "READY"


def test_the_node_imports_nothing_heavy() -> None:
    program = (
        "import sys, prefect_modeldeploy.local.node\n"
        "print([m for m in ('prefect', 'numpy', 'matplotlib', 'httpx', 'rich') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.slow
async def test_twenty_deployments_at_zero_cost_no_processes(own_node: RunningNode) -> None:
    node = own_node

    async def at_zero(name: str) -> None:
        await node.deploy(name, "toy_models:echo", wait=False)
        await node.client.scale_deployment(name, replicas=0)
        await node.until(name, DeploymentStatus.SCALED_TO_ZERO)

    await node.deploy("first", "toy_models:echo")
    await node.client.stop_deployment("first")
    await node.until("first", DeploymentStatus.STOPPED)

    async def zygotes() -> bool:
        return bool((await node.client.status())["zygotes"])

    if sys.platform == "linux":
        await eventually(zygotes)
    without = len(processes_of(node.home))
    await asyncio.gather(*(at_zero(f"zero-{number}") for number in range(20)))
    assert (await node.client.status())["replicas"] == 0
    await eventually(lambda: len(processes_of(node.home)) <= without)  # workers that a reload has replaced end soon
