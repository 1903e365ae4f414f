"""What the gateway costs, side by side on this machine: `python -m tests.benchmarks.gateway`. Needs wrk, takes 2 min.

Everything shares the same cores, so the ratios count, not the figures: each is the median over pairs that were measured
one after the other. "proxy us" is the CPU time of the proxy a request, its least over the rounds.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from prefect_modeldeploy.local.launcher import PROGRAMS, replica_environment
from prefect_modeldeploy.traffic.admin import AdminSocket
from prefect_modeldeploy.traffic.binary import find_haproxy
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm, Server, Upstream
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from prefect_modeldeploy.traffic.windows import WindowStore
from tests.traffic.load import load

ROUNDS, SECONDS, CONNECTIONS = 9, 2, 32
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]})

LUA = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{BODY}'
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %f %d %d %d\\n", summary.requests / (summary.duration / 1e6),
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
"""


@dataclass(frozen=True)
class Round:
    """What wrk said once. Requests a second; microseconds; CPU of the proxy, microseconds a request."""

    rate: float
    p50: float
    p99: float
    errors: int
    cpu: float


# --- parts -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reached(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


@contextlib.contextmanager
def static_server(directory: Path, name: str) -> Iterator[int]:
    """A server that costs next to nothing: HAProxy answering by itself."""
    port, config = free_port(), directory / f"{name}.cfg"
    answer = "http-request return status 200 content-type application/json string '{\"outputs\": []}'"
    limits = "timeout client 60s\n  timeout http-keep-alive 60s"
    config.write_text(
        f"global\n  nbthread 1\ndefaults\n  mode http\n  {limits}\nfrontend f\n  bind 127.0.0.1:{port}\n  {answer}\n"
    )
    process = subprocess.Popen([find_haproxy(), "-db", "-f", str(config)])
    try:
        reached(port)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def replica(directory: Path) -> Iterator[int]:
    """A real model behind the local node's own replica program."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    model = directory / "model.joblib"
    joblib.dump(LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)), model)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    command = [sys.executable, str(PROGRAMS), "replica", str(listener.fileno())]
    settings = json.dumps({"replica": "r1", "model": "m", "version": "1", "source": str(model)})
    descriptors, environment = [listener.fileno()], replica_environment()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors, env=environment)
    assert process.stdin
    process.stdin.write(settings.encode() + b"\n")
    process.stdin.flush()
    port = listener.getsockname()[1]
    listener.close()
    try:
        wait_until_ready(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit("the replica did not start")


def plane(stable: int, canary: int, percent: float) -> DataPlane:
    weights = {"stable": 100 - percent, "canary": percent}
    arms = tuple(EndpointArm(name=name, upstream=name, weight=weight) for name, weight in weights.items())
    ports = {"stable": stable, "canary": canary}
    upstreams = (Upstream(name=name, servers=(Server(name="r1", port=port),)) for name, port in ports.items())
    return DataPlane((Endpoint(name="prod", arms=arms),), tuple(upstreams))


@contextlib.asynccontextmanager
async def gateway(directory: Path, state: DataPlane, *, log: bool = True) -> AsyncIterator[Gateway]:
    running = Gateway(directory, port=free_port(), log=log)
    await running.start(state)
    try:
        yield running
    finally:
        await running.stop(grace=0)


def wrk(url: str, script: Path, seconds: int, proxy: psutil.Process | None) -> Round:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url]
    before = used(proxy)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\S+) (\d+) (\d+) (\d+)", said)
    assert found, said
    rate = float(found[1])
    return Round(rate, int(found[2]), int(found[3]), int(found[4]), (used(proxy) - before) / (rate * seconds) * 1e6)


def used(process: psutil.Process | None) -> float:
    times = process.cpu_times() if process else None
    return times.user + times.system if times else 0.0


async def worker_of(proxy: Gateway) -> psutil.Process:
    workers = await AdminSocket(proxy.directory).workers()
    assert workers
    return psutil.Process(workers.current)


Candidates = dict[str, tuple[str, psutil.Process | None]]
"""URL and proxy, by name."""


def in_turns(candidates: Candidates, directory: Path) -> dict[str, list[Round]]:
    """Measure each in turn after a warm-up, every other round in the other order."""
    script = directory / "post.lua"
    script.write_text(LUA)
    for url, proxy in candidates.values():
        wrk(url, script, 1, proxy)
    rounds: dict[str, list[Round]] = {name: [] for name in candidates}
    for number in range(ROUNDS):
        for name in list(candidates)[:: 1 if number % 2 else -1]:
            rounds[name].append(wrk(candidates[name][0], script, SECONDS, candidates[name][1]))
    return rounds


def show(title: str, rounds: dict[str, list[Round]], base: str, goal: str) -> None:
    print(f"\n{title}  (goal: {goal})")
    head = f"{'req/s':>8s} {'ratio':>6s} {'p50 ms':>8s} {'p99 ms':>8s} {'ratio':>6s} {'proxy us':>9s} {'errors':>7s}"
    print(f"  {'':30s} {head}")
    for name, mine in rounds.items():
        pairs = list(zip(mine, rounds[base], strict=True))
        rate, p99 = median(a.rate / b.rate for a, b in pairs), median(a.p99 / b.p99 for a, b in pairs)
        p50s, p99s = median(one.p50 for one in mine) / 1e3, median(one.p99 for one in mine) / 1e3
        cpu, errors = min(one.cpu for one in mine), sum(one.errors for one in mine)
        figures = f"{median(one.rate for one in mine):8.0f} {rate:6.2f} {p50s:8.2f} {p99s:8.2f} {p99:6.2f}"
        print(f"  {name:30s} {figures} {cpu:9.1f} {errors:7d}", flush=True)


# --- what is measured ------------------------------------------------------------------------------------------------


async def measure_log(directory: Path) -> None:
    with static_server(directory, "static") as port:
        state = plane(port, port, 10)
        async with (
            gateway(directory / "off", state, log=False) as off,
            gateway(directory / "on", state) as on,
        ):
            candidates: Candidates = {
                "measurements off": (f"{off.url}/prod/x", await worker_of(off)),
                "measurements on": (f"{on.url}/prod/x", await worker_of(on)),
            }
            results = await asyncio.to_thread(in_turns, candidates, directory)
            show("The same proxy without and with measurements", results, "measurements off", ">= 0.9, p99 <= 1.2")
            started, lines, store = time.monotonic(), 0, WindowStore(sqlite3.connect(directory / "windows.db"))
            while found := store.ingest(on.logs):
                lines += found
            rate = lines / (time.monotonic() - started)
            generation, counted = await on.responses()
            lost = sum(store.difference(generation, counted).values())
            print(f"  read afterwards: {lines} lines at {rate:.0f}/s; lost: {lost} of {sum(counted.values())}")


async def measure_replica(directory: Path) -> None:
    with replica(directory) as port:
        async with gateway(directory / "replica", plane(port, port, 10)) as proxy:
            path = "/v2/models/m/infer"
            candidates: Candidates = {
                "direct": (f"http://127.0.0.1:{port}{path}", None),
                "through the gateway": (f"{proxy.url}/prod{path}", await worker_of(proxy)),
            }
            results = await asyncio.to_thread(in_turns, candidates, directory)
            show("One scikit-learn replica", results, "direct", ">= 0.9")


async def measure_changes(directory: Path) -> None:
    with static_server(directory, "a") as stable, static_server(directory, "b") as canary:
        async with gateway(directory / "changes", plane(stable, canary, 0)) as proxy:
            took, visible = [], []
            async with load(f"{proxy.url}/prod/x", rate=500) as answers:
                for number in range(1000):
                    arm, percent = ("canary", 100) if number % 2 == 0 else ("stable", 0)
                    before = answers.by_arm[arm]
                    started = time.monotonic()
                    await proxy.apply(plane(stable, canary, percent))
                    took.append(time.monotonic() - started)
                    while answers.by_arm[arm] == before:
                        await asyncio.sleep(0.0005)
                    visible.append(time.monotonic() - started)
            print("\n1,000 weight changes under 500 requests/s  (goal: 0 failed, visible within 1 s)")
            print(f"  requests {answers.count}, failed {len(answers.failures)}")
            for name, times in {"change in force": took, "first answer by the new arm": visible}.items():
                ordered = sorted(times)
                figures = [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]]
                p50, p99, most = (figure * 1e3 for figure in figures)
                print(f"  {name:34s} p50 {p50:.1f} ms, p99 {p99:.1f}, max {most:.1f}")


async def main() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs wrk: apt install wrk, or brew install wrk")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; wrk with {CONNECTIONS} connections")
        await measure_log(directory)
        await measure_replica(directory)
        await measure_changes(directory)


if __name__ == "__main__":
    asyncio.run(main())
