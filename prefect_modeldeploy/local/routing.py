"""The node's side of the data plane: one writer to the gateway, requests held while deployments wake, measurements."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.local.store import Store
from prefect_modeldeploy.traffic.activator import Activator
from prefect_modeldeploy.traffic.comparer import Comparer
from prefect_modeldeploy.traffic.dataplane import DataPlane
from prefect_modeldeploy.traffic.endpoint import Shadow
from prefect_modeldeploy.traffic.gateway import Gateway
from prefect_modeldeploy.traffic.windows import EndpointWindow, WindowStore

HOLD_SECONDS = 120.0
"""A request waits so long for its deployment to wake."""

_RETRY_SECONDS = 1.0
_COUNT_SECONDS = 10.0
_GATHER_SECONDS = 0.02
"""Changes that come together are told to the proxy together: a new deployment costs it a reload."""
_GATEWAY_PORT, _ACTIVATOR_PORT, _COMPARER_PORT = "gateway_port", "activator_port", "comparer_port"

_log = logging.getLogger(__name__)

State = Callable[[], DataPlane]
Address = tuple[str, int]
Wake = Callable[[str], Awaitable[tuple[str, int]]]
Alarm = Callable[[str, int], None]


class Routing:
    """Brings the proxy to the state of the node, whenever that changes, and reads what it measured.

    Args:
        home: Where the gateway keeps its files.
        store: Remembers ports and measurements.
        gateway_port: Port that clients call; 0: the one of the last node, else any free one.
        state: What the proxy shall do now.
        wake: The address of a ready replica of a deployment, as soon as there is one.
        alarm: Told how often an upstream has refused its credentials.
    """

    def __init__(self, home: Home, store: Store, gateway_port: int, state: State, wake: Wake, alarm: Alarm) -> None:
        self._home, self._store, self._wanted_port = home, store, gateway_port
        self._state, self._alarm = state, alarm
        self._activator = Activator(wake, hold_seconds=HOLD_SECONDS)
        self._comparer = Comparer(home.gateway, self._shadow_of)
        self._windows = WindowStore(store.connection)
        self._gateway: Gateway | None = None
        self._applied: DataPlane | None = None
        self._watched: dict[str, float] = {}
        self._turn, self._counting, self._dirty = asyncio.Lock(), asyncio.Lock(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the proxy, or adopt the one that a killed node left. Raises GatewayError."""
        hops = (
            await self._start_hop(self._activator, _ACTIVATOR_PORT),
            await self._start_hop(self._comparer, _COMPARER_PORT),
        )
        port = self._wanted_port or int(self._store.get(_GATEWAY_PORT) or 0)
        gateway = self._make_gateway(port, *hops)
        if not self._wanted_port and not _is_free(port) and not await gateway.healthy():
            gateway = self._make_gateway(free_port(), *hops)
        state = self._state()
        await gateway.start(state)
        self._gateway = gateway
        self._is_applied(state)
        self._store.put(_GATEWAY_PORT, gateway.url.rpartition(":")[2])
        work = (gateway.watch(), self._publish_whenever_dirty(), self._count_now_and_then())
        self._tasks = [asyncio.create_task(task) for task in work]

    async def stop(self) -> None:
        """Stop accepting, answer what is in flight, stop the proxy."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._gateway is not None:
            await self._gateway.stop()
        await self._activator.stop()
        await self._comparer.stop()

    @property
    def url(self) -> str:
        """Where clients call."""
        return self._running.url

    async def healthy(self) -> bool:
        """True when the proxy runs and accepts."""
        return await self._running.healthy()

    def request_publish(self) -> None:
        """Bring the proxy to the present state soon."""
        self._dirty.set()

    def sends_to(self, upstream: str, server: str) -> bool:
        """True while the proxy sends new requests to a replica."""
        return self._gateway is not None and self._gateway.sends_to(upstream, server)

    async def publish(self) -> None:
        """Bring the proxy to the present state now. Raises GatewayError; it is tried again until it works."""
        async with self._turn:
            state = self._state()
            if state == self._applied or self._gateway is None:
                return
            try:
                await self._gateway.apply(state)
            except GatewayError:
                self._applied = None
                self._dirty.set()
                raise
            self._is_applied(state)

    def _is_applied(self, state: DataPlane) -> None:
        now = time.time()
        self._watched = {upstream.name: self._watched.get(upstream.name, now) for upstream in state.upstreams}
        self._applied = state

    async def drain(self, upstream: str, server: str, timeout: float) -> None:
        """Send no new requests to a replica, and wait until those in flight are answered, or the time is over."""
        try:
            await self.publish()
            if not await self._running.drain(upstream, server, timeout):
                _log.warning("%s of %s still answers after %g s and is stopped", server, upstream, timeout)
        except GatewayError as error:  # the proxy is gone, so are its requests; `watch` brings it back
            _log.warning("%s of %s could not be drained: %s", server, upstream, error)

    async def activity(self, upstream: str) -> dict[str, Any]:
        """Seconds since a request ended (0 while one is in flight, None if there was none), and requests in flight.

        `watched_seconds`: where there was none, for how long there was surely none, as this node has watched since it
        started or since it knows the upstream. None when one may have been missed: the proxy counted one that the log
        does not have, or somebody has deleted the log.
        """
        in_flight = await self._running.in_flight(upstream)
        await self._count()
        last, now = self._windows.last_request(upstream), time.time()
        if last is not None or in_flight:
            idle = 0.0 if in_flight or last is None else max(0.0, now - last)
            return {"idle_seconds": idle, "in_flight": in_flight, "watched_seconds": None}
        generation, counted = await self._running.responses()
        surely = counted.get(upstream) == 0 and all(log.exists() for log in self._running.logs)
        since = self._watched.get(upstream) if surely else None
        # A worker counts from its own start, which its generation tells, in microseconds.
        watched = None if since is None else max(0.0, now - max(since, int(generation, 16) / 1e6))
        return {"idle_seconds": None, "in_flight": 0, "watched_seconds": watched}

    async def windows(self, endpoint: str, after: int, since: float) -> tuple[list[EndpointWindow], int]:
        """What the arms experienced since a cursor and a time, up to this moment, and the next cursor."""
        await self._count()
        return self._windows.read(endpoint, after=after, since=since)

    async def cursor(self) -> int:
        """The cursor of this moment: windows after it hold only requests that end from now on."""
        await self._count()
        return self._windows.cursor()

    @property
    def _running(self) -> Gateway:
        if self._gateway is None:
            raise GatewayError("the gateway has not been started")
        return self._gateway

    def _make_gateway(self, port: int, activator: Address, comparer: Address) -> Gateway:
        return Gateway(
            self._home.gateway,
            port=port or free_port(),
            activator=activator,
            comparer=comparer,
            answer_timeout=HOLD_SECONDS + 30,
        )

    async def _start_hop(self, hop: Activator | Comparer, port: str) -> Address:
        """On the port that it had, so that a proxy which outlived the last node finds it again."""
        remembered = int(self._store.get(port) or 0)
        try:
            address = await hop.start("127.0.0.1", remembered)
        except OSError:
            address = await hop.start("127.0.0.1", 0)
        self._store.put(port, str(address[1]))
        return address

    def _shadow_of(self, name: str) -> Shadow | None:
        return next((endpoint.shadow for endpoint in self._state().endpoints if endpoint.name == name), None)

    async def _publish_whenever_dirty(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._dirty.clear()
            try:
                await self.publish()
            except Exception:  # whatever it is, the proxy must hear of the next change
                _log.exception("the proxy could not be changed, next try in %g s", _RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
                self._dirty.set()

    async def _count(self) -> None:
        """Count what the proxy has logged, in pieces, so that the node answers in between."""
        async with self._counting:
            lines = 1
            while lines:
                lines = self._windows.ingest(self._running.logs)
                await asyncio.sleep(0)
            compared = self._comparer.take()
            try:
                self._windows.add(compared)
            except BaseException:
                self._comparer.give_back(compared)
                raise
        for upstream, count in self._windows.take_alarms().items():
            self._alarm(upstream, count)

    async def _count_now_and_then(self) -> None:
        """Nobody may read for days, and the log must not wait for them."""
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            try:
                await self._count()
                async with self._counting:
                    self._windows.forget()
            except Exception:
                _log.exception("the access log could not be counted, next try in %g s", _COUNT_SECONDS)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
