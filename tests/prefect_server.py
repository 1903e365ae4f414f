"""One Prefect server for all the worker processes of a test session: it takes long to start, so it starts at once."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

SHARED = "MODELDEPLOY_TESTS_PREFECT_API_URL"
"""Environment variable with the URL of the session's server; there is none in a session without workers."""

_START_SECONDS = 100.0


@contextmanager
def shared_server() -> Iterator[None]:
    """Start a server with a database of its own, do not wait for it, and end it with the session."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui", "--analytics-off"],
            env={**os.environ, "PREFECT_HOME": home, "PREFECT_API_URL": "", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.environ[SHARED] = f"http://127.0.0.1:{port}/api"
        try:
            yield
        finally:
            del os.environ[SHARED]
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(url: str) -> None:
    """Return when the server answers; fail the tests that need it when it does not in time."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            httpx.get(f"{url}/health", trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the Prefect server of this session does not answer at {url}") from error
            time.sleep(0.1)
        else:
            return
