"""Shared parts of the tests. Everything here is real: servers listen on sockets, Prefect runs its own server."""

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import stamina
import uvicorn
from starlette.types import ASGIApp

from tests import prefect_server as prefect_server_process

_at_end = ExitStack()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: Prefect's workers are ended by it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """A session with worker processes has one Prefect server for them all."""
    if getattr(config.option, "numprocesses", None):  # not so in the workers themselves
        _at_end.enter_context(prefect_server_process.shared_server())


def pytest_unconfigure() -> None:
    _at_end.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was not run: a green line must not look like more than it is."""
    left_out = len(terminalreporter.stats.get("deselected", []))
    if left_out:
        terminalreporter.write_line(f"not run: {left_out} tests of other sets (pytest -m slow, contract, chaos ...)")


@pytest.fixture
def without_waits() -> Iterator[None]:
    """Retries go on, but without their back-off."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an ASGI app on a free port of the loopback interface; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


async def eventually(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], seconds: float = 60.0, every: float = 0.02
) -> object:
    """Poll until the condition holds and return its value; fail the test when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return value
            await asyncio.sleep(every)


@pytest.fixture(scope="session", autouse=True)
def no_trace_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nodes and reports of the tests go to a directory of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELDEPLOY_HOME", str(tmp_path_factory.mktemp("modeldeploy")))
        yield


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real Prefect server with a database of its own, for the whole session: one for all its worker processes."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if (url := os.environ.get(prefect_server_process.SHARED)) is None:
        with prefect_server_process.running_server():
            yield
    else:
        prefect_server_process.wait_for(url)
        with temporary_settings({PREFECT_API_URL: url}):
            _registered_once(tmp_path_factory.getbasetemp().parent / "blocks")
            yield


def _registered_once(path: Path) -> None:
    """Make our blocks known to the server: two processes that do so at once are in each other's way there (409)."""
    from prefect_modeldeploy import DeploymentTarget

    with path.open("a+") as known:
        fcntl.flock(known, fcntl.LOCK_EX)
        if not path.stat().st_size:
            DeploymentTarget.register_type_and_schema()
            known.write("DeploymentTarget, with all that it holds")
