"""What the gateway costs, side by side on this machine: `python -m tests.benchmarks.gateway`. Needs wrk, takes 3 min.

Everything shares the same cores, so the ratios count, not the figures: each is the median over pairs that were measured
one after the other. "proxy us" is the CPU time of the proxy a request, its least over the rounds.

`--rounds` and `--seconds` make it shorter, `--only log` leaves the rest out.
"""

import argparse
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
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import psutil

from prefect_modeldeploy.local.launcher import PROGRAMS, replica_environment
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.traffic.admin import AdminSocket
from prefect_modeldeploy.traffic.binary import find_haproxy
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm, Server, Upstream
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from prefect_modeldeploy.traffic.windows import WindowStore
from tests.traffic.load import load

CONNECTIONS = 32
READ_SECONDS = 1.0
"""A node reads every 10 s, and when a rollout asks: more often than that here, so that each round has its share."""
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
class Length:
    """How many rounds, and how many seconds each."""

    rounds: int
    seconds: int


@dataclass(frozen=True)
class Round:
    """What wrk said once. Requests a second; microseconds; CPU of the proxy, microseconds a request."""

    rate: float
    p50: float
    p99: float
    errors: int
    cpu: float


# --- parts -----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Candidate:
    """What is measured: its URL, its proxy, and what is to end after a round before the next one begins."""

    url: str
    proxy: psutil.Process | None
    settle: Callable[[], None] = lambda: None


Candidates = dict[str, Candidate]


@dataclass
class Reader:
    """A process that counts a gateway's log while it is written, as the node does; how far behind it was."""

    log: Path
    database: Path
    lags: list[tuple[int, float]] = field(default_factory=list)
    """After each round: bytes that were not counted yet, and seconds until they were."""

    @contextlib.contextmanager
    def running(self) -> Iterator[WindowStore]:
        """Yields another connection to what it has counted."""
        store = WindowStore(sqlite3.connect(self.database, check_same_thread=False))  # by one at a time
        program = [sys.executable, "-m", "tests.benchmarks.gateway", "--read", str(self.log), str(self.database)]
        process = subprocess.Popen(program)
        try:
            self._store = store
            yield store
        finally:
            process.terminate()
            process.wait()

    def catch_up(self) -> None:
        """Wait until it has counted everything; note how long that took."""
        size, began = self.log.stat().st_size, time.monotonic()
        behind = size - self._store.offset(self.log)
        while self._store.offset(self.log) < size:
            if time.monotonic() - began > 120:
                raise SystemExit("the reader does not come to an end")
            time.sleep(0.01)
        self.lags.append((behind, time.monotonic() - began))


def read_as_the_node_does(log: Path, database: Path) -> None:
    store = WindowStore(sqlite3.connect(database))
    while True:
        while store.ingest([log]):
            time.sleep(0)
        time.sleep(READ_SECONDS)


def in_turns(candidates: Candidates, directory: Path, length: Length) -> dict[str, list[Round]]:
    """Measure each in turn after a warm-up, every other round in the other order."""
    script = directory / "post.lua"
    script.write_text(LUA)
    for one in candidates.values():
        wrk(one.url, script, 1, one.proxy)
        one.settle()
    rounds: dict[str, list[Round]] = {name: [] for name in candidates}
    for number in range(length.rounds):
        for name in list(candidates)[:: 1 if number % 2 else -1]:
            one = candidates[name]
            rounds[name].append(wrk(one.url, script, length.seconds, one.proxy))
            one.settle()
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


async def measure_log(directory: Path, length: Length) -> None:
    with static_server(directory, "static") as port:
        state = plane(port, port, 10)
        async with (
            gateway(directory / "off", state, log=False) as off,
            gateway(directory / "on", state) as on,
            gateway(directory / "read", state) as read,
        ):
            reader = Reader(read.logs[0], directory / "read.db")
            with reader.running() as counted:
                candidates: Candidates = {
                    "measurements off": Candidate(f"{off.url}/prod/x", await worker_of(off)),
                    "measurements on": Candidate(f"{on.url}/prod/x", await worker_of(on)),
                    "on, with a reader": Candidate(f"{read.url}/prod/x", await worker_of(read), reader.catch_up),
                }
                results = await asyncio.to_thread(in_turns, candidates, directory, length)
                show("The same proxy without and with measurements", results, "measurements off", ">= 0.9, p99 <= 1.2")
                lost, total = await lost_of(read, counted)
            after_rounds = reader.lags[1:]  # at the first one, after the warm-up, it was still starting
            behind, late = (max(values) for values in zip(*after_rounds, strict=True))
            lag = f"at most {behind / 1e6:.1f} MB behind, caught up in {late:.2f} s"
            print(f"  read meanwhile: {lag}; lost: {lost} of {total}")
            started, lines, store = time.monotonic(), 0, WindowStore(sqlite3.connect(directory / "windows.db"))
            while found := store.ingest(on.logs):
                lines += found
            rate = lines / (time.monotonic() - started)
            lost, total = await lost_of(on, store)
            print(f"  read afterwards: {lines} lines at {rate:.0f}/s; lost: {lost} of {total}")


async def lost_of(proxy: Gateway, store: WindowStore) -> tuple[int, int]:
    """Answers that the proxy counted and its log did not, and all that it counted."""
    generation, counted = await proxy.responses()
    return sum(store.difference(generation, counted).values()), sum(counted.values())


async def measure_replica(directory: Path, length: Length) -> None:
    with replica(directory) as port:
        async with gateway(directory / "replica", plane(port, port, 10)) as proxy:
            path = "/v2/models/m/infer"
            candidates: Candidates = {
                "direct": Candidate(f"http://127.0.0.1:{port}{path}", None),
                "through the gateway": Candidate(f"{proxy.url}/prod{path}", await worker_of(proxy)),
            }
            results = await asyncio.to_thread(in_turns, candidates, directory, length)
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


async def main(length: Length, only: str | None) -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs wrk: apt install wrk, or brew install wrk")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; wrk with {CONNECTIONS} connections")
        if only in (None, "log"):
            await measure_log(directory, length)
        if only in (None, "replica"):
            await measure_replica(directory, length)
        if only in (None, "changes"):
            await measure_changes(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2, help="of each round")
    parser.add_argument("--only", choices=["log", "replica", "changes"])
    parser.add_argument("--read", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        read_as_the_node_does(*given.read)
    asyncio.run(main(Length(given.rounds, given.seconds), given.only))
