"""What the local node costs and how fast it wakes a model: `python -m tests.benchmarks.node`.

Prints, and asserts nothing about time: memory of the node itself, processes and CPU with many deployments at zero, and
the wake from zero of a scikit-learn model with 32 requests held, started afresh and forked from the zygote, against
the start of the same replica as a plain process.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import joblib
import psutil
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.launcher import PROGRAMS, replica_environment
from prefect_modeldeploy.local.probe import get_json

HELD, ROUNDS, DEPLOYMENTS, IDLE_SECONDS = 32, 5, 200, 10.0
ROW = [5.1, 3.5, 1.4, 0.2]


def memory(pid: int) -> str:
    used = psutil.Process(pid).memory_full_info()
    return f"{used.rss / 1e6:.0f} MB resident, {used.pss / 1e6:.0f} MB proportional"


def family(node: int, home: Path) -> dict[str, list[psutil.Process]]:
    """The processes of a node by what they are."""
    found: dict[str, list[psutil.Process]] = {"node": [psutil.Process(node)], "proxy": [], "zygote": [], "replica": []}
    for process in psutil.process_iter():
        try:
            words, cwd = " ".join(process.cmdline()), process.cwd()
        except psutil.Error:
            continue
        if cwd == str(home / "gateway"):
            found["proxy"].append(process)
        elif cwd == str(home) and " zygote " in words:
            is_zygote = process.ppid() == node
            found["zygote" if is_zygote else "replica"].append(process)
        elif cwd == str(home) and " replica " in words:
            found["replica"].append(process)
    return found


async def cpu_share(processes: list[psutil.Process], seconds: float) -> float:
    """Percent of one core."""
    before = sum(sum(p.cpu_times()[:2]) for p in processes)
    await asyncio.sleep(seconds)
    return 100 * (sum(sum(p.cpu_times()[:2]) for p in processes) - before) / seconds


async def until(client: NodeClient, name: str, status: DeploymentStatus) -> None:
    async with asyncio.timeout(60):
        while (seen := await client.get_deployment(name)).status is not status:
            assert seen.status is not DeploymentStatus.FAILED, seen.reason
            await asyncio.sleep(0.005)


async def plain_start(model: Path) -> float:
    """Seconds from the start of a replica process to its first prediction, without a node."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began, port = time.perf_counter(), listener.getsockname()[1]
        child = subprocess.Popen(
            [sys.executable, str(PROGRAMS), "replica", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(listener.fileno(),),
            env=replica_environment(),
        )
    assert child.stdin is not None
    line = {"replica": "r0", "model": "iris", "version": "1", "source": str(model)}
    child.stdin.write(json.dumps(line).encode() + b"\n")
    child.stdin.close()
    await get_json(port, "/v2/health/ready")
    async with httpx.AsyncClient(trust_env=False) as http:
        (await http.post(f"http://127.0.0.1:{port}/predict", json=[ROW])).raise_for_status()
    seconds = time.perf_counter() - began
    child.kill()
    child.wait()
    return seconds


async def wake(client: NodeClient, name: str, url: str) -> tuple[float, float, int]:
    """Seconds to the first and to the last of the held answers, and how many were right."""
    await client.scale_deployment(name, replicas=0)
    await until(client, name, DeploymentStatus.SCALED_TO_ZERO)
    limits = httpx.Limits(max_connections=HELD, max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as http:
        began = time.perf_counter()

        async def one() -> tuple[float, bool]:
            answer = await http.post(f"{url}/predict", json=[ROW])
            return time.perf_counter() - began, answer.json() == {"predictions": [0]}

        answers = await asyncio.gather(*(one() for _ in range(HELD)))
    times = [seconds for seconds, _ in answers]
    return min(times), max(times), sum(right for _, right in answers)


async def waking(client: NodeClient, gateway: str, model: Path) -> None:
    kinds = {"afresh": {"PYTHONNOUSERSITE": "1"}, "forked": {}}  # such a variable must be there before Python starts
    for name, env in kinds.items():
        await client.create_deployment(DeploymentSpec(name=name, model="iris", source=str(model), env=env))
        await until(client, name, DeploymentStatus.READY)
    await wait_for_zygote(client)
    plain, rounds = list[float](), {name: list[tuple[float, float, int]]() for name in kinds}
    for _ in range(ROUNDS):  # interleaved, so that a busy machine is busy for all of them
        plain.append(await plain_start(model))
        for name in kinds:
            rounds[name].append(await wake(client, name, f"{gateway}/-/{name}"))
    base = statistics.median(plain)
    print(f"a plain replica process: first answer after {base * 1e3:.0f} ms (median of {ROUNDS})")
    for name, seen in rounds.items():
        first, last = (statistics.median(r[i] for r in seen) for i in (0, 1))
        print(
            f"wake from zero, {name}: {sum(r[2] for r in seen)}/{HELD * ROUNDS} held requests answered, "
            f"first after {first * 1e3:.0f} ms = {first / base:.2f} of plain, last after {last * 1e3:.0f} ms"
        )


async def wait_for_zygote(client: NodeClient) -> None:
    """Until it has imported what the replica taught it: its memory stands still."""
    async with asyncio.timeout(30):
        while not (pids := (await client.status())["zygotes"]):
            await asyncio.sleep(0.05)
        zygote, before = psutil.Process(pids[0]), -1.0
        while (now := sum(zygote.cpu_times()[:2])) != before:
            before = now
            await asyncio.sleep(0.5)


async def many_at_zero(client: NodeClient, home: Home, node: int, model: Path) -> None:
    began = time.perf_counter()
    at_once = asyncio.Semaphore(16)

    async def create(number: int) -> None:
        name = f"zero-{number}"
        spec = DeploymentSpec(name=name, model="iris", source=str(model), autoscaling=Autoscaling(min_replicas=0))
        async with at_once:
            await client.create_deployment(spec)
            await client.scale_deployment(name, replicas=0)

    await asyncio.gather(*(create(number) for number in range(DEPLOYMENTS)))
    async with asyncio.timeout(120):
        while any(d.status is not DeploymentStatus.SCALED_TO_ZERO for d in await client.list_deployments()):
            await asyncio.sleep(0.1)
    print(f"{DEPLOYMENTS} deployments brought to zero in {time.perf_counter() - began:.1f} s")
    await asyncio.sleep(IDLE_SECONDS)  # workers that a reload has replaced end
    processes = family(node, home.directory)
    counts = ", ".join(f"{kind} {len(found)}" for kind, found in processes.items())
    print(f"  processes: {counts}")
    print(f"  node: {memory(node)}")
    for kind, found in processes.items():
        if found:
            print(f"  CPU at rest, {kind}: {await cpu_share(found, IDLE_SECONDS):.2f} % of a core")


async def alone(directory: Path, body: Callable[[NodeClient, Home, int, str], Awaitable[Any]]) -> None:
    """Run a part of the benchmark on a node of its own."""
    home = Home(directory)
    began = time.perf_counter()
    info = await ensure_node(home)
    print(f"node ready after {(time.perf_counter() - began):.2f} s: {memory(info.pid)}")
    try:
        async with NodeClient(info.control_url, home.token()) as client:
            await body(client, home, info.pid, info.gateway_url)
            for zygote in (await client.status())["zygotes"]:
                print(f"zygote: {memory(zygote)}")
            print(f"node afterwards: {memory(info.pid)}")
    finally:
        await stop_node(home)


async def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "iris.joblib"
        data = load_iris()
        joblib.dump(LogisticRegression(max_iter=500).fit(data.data, data.target), model)
        await alone(Path(folder) / "wake", lambda client, home, node, url: waking(client, url, model))
        await alone(Path(folder) / "zero", lambda client, home, node, url: many_at_zero(client, home, node, model))


if __name__ == "__main__":
    asyncio.run(main())
