"""What a keeper does about a replica that has ended: when it tries again, and whom it does not take for its replica."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.local import keeper as keeping
from prefect_modeldeploy.local import replicas
from prefect_modeldeploy.local.keeper import MAX_FAILURES, STABLE_SECONDS, Keeper, Services, Traffic, Troubles
from prefect_modeldeploy.local.launcher import Launcher
from prefect_modeldeploy.local.replicas import Cause, Ended, Phase, Replica
from prefect_modeldeploy.local.store import DeploymentRecord, Mode, ReplicaRecord, Store
from tests.conftest import serve

CRASHED = Ended(Cause.CRASHED, "it exited with code 9")
NOW = 1_000.0


def delays(monkeypatch: pytest.MonkeyPatch, jitter: int) -> list[float]:
    """Seconds before each of eight restarts, with the least (0) or the most (1) that chance can choose."""
    monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: NOW))
    monkeypatch.setattr(keeping, "random", SimpleNamespace(uniform=lambda *bounds: bounds[jitter]))
    troubles, found = Troubles(), list[float]()
    for _ in range(8):
        troubles.add(CRASHED)
        found.append(troubles.retry_at - NOW)
    return found


def test_the_first_restart_is_immediate_and_later_ones_wait_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delays(monkeypatch, jitter=1) == [0, 1, 2, 4, 8, 16, 30, 30]
    assert delays(monkeypatch, jitter=0) == [0, 0.5, 1, 2, 4, 8, 15, 15]


def test_chance_spreads_restarts_that_would_come_together() -> None:
    def second_restart() -> float:
        troubles = Troubles(count=1)
        troubles.add(CRASHED)
        return troubles.retry_at - time.monotonic()

    waits = [second_restart() for _ in range(50)]
    assert max(waits) - min(waits) > 0.1


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """Keeps one replica that is proven to work. Nothing can start: no slot is free."""
    store = Store(tmp_path / "node.sqlite")
    proxy = cast("Traffic", SimpleNamespace(request_publish=lambda: None))
    services = Services(store, proxy, cast("Launcher", None), tmp_path, tmp_path, asyncio.Semaphore(0))
    spec = DeploymentSpec(name="m", model="m", source="versions:good")
    yield Keeper(DeploymentRecord(spec, Mode.RUNNING, 1, proven=1), services)
    store.close()


def ends_after(keeper: Keeper, seconds: float) -> None:
    """A replica crashes that was ready for so long."""
    record = keeper.services.store.add_replica("m", 1)
    replica = keeper.replicas[record.id] = keeper._replica(record)
    replica.phase, replica.ready_since = Phase.READY, time.monotonic() - seconds
    keeper._conclude(replica, CRASHED)


async def test_a_replica_that_was_ready_for_long_ends_the_series(keeper: Keeper) -> None:
    for _ in range(MAX_FAILURES - 1):
        ends_after(keeper, STABLE_SECONDS - 1)
    assert keeper.troubles.count == MAX_FAILURES - 1
    ends_after(keeper, STABLE_SECONDS + 1)
    assert keeper.troubles.count == 1, "it is the first of a new series"
    assert keeper.record.failure is None
    for _ in range(MAX_FAILURES - 1):
        ends_after(keeper, 0)
    assert f"crashed {MAX_FAILURES} times in a row" in str(keeper.record.failure)


async def test_nothing_starts_before_its_time(keeper: Keeper) -> None:
    for _ in range(4):
        ends_after(keeper, 0)
    keeper._reconcile()
    assert keeper.replicas == {}
    keeper.troubles.retry_at = time.monotonic()
    keeper._reconcile()
    assert len(keeper.replicas) == 1
    await keeper.end_keeping()


@pytest.mark.parametrize("ready", [False, True], ids=["while it starts", "later"])
async def test_another_server_on_its_port_is_not_taken_for_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    monkeypatch.setattr(replicas, "LIVENESS_SECONDS", 0.05)

    async def says_that_it_is_ready(_: Request) -> JSONResponse:
        return JSONResponse({"ready": True, "live": True}, headers={"X-Modeldeploy-Replica": "r2"})

    other = Starlette(routes=[Route("/v2/health/{what}", says_that_it_is_ready)])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    store = Store(tmp_path / "node.sqlite")
    try:
        async with serve(other) as url:
            port = int(url.rpartition(":")[2])
            started = psutil.Process(child.pid).create_time()
            record = ReplicaRecord(1, "m", 1, port, child.pid, started, ready)
            replica = Replica(record, store, tmp_path / "log", lambda: None)
            replica.attach()
            async with asyncio.timeout(60):
                ended = await replica.go_on(timeout=50)
        assert ended.cause is Cause.CRASHED
        assert ready or ended.reason == f"another server answers on its port {port}"
        assert replica.routed is ready, "one that never answered itself gets no request"
        assert child.wait(10) < 0, "the process that nobody can reach is ended"
    finally:
        child.kill()
        child.wait()
        store.close()
