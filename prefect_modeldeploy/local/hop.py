"""The adapter's hop as a process: started with the first arm that needs it, found again, started again, ended.

It is in a session of its own and outlives a killed node, as the proxy and the replicas do. Its port is kept, so that a
proxy which outlived a node finds it. When it dies, the proxy sends what it had not yet answered to the next one.
"""

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.launcher import replica_environment
from prefect_modeldeploy.local.logs import bound_size
from prefect_modeldeploy.local.processes import Process, describe_exit
from prefect_modeldeploy.local.store import Store
from prefect_modeldeploy.traffic.haproxy_config import DIRECT_SOCKET

LINGER_SECONDS = 180.0
"""A hop that no arm needs any more lives on for so long: the longest that a request on its way may still take."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _STABLE_SECONDS = 0.5, 30.0, 30.0
_STOP_GRACE_SECONDS = 5.0
_PORT, _PROCESS = "adapter_port", "adapter_process"

_log = logging.getLogger(__name__)


class Hop:
    """The hop of a node. Use it within a running event loop.

    Args:
        store: Remembers its port and its process.
        home: The node's directory.
        moved: Called when its address has changed.
    """

    def __init__(self, store: Store, home: Home, moved: Callable[[], None]) -> None:
        self._store, self._home, self._moved = store, home, moved
        self._port = int(store.get(_PORT) or 0)
        self._process: Process | None = None
        self._adopted = False
        self._watching: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it answers as long as it is needed."""
        return "127.0.0.1", self._port

    def adopt(self) -> None:
        """Take over the one that a killed node left, if it did."""
        if known := self._store.get(_PROCESS):
            with suppress(ProcessLookupError):
                self._process, self._adopted = Process(*json.loads(known)), True
                self._watching = asyncio.create_task(self._watch())

    def need(self, needed: bool) -> None:
        """Have it run from now on; or, as no arm needs it any more, end it after a while.

        Raises:
            GatewayError: It cannot be started.
        """
        if not needed:
            self._ending = self._ending or asyncio.get_running_loop().call_later(LINGER_SECONDS, self._end)
            return
        self._cancel_end()
        if self._process is None or self._process.exited.is_set():
            try:
                self._run()
            except OSError as error:
                raise GatewayError(f"the adapter cannot be started: {error}") from error

    async def stop(self) -> None:
        """End it now."""
        process = self._process
        await self._forget()
        if process is not None:
            await process.stop(_STOP_GRACE_SECONDS)

    async def let_go(self) -> None:
        """Leave it as it was found: for a node that could not start."""
        if self._process is None or not self._adopted:
            await self.stop()
        else:
            self._process.release()
            await self._forget()

    def _run(self) -> None:
        """Start one. It takes connections at once, and answers when it is ready."""
        log = self._home.directory / "adapter.log"
        bound_size(log)
        with _listen(self._port) as listener, log.open("ab") as said:
            fd = listener.fileno()
            child = subprocess.Popen(
                [sys.executable, "-m", "prefect_modeldeploy.traffic.adapter", str(fd), DIRECT_SOCKET],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=(fd,),
                cwd=self._home.gateway,
                env=replica_environment(),
                start_new_session=True,
            )
            assert child.stdin is not None
            with suppress(BrokenPipeError), child.stdin as go:  # one that has ended already is seen by who watches it
                self._process, self._adopted = Process(child.pid, child=child), False
                self._write_down(self._process, listener.getsockname()[1])
                go.write(b"\n")
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    def _write_down(self, process: Process, port: int) -> None:
        self._store.put(_PROCESS, json.dumps([process.pid, process.started]))
        if port != self._port:
            self._store.put(_PORT, str(port))
            self._port = port
            self._moved()

    async def _watch(self) -> None:
        """Start it again whenever it dies."""
        pause = 0.0
        while (process := self._process) is not None:
            began = time.monotonic()
            await process.exited.wait()
            if process is not self._process:
                continue  # it was ended, and maybe another one runs
            pause = 0.0 if time.monotonic() - began > _STABLE_SECONDS else pause
            _log.error("the adapter is gone (%s), next start in %g s", describe_exit(process.exit_code), pause)
            await asyncio.sleep(pause)
            pause = min(max(_FIRST_PAUSE_SECONDS, 2 * pause), _LONGEST_PAUSE_SECONDS)
            if process is self._process:
                try:
                    self._run()
                except Exception:  # whatever it is, adapted arms need another try
                    _log.exception("the adapter could not be started")

    def _end(self) -> None:
        process, self._process, self._ending = self._process, None, None
        if process is not None:
            process.send(signal.SIGTERM)

    def _cancel_end(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    async def _forget(self) -> None:
        self._process = None
        self._cancel_end()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)


def _listen(port: int) -> socket.socket:
    """On this port, else on any free one."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError:
        return socket.create_server(("127.0.0.1", 0), backlog=1024)
