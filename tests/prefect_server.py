"""One Prefect server for all the worker processes of a test session: it takes long to start, so it starts at once."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from prefect_modeldeploy.local.ports import free_port

SHARED = "MODELDEPLOY_TESTS_PREFECT_API_URL"
"""Environment variable with the URL of the session's server; there is none in a session without workers."""

_START_SECONDS = 100.0

_COMMAND = "import gc; gc.disable(); from prefect.cli import app; app()"
"""As `prefect`, but nothing is left to the garbage collector. It lets go of sqlite3's statements, and one whose
connection waits for SQLite's lock is waited for itself: where that happens in the thread of the event loop, whoever has
the lock cannot go on, and the server writes nothing until the lock is given up on, after 60 s. With three processes of
tests that happened every few minutes."""


@contextmanager
def running_server() -> Iterator[None]:
    """Start a server and make it this process's, when it answers."""
    from prefect.events.worker import EventsWorker  # the session's first process needs none of this
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with started_server("--no-ui") as url:
        wait_for(url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield
            EventsWorker.drain_all(timeout=5)  # or it would go on trying, when the server is gone


@contextmanager
def shared_server() -> Iterator[None]:
    """Start the session's server, do not wait for it, and end it with the session."""
    with started_server("--no-ui") as url:
        os.environ[SHARED] = url
        try:
            yield
        finally:
            del os.environ[SHARED]


class Server:
    """A server with a database of its own, which is there again when it is started again after it was killed."""

    def __init__(
        self, home: Path, *options: str, host: str = "127.0.0.1", access_log: Path | None = None, **settings: str
    ) -> None:
        port = free_port(host)
        self.url = f"http://{host}:{port}/api"
        level = "INFO" if access_log else "ERROR"
        where = ("--host", host, "--port", str(port), "--log-level", level)
        self._command = [sys.executable, "-c", _COMMAND, "server", "start", *where, "--analytics-off", *options]
        paths = {"PREFECT_API_URL": "", "PREFECT_SERVER_UI_API_URL": self.url, "PREFECT_HOME": str(home)}
        quiet = {"PREFECT_SERVER_LOGGING_LEVEL": level, "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false"}
        self._environment = {**os.environ, **quiet, **paths, **settings}
        self._output = access_log or Path(os.devnull)

    def start(self) -> None:
        """Start it without waiting for it, see `wait_for`."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stand_still(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def restartable_server(*options: str, **more: Any) -> Iterator[Server]:
    """Start a server; see `started_server` for the arguments."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        server = Server(Path(home), *options, **more)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def started_server(
    *options: str, host: str = "127.0.0.1", access_log: Path | None = None, **settings: str
) -> Iterator[str]:
    """Start a server with a database of its own; yields its URL without waiting for it, see `wait_for`.

    Args:
        options: More options of `prefect server start`.
        host: Address to listen on.
        access_log: File that gets a line per request. None: no such lines.
        settings: Prefect's settings, as environment variables.
    """
    with restartable_server(*options, host=host, access_log=access_log, **settings) as server:
        yield server.url


def wait_for(url: str) -> None:
    """Return when the server answers; fail the tests that need it when it does not in time."""
    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(trust_env=False) as client:  # one: to make it takes longer than to ask
        while True:
            try:
                client.get(f"{url}/health").raise_for_status()
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the Prefect server of this session does not answer at {url}") from error
                time.sleep(0.1)
            else:
                return
