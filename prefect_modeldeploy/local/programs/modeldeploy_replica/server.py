"""The process of a replica: it loads the model, then serves it."""

import asyncio
import faulthandler
import importlib
import json
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from .app import Replica
from .models import LoadFailed, Model, load
from .settings import Settings, read_settings

LOAD_FAILED = 3
"""Exit code when the model could not be loaded; the reason is in the failure file."""

KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps an idle connection, so that it never meets one that is just being closed."""


class JoinedWrites:
    """A transport that sends what is written in one turn of the event loop at once.

    The server writes head and body apart. A replica that is killed in between leaves the proxy with a head and no body,
    which it cannot send again to another replica.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._parts = transport, list[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what is left, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()


def protocol_class() -> Any:
    """Uvicorn's fastest HTTP protocol here, with joined writes."""
    base: Any = importlib.import_module("uvicorn.protocols.http.auto").AutoHTTPProtocol

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        base.connection_made(self, JoinedWrites(transport))

    return type("Protocol", (base,), {"connection_made": connection_made})


def _report_failure(settings: Settings, reason: str) -> None:
    print(f"replica {settings.replica}: {reason}", file=sys.stderr, flush=True)
    if settings.failure_file:
        Path(settings.failure_file).write_text(json.dumps({"reason": reason}))


def _load_or_exit(settings: Settings) -> Model:
    try:
        return load(settings.source)
    except LoadFailed as error:
        _report_failure(settings, str(error))
    except SystemExit as error:
        _report_failure(settings, f"the code of {settings.source} ended the process: exit {error.code}")
    except Exception as error:
        traceback.print_exc()
        _report_failure(settings, f"loading {settings.source} raised {type(error).__name__}: {error}")
    sys.exit(LOAD_FAILED)


def serve(listener: socket.socket) -> None:
    """Read the settings, load the model, serve until SIGTERM; requests in flight are answered first."""
    began = time.monotonic()
    settings = read_settings()
    if settings is None:
        return
    faulthandler.enable()
    sys.path[:0] = settings.python_path
    print(f"replica {settings.replica}: loading {settings.source}", file=sys.stderr, flush=True)
    try:
        uvicorn = importlib.import_module("uvicorn")
    except ImportError:
        _report_failure(settings, f"{sys.executable} has no uvicorn: install it there")
        sys.exit(LOAD_FAILED)
    app = Replica(settings, _load_or_exit(settings))
    print(f"replica {settings.replica}: loaded in {time.monotonic() - began:.2f} s", file=sys.stderr, flush=True)
    config = uvicorn.Config(
        app,
        http=protocol_class(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])
