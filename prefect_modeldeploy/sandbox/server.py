"""Serves a sandbox: one port for the control API, one for each vendor, one process for all."""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_modeldeploy.errors import InvalidInput, ModelDeployError
from prefect_modeldeploy.sandbox.control import make_control
from prefect_modeldeploy.sandbox.gate import Gate, Protocol
from prefect_modeldeploy.sandbox.house import House, write_atomically

_SAVE_SECONDS = 0.2


class _ByPort:
    """One ASGI application out of several, told apart by the port that a request came in at."""

    def __init__(self, apps: dict[int, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[scope["server"][1]](scope, receive, send)


class SandboxServer(uvicorn.Server):
    """A uvicorn server of a house.

    Args:
        house: What it serves.
        port: Of the control API; the vendors follow on the next ports in their order. 0: free ones.
        on_ready: Called with the object of the ready file when all ports answer.

    Raises:
        InvalidInput: A port is taken.
    """

    def __init__(self, house: House, port: int = 0, on_ready: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._house, self._on_ready = house, on_ready
        apps: list[ASGIApp] = [make_control(house), *(Gate(emulator) for emulator in house.emulators.values())]
        self._listeners = [_listen(port + offset if port else 0) for offset in range(len(apps))]
        ports = [listener.getsockname()[1] for listener in self._listeners]
        self.ready: dict[str, Any] = {"control_url": _url(ports[0])}
        for at, emulator in zip(ports[1:], house.emulators.values(), strict=True):
            self.ready[emulator.name] = emulator.describe(_url(at))
        super().__init__(
            uvicorn.Config(
                _ByPort(dict(zip(ports, apps, strict=True))),
                http=Protocol,
                log_level="critical",
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=2,
            )
        )

    async def serve_sandbox(self) -> None:
        """Serve until `should_exit` is set or a signal comes; the state is saved while and after."""
        saving = asyncio.create_task(self._save())
        try:
            await self.serve(sockets=self._listeners)
        finally:
            saving.cancel()
            self._house.save()
            for listener in self._listeners:
                listener.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, then tell that all is ready."""
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready(self.ready)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            self._house.save()


def run(
    port: int = 0,
    providers: Sequence[str] | None = None,
    ready_file: Path | None = None,
    speed: float = 1.0,
    state: Path | None = None,
) -> int:
    """Run a sandbox in the foreground until SIGTERM or Ctrl-C; returns the exit code.

    A failure to start is one line on standard error.

    Args:
        port: Of the control API; the vendors follow on the next ports in the order of `providers`. 0: free ones.
        providers: Names; None: all that there are.
        ready_file: Gets one JSON object with all addresses and credentials, atomically, when all are ready.
        speed: Sandbox seconds per second; 0: life cycles are instant.
        state: File that keeps the worlds over restarts.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def ready(what: dict[str, Any]) -> None:
        if ready_file is not None:
            write_atomically(ready_file, json.dumps(what))
        print(f"sandbox {os.getpid()}: control {what['control_url']}", flush=True)
        for name in house.emulators:
            print(f"  {name:<10} {what[name]['base_url']}", flush=True)

    try:
        house = House(providers, speed, state)
        asyncio.run(SandboxServer(house, port, ready).serve_sandbox())
    except (ModelDeployError, OSError) as error:
        print(f"modeldeploy sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio switches Nagle's algorithm off; without, every answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidInput("port", port, f"cannot listen on it ({error}); choose another with --port") from error
    return listener
