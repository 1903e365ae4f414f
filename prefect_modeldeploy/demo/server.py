"""The Prefect server of the demo, where the settings name none.

Prefect would start one too. Ctrl-C in a terminal would end that one before the demo had turned its rollout back; and on
SQLite it can stand still for a minute: the garbage collector, in the thread of the event loop, lets go of a statement
whose connection waits for a lock that only the event loop can release. This one is out of the terminal's reach, and
collects no garbage in its two minutes.
"""

import asyncio
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.local.ports import free_port

_COMMAND = "import gc; gc.disable(); from prefect.cli import app; app()"
_OPTIONS = ("--host", "127.0.0.1", "--no-ui", "--analytics-off", "--log-level", "ERROR")
_START_SECONDS = 90.0
_END_SECONDS = 10.0


@asynccontextmanager
async def prefect_server() -> AsyncIterator[None]:
    """The server of the settings; without one, a server of our own for as long as the block lasts.

    Raises:
        ModelDeployError: It does not start; says what it printed last.
    """
    if get_current_settings().api.url:
        yield
        return
    process, url = await _started()
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield
            finally:  # what is still to be sent would be sent to nobody
                await APILogHandler.aflush()
                await EventsWorker.drain_all(timeout=5)  # type: ignore[misc]
    finally:
        await _end(process)


async def _started(*, tries: int = 3) -> tuple[Process, str]:
    """A server that answers, and where. It takes seconds to listen: its port may be taken meanwhile."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _COMMAND, "server", "start", "--port", str(port), *_OPTIONS),
            stdin=DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            await _answers(url, process, said)
        except BaseException as error:
            await _end(process)
            if tries == 1 or "already in use" not in str(error):
                raise
            return await _started(tries=tries - 1)
    return process, url


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_SECONDS)
    finally:  # it hangs, or somebody does not want to wait
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _answers(url: str, process: Process, said: IO[bytes]) -> None:
    """Return when the server does."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    async with httpx.AsyncClient(trust_env=False) as http:
        while asyncio.get_running_loop().time() < deadline and process.returncode is None:
            with suppress(httpx.TransportError):
                if (await http.get(f"{url}/health")).is_success:
                    return
            await asyncio.sleep(0.1)
    said.seek(0)
    last = said.read()[-2000:].decode(errors="replace").strip()
    how = "has not started" if process.returncode is None else f"has ended with {process.returncode}"
    raise ModelDeployError(f"Prefect's server {how}: {last or 'it printed nothing'}")
