"""Starts replica processes: sockets, logs, environment, and the handshake that leaves no unknown process behind."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_modeldeploy.errors import NodeError
from prefect_modeldeploy.local.processes import Process
from prefect_modeldeploy.local.zygotes import ZygoteFailed, Zygotes

PROGRAMS = Path(__file__).with_name("programs")

FIRST_PORT, PORTS = 20_000, 12_000
"""Ports of replicas, taken in turn: the port of a dead replica is not given to another model for a long time, so that a
proxy that has not yet noticed the death cannot reach the wrong model. Below the ports that the kernel hands out."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_PRIVATE_PREFIXES = ("PREFECT_", "MODELDEPLOY_")
"""Variables of the node that replicas do not get: they may hold credentials."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that a replica process needs to know."""

    python: str
    settings: Mapping[str, Any]
    env: Mapping[str, str]
    threads: int
    working_directory: Path
    log: Path


def replica_environment(threads: int = 1) -> dict[str, str]:
    """The node's environment without its secrets, with numeric libraries held to so many threads."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE_PREFIXES)}
    return {**env, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "PYTHONUNBUFFERED": "1"}


class Ports:
    """Listening sockets on loopback, on ports taken in turn."""

    def __init__(self, last: int, remember: Callable[[int], None]) -> None:
        self._next, self._remember = last + 1, remember

    def listen(self) -> socket.socket:
        """A listening socket on the next free port. Raises NodeError when none is left."""
        for _ in range(PORTS):
            port = FIRST_PORT + (self._next - FIRST_PORT) % PORTS
            self._next = port + 1
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen(1024)
            except OSError:  # taken by somebody else
                listener.close()
            else:
                self._remember(port)
                return listener
        raise NodeError(f"no free port between {FIRST_PORT} and {FIRST_PORT + PORTS}")


class Launcher:
    """Starts replicas: forked from a zygote where there is one, else as fresh processes."""

    def __init__(self, ports: Ports, zygotes: Zygotes) -> None:
        self._ports, self._zygotes = ports, zygotes

    async def start(self, launch: Launch, record: Callable[[int, Process], None]) -> Process:
        """Start a replica; it goes on only when `record` has written down its port and who it is.

        Raises:
            NodeError: No port is free.
            OSError: The interpreter or the working directory cannot be used.
        """
        if not launch.working_directory.is_dir():
            raise NotADirectoryError(f"no such directory: {launch.working_directory}")
        launch.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        read_end, write_end = os.pipe()
        try:
            with self._ports.listen() as listener:
                try:
                    process = await self._fork(launch, listener, read_end) or _spawn(launch, listener, read_end)
                finally:
                    os.close(read_end)
                record(listener.getsockname()[1], process)
            with suppress(BrokenPipeError):  # it has ended already; whoever watches it sees that
                os.write(write_end, json.dumps(dict(launch.settings)).encode() + b"\n")
        finally:
            os.close(write_end)
        return process

    def learn(self, launch: Launch, port: int) -> None:
        """A replica has become ready: the zygote learns from it."""
        self._zygotes.learn(launch.python, port)

    async def _fork(self, launch: Launch, listener: socket.socket, stdin: int) -> Process | None:
        zygote = self._zygotes.for_launch(launch.python, launch.env, launch.threads)
        if zygote is None:
            return None
        with launch.log.open("ab") as log:
            try:
                fds = (stdin, log.fileno(), listener.fileno())
                return Process(await zygote.fork(launch.env, launch.working_directory, fds))
            except (ZygoteFailed, ProcessLookupError) as error:
                await self._zygotes.discard(launch.python, str(error))
                return None


def _spawn(launch: Launch, listener: socket.socket, stdin: int) -> Process:
    with launch.log.open("ab") as log:
        child = subprocess.Popen(
            [launch.python, str(PROGRAMS), "replica", str(listener.fileno())],
            stdin=stdin,
            stdout=log,
            stderr=log,
            pass_fds=(listener.fileno(),),
            cwd=launch.working_directory,
            env={**replica_environment(launch.threads), **launch.env},
            start_new_session=True,
        )
    return Process(child.pid, child=child)
