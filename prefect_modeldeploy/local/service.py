"""A node, put together: what it remembers, what it keeps running, and the data plane in front."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from prefect_modeldeploy.local.arms import Arms
from prefect_modeldeploy.local.endpoints import Endpoints
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.keeper import Services
from prefect_modeldeploy.local.launcher import FIRST_PORT, Launcher, Ports, replica_environment
from prefect_modeldeploy.local.routing import Routing
from prefect_modeldeploy.local.store import Store
from prefect_modeldeploy.local.supervisor import Supervisor
from prefect_modeldeploy.local.zygotes import Zygotes
from prefect_modeldeploy.traffic.dataplane import DataPlane

_LAST_PORT = "last_replica_port"


class Node:
    """Start it, answer the control API with it, stop it. Create it within a running event loop."""

    def __init__(self, home: Home, gateway_port: int) -> None:
        self.home = home
        self.store = Store(home.database)
        self.zygotes = Zygotes(self.store, replica_environment(), home.directory / "zygote.log")
        self.routing = Routing(home, self.store, gateway_port, self._data_plane, self._wake, self._refused)
        self.arms = Arms(self.store, home, self.routing.request_publish)
        ports = Ports(int(self.store.get(_LAST_PORT) or FIRST_PORT), self._remember_port)
        self.supervisor = Supervisor(
            Services(
                store=self.store,
                traffic=self.routing,
                launcher=Launcher(ports, self.zygotes),
                home=home.directory,
                logs=home.replica_logs,
                start_slots=asyncio.Semaphore(max(2, os.cpu_count() or 1)),
            )
        )
        self.endpoints = Endpoints(self.store, self.supervisor, self.arms)

    async def start(self) -> None:
        """Adopt what a former node left running, then route to it.

        Raises:
            GatewayError: The proxy cannot be started. Replicas, and what a former node left, go on as they are.
        """
        self.supervisor.start()
        try:
            await self.arms.start()
            await self.routing.start()
        except BaseException:
            await self.arms.let_go()
            self.supervisor.let_go()
            await self.routing.stop()
            self.store.close()
            raise
        for python in self.supervisor.interpreters():
            self.zygotes.warm(python)
        self.supervisor.gateway_url = self.routing.url

    async def stop(self) -> None:
        """Close the front door, then stop the replicas. What is wanted stays on disk."""
        await self.routing.stop()
        await self.arms.stop()
        await self.supervisor.stop()
        await self.zygotes.stop()
        self.store.close()

    async def status(self) -> Mapping[str, Any]:
        """What `GET /v1/status` answers."""
        deployments = self.supervisor.all()
        return {
            "place": self.store.place(),
            "pid": os.getpid(),
            "home": str(self.home.directory),
            "gateway_url": self.routing.url,
            "gateway_healthy": await self.routing.healthy(),
            "zygotes": self.zygotes.pids,
            "deployments": {deployment.id: deployment.status.value for deployment in deployments},
            "replicas": sum(deployment.replicas.running for deployment in deployments),
            "arms": self.arms.all(),
            "endpoints": [endpoint.name for endpoint in self.endpoints.all()],
        }

    def _data_plane(self) -> DataPlane:
        endpoints = tuple(self.arms.proxied(endpoint) for endpoint in self.endpoints.all())
        return DataPlane(endpoints, (*self.supervisor.upstreams(), *self.arms.upstreams()))

    def _refused(self, upstream: str, count: int) -> None:
        self.arms.unauthorized(upstream, count)

    async def _wake(self, deployment: str) -> tuple[str, int]:
        return await self.supervisor.wake(deployment)

    def _remember_port(self, port: int) -> None:
        self.store.put(_LAST_PORT, str(port))
