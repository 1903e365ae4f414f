"""The gateway: brings HAProxy to a desired state, by its admin socket where it can, else by a hitless reload."""

import asyncio
import logging
import re
import time
from pathlib import Path

from pydantic import SecretStr

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.traffic.access_log import ACCESS_LOG
from prefect_modeldeploy.traffic.admin import Workers
from prefect_modeldeploy.traffic.dataplane import DataPlane
from prefect_modeldeploy.traffic.haproxy_config import Rendered, Settings, is_loopback, render
from prefect_modeldeploy.traffic.process import HaproxyProcess
from prefect_modeldeploy.traffic.runtime import change_maps, change_servers, follow

__all__ = ["DataPlane", "Gateway"]

_log = logging.getLogger(__name__)
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.25
_RELOAD_SECONDS = 0.5
"""So long the master may refuse to talk while it reloads."""


class Gateway:
    """The addresses that clients call, and the proxy that answers there.

    `http://host:port/<endpoint>/...` goes to an arm of the endpoint by weight; `http://host:port/-/<upstream>/...` to
    one deployment; `/-/health` is answered by the proxy. The proxy runs in a session of its own and outlives this
    object: another Gateway on the same directory finds it again. After a reload the old worker answers one more request
    on each connection that was open, and has ten minutes to finish.

    Args:
        directory: Configuration, sockets and logs; made with mode 0700.
        host: Where to listen. Anything but loopback needs `certificate` and `client_key`.
        port: Where to listen.
        activator: Address of the activator, which upstreams with `wakes` need.
        certificate: PEM file with certificate and private key.
        client_key: What clients send as `Authorization: Bearer <key>`: 16 or more of `A-Z a-z 0-9 - . _ ~ + /`.
        answer_timeout: Seconds that an arm may be silent; must be above the activator's `hold_seconds`.
        threads: Of the proxy.
        log: False writes no access log, so there are no measurements. For benchmarks.
        comparer: Address of the comparer, which endpoints with `shadow` need.

    Raises:
        GatewayError: The address would be open to others without certificate and key, or the key is malformed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        port: int,
        activator: tuple[str, int] | None = None,
        certificate: Path | None = None,
        client_key: SecretStr | None = None,
        answer_timeout: float = 300.0,
        threads: int = 1,
        log: bool = True,
        comparer: tuple[str, int] | None = None,
    ) -> None:
        if not is_loopback(host) and not (certificate and client_key):
            raise GatewayError(
                f"host={host!r} can be reached from elsewhere: pass a certificate and a client_key as well, "
                "or listen on 127.0.0.1"
            )
        if client_key and not _KEY.fullmatch(client_key.get_secret_value()):
            raise GatewayError("client_key must be 16 or more of the characters A-Z a-z 0-9 - . _ ~ + /")
        self.directory = directory.absolute()
        self._settings = Settings(
            host,
            port,
            activator,
            certificate and certificate.absolute(),
            client_key,
            answer_timeout,
            threads,
            log,
            comparer,
        )
        self._process = HaproxyProcess(self.directory)
        self._lock = asyncio.Lock()
        self._state = DataPlane()
        self._running: Rendered | None = None
        self._draining: frozenset[tuple[str, str]] = frozenset()
        self._taking: frozenset[tuple[str, str]] = frozenset()
        self.generation = ""

    @property
    def url(self) -> str:
        """Where clients call, without a slash at the end."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._settings.certificate else 'http'}://{host}:{self._settings.port}"

    @property
    def logs(self) -> tuple[Path, ...]:
        """The access logs, for `WindowStore.ingest`."""
        return (self.directory / ACCESS_LOG,)

    async def start(self, state: DataPlane) -> None:
        """Bring up the proxy with this state, or adopt the one that a killed supervisor left running here.

        Raises:
            GatewayError: No HAProxy is installed, the port is taken, or the configuration is refused.
        """
        async with self._lock:
            await self._restart_or_reload(state)

    async def apply(self, state: DataPlane) -> None:
        """Bring the proxy to this state. Weights and plain servers change in milliseconds, the rest by a reload.

        All or nothing: what HAProxy refuses changes nothing.

        Raises:
            GatewayError: HAProxy refuses the state or is gone and cannot be started again.
        """
        async with self._lock:
            self._forget_drained(state)
            wanted = self._render(state)
            workers = await self._process.workers()
            running = self._running
            if workers is None or workers.current is None or running is None or wanted.shape != running.shape:
                await self._restart_or_reload(state)
                return
            self._running = None  # if this is cut off nobody knows what runs, and the next one reloads
            self._process.write(wanted)
            try:
                await self._change(workers, running, wanted)
            except GatewayError as error:
                _log.warning("the proxy could not be changed while it runs and is reloaded: %s", error)
                await self._restart_or_reload(state)
            else:
                self._remember(state, wanted)

    async def drain(self, upstream: str, server: str, timeout: float) -> bool:
        """Send no new requests to a server and wait until it has none left.

        The server stays drained, also across reloads, until a state without it was applied.

        Returns:
            True when none is in flight; False when some still were after `timeout` seconds.

        Raises:
            GatewayError: The proxy has no such server.
        """
        async with self._lock:
            workers = await self._workers()
            if (upstream, server) not in _servers(self._state):
                raise GatewayError(f"server={server!r}: upstream {upstream} has no such server")
            self._draining |= {(upstream, server)}
            self._running = self._render(self._state)
            self._process.write(self._running)
            assert workers.current
            await self._process.admin.do(f"set server {upstream}/{server} state drain", worker=workers.current)
            self._taking -= {(upstream, server)}
        deadline = time.monotonic() + timeout
        while await self._sessions(upstream, server):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def sends_to(self, upstream: str, server: str) -> bool:
        """True while a server gets new requests: it is in the state that was applied, and was not drained."""
        return (upstream, server) in self._taking

    async def in_flight(self, upstream: str) -> int:
        """Requests that an upstream is answering or that are held for it.

        Raises:
            GatewayError: The proxy is not running.
        """
        return await self._sessions(upstream, "BACKEND")

    async def responses(self) -> tuple[str, dict[str, int]]:
        """How many responses the current worker counts by upstream, and the generation that its log lines carry.

        Raises:
            GatewayError: The proxy is not running.
        """
        workers = await self._workers()
        assert workers.current
        rows = await self._process.admin.statistics(workers.current)
        classes = [f"hrsp_{name}" for name in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")]
        names = {upstream.name for upstream in self._state.upstreams}
        counted = {
            row["pxname"]: sum(int(row[name] or 0) for name in classes)
            for row in rows
            if row["svname"] == "BACKEND" and row["pxname"] in names
        }
        return self.generation, counted

    async def healthy(self) -> bool:
        """True when the proxy runs and accepts."""
        try:
            await self._workers()
        except GatewayError:
            return False
        return True

    async def watch(self) -> None:
        """Start the proxy again whenever it dies, until cancelled."""
        pause = _WATCH_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                async with self._lock:
                    workers = await self._process.workers()
                    if workers is None or workers.current is None:
                        _log.error("HAProxy is gone and is started again; see %s", self.directory / "haproxy.log")
                        await self._restart_or_reload(self._state)
                pause = _WATCH_SECONDS
            except GatewayError as error:
                pause = min(5.0, pause * 2)
                _log.error("HAProxy could not be started again, next try in %.1f s: %s", pause, error)

    async def stop(self, grace: float = 5.0) -> None:
        """End the proxy; requests in flight get `grace` seconds. Stop watching first."""
        async with self._lock:
            await self._process.stop(grace)
            self._running = None

    def _render(self, state: DataPlane) -> Rendered:
        if self._settings.comparer is None and any(endpoint.shadow for endpoint in state.endpoints):
            raise GatewayError("an endpoint has a shadow, and there is no comparer to send its requests to")
        return render(state, self._settings, generation=self.generation, draining=self._draining)

    def _forget_drained(self, state: DataPlane) -> None:
        self._draining &= _servers(state)

    def _remember(self, state: DataPlane, running: Rendered) -> None:
        self._state, self._running = state, running
        self._taking = _servers(state) - self._draining

    async def _workers(self) -> Workers:
        deadline = time.monotonic() + _RELOAD_SECONDS
        while True:
            workers = await self._process.workers()
            if workers is not None and workers.current is not None:
                return workers
            if time.monotonic() > deadline:
                raise GatewayError(f"HAProxy is not running in {self.directory}")
            await asyncio.sleep(_POLL_SECONDS)

    async def _restart_or_reload(self, state: DataPlane) -> None:
        for upstream in state.upstreams:
            if upstream.wakes and self._settings.activator is None:
                raise GatewayError(f"upstreams.{upstream.name}.wakes=True: this gateway was made without an activator")
        former = self.generation
        self.generation = f"{time.time_ns() // 1000:x}"
        wanted = self._render(state)
        try:
            await self._process.check(wanted)
        except GatewayError:
            self.generation = former
            raise
        saved, before = self._process.save(), self._running
        self._running = None
        self._process.write(wanted)
        workers = await self._process.workers()
        try:
            after = await (self._process.start() if workers is None else self._process.reload(workers))
        except GatewayError:
            self.generation, self._running = former, before
            self._process.restore(saved)
            raise
        self._remember(state, wanted)
        for old in after.old:
            await follow(self._process.admin, old, before.maps if before else {}, wanted.maps)

    async def _change(self, workers: Workers, running: Rendered, wanted: Rendered) -> None:
        assert workers.current
        admin = self._process.admin
        await change_maps(admin, workers.current, running.maps, wanted.maps)
        if running.servers != wanted.servers:
            await change_servers(admin, workers.current, wanted)
        for old in workers.old:
            await follow(admin, old, running.maps, wanted.maps)

    async def _sessions(self, upstream: str, name: str) -> int:
        workers = await self._workers()
        found = 0
        for worker in workers.all:
            rows = await self._process.admin.statistics(worker, upstream)
            found += sum(int(row["scur"] or 0) for row in rows if (row["pxname"], row["svname"]) == (upstream, name))
        return found


def _servers(state: DataPlane) -> frozenset[tuple[str, str]]:
    return frozenset((upstream.name, server.name) for upstream in state.upstreams for server in upstream.servers)
