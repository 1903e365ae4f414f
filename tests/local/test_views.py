"""What a deployment is said to do, in moments too short to meet from outside."""

import asyncio
from pathlib import Path
from typing import Any, cast

from prefect_modeldeploy.deployments import DeploymentSpec, DeploymentStatus
from prefect_modeldeploy.local.keeper import Keeper, Services
from prefect_modeldeploy.local.launcher import Launcher
from prefect_modeldeploy.local.replicas import Phase, Replica
from prefect_modeldeploy.local.store import DeploymentRecord, Mode, ReplicaRecord, Store
from prefect_modeldeploy.local.views import status_of


class Proxy:
    """A proxy that sends requests to these replicas."""

    def __init__(self, *servers: str) -> None:
        self.servers = set(servers)

    def request_publish(self) -> None: ...

    async def drain(self, upstream: str, server: str, timeout: float) -> None: ...

    def sends_to(self, upstream: str, server: str) -> bool:
        return server in self.servers

    async def activity(self, upstream: str) -> dict[str, Any]:
        return {"idle_seconds": 0.0}


async def test_an_update_is_over_when_the_proxy_sends_nothing_to_the_former_version(tmp_path: Path) -> None:
    store, proxy = Store(tmp_path / "node.db"), Proxy("r1")
    services = Services(store, proxy, cast("Launcher", None), tmp_path, tmp_path, asyncio.Semaphore())
    record = DeploymentRecord(
        DeploymentSpec(name="m", model="m", source="m:f"), Mode.RUNNING, 1, generation=2, proven=1
    )
    keeper = Keeper(record, services)
    former, new = (
        Replica(ReplicaRecord(number, "m", number, 8000 + number), store, tmp_path / "log", lambda: None)
        for number in (1, 2)
    )
    keeper.replicas = {1: former, 2: new}
    former.phase = Phase.READY
    assert status_of(keeper) is DeploymentStatus.UPDATING

    new.phase = Phase.READY
    assert status_of(keeper) is DeploymentStatus.UPDATING, "the proxy does not know the new one"
    proxy.servers.add("r2")
    assert status_of(keeper) is DeploymentStatus.UPDATING
    former.drain()
    assert status_of(keeper) is DeploymentStatus.UPDATING, "the proxy has not been told yet"
    proxy.servers.remove("r1")
    assert status_of(keeper) is DeploymentStatus.READY
