"""A node, put together: what it remembers, what it keeps running, and the data plane in front."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from prefect_modeldeploy.local.dataplane import NodeTraffic
from prefect_modeldeploy.local.endpoints import Endpoints
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.keeper import Services
from prefect_modeldeploy.local.launcher import FIRST_PORT, Ports
from prefect_modeldeploy.local.store import Store
from prefect_modeldeploy.local.supervisor import Supervisor

_LAST_PORT = "last_replica_port"


class Node:
    """Start it, answer the control API with it, stop it."""

    def __init__(self, home: Home, gateway_port: int) -> None:
        self.home = home
        self.store = Store(home.database)
        self.traffic = NodeTraffic(home, self.store, gateway_port)
        services = Services(
            store=self.store,
            traffic=self.traffic,
            ports=Ports(int(self.store.get(_LAST_PORT) or FIRST_PORT), self._remember_port),
            home=home.directory,
            logs=home.replica_logs,
            start_slots=asyncio.Semaphore(max(2, os.cpu_count() or 1)),
        )
        self.supervisor = Supervisor(services)
        self.endpoints = Endpoints(self.store, self.supervisor)

    async def start(self) -> None:
        """Adopt what a former node left running, then route to it. Raises GatewayError."""
        self.supervisor.start()
        await self.traffic.start(self.supervisor, self.endpoints)
        self.supervisor.gateway_url = self.traffic.url

    async def stop(self) -> None:
        """Close the front door, then stop the replicas. What is wanted stays on disk."""
        await self.traffic.stop()
        await self.supervisor.stop()
        self.store.close()

    def status(self) -> Mapping[str, Any]:
        """What `GET /v1/status` answers."""
        deployments = self.supervisor.all()
        return {
            "pid": os.getpid(),
            "home": str(self.home.directory),
            "gateway_url": self.traffic.url,
            "gateway_healthy": self.traffic.healthy,
            "deployments": len(deployments),
            "replicas": sum(deployment.replicas.running for deployment in deployments),
            "endpoints": [endpoint.name for endpoint in self.endpoints.all()],
        }

    def _remember_port(self, port: int) -> None:
        self.store.put(_LAST_PORT, str(port))
