"""Starts sandboxes for tests: real emulators on real sockets, in a thread (fast) or a process of their own."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_modeldeploy.sandbox.client import SandboxControl
from prefect_modeldeploy.sandbox.emulator import Emulator
from prefect_modeldeploy.sandbox.house import House
from prefect_modeldeploy.sandbox.server import SandboxServer
from tests.conftest import eventually


@dataclass
class RunningSandbox:
    """What the ready file says, and the control client."""

    ready: dict[str, Any]
    control: SandboxControl

    def __getitem__(self, provider: str) -> dict[str, Any]:
        """The provider's object in the ready file: `sandbox["scale"]["base_url"]`."""
        return dict(self.ready[provider])


@asynccontextmanager
async def running_sandbox(
    *providers: str | type[Emulator], speed: float = 0.0, state: Path | None = None, may_crash: bool = False
) -> AsyncIterator[RunningSandbox]:
    """A sandbox in a thread of this process, with a world of its own.

    In the end no emulator may have had a fault of its own: no request, however bad, is an excuse.
    """
    server = SandboxServer(House(providers, speed, state))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve_sandbox()), daemon=True)
    thread.start()
    try:
        await eventually(lambda: server.started)
        async with SandboxControl(server.ready["control_url"]) as control:
            yield RunningSandbox(server.ready, control)
            crashes = await control.crashes()
            assert may_crash or not crashes, crashes[0]
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive(), "the sandbox did not stop"


@asynccontextmanager
async def sandbox_process(
    directory: Path, *providers: str, speed: float = 0.0, arguments: Sequence[str] = ()
) -> AsyncIterator[tuple[RunningSandbox, asyncio.subprocess.Process]]:
    """A sandbox as users start it; `directory` gets its ready file."""
    ready_file = directory / "ready.json"
    ready_file.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prefect_modeldeploy.sandbox", "--providers", ",".join(providers)),
        *("--ready-file", str(ready_file), "--speed", str(speed), *arguments),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await eventually(lambda: ready_file.exists() or process.returncode is not None)
        assert process.returncode is None, f"the sandbox ended with {process.returncode}"
        ready = json.loads(ready_file.read_text())
        async with SandboxControl(ready["control_url"]) as control:
            yield RunningSandbox(ready, control), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
