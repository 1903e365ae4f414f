"""Finds the node of a home, or starts it: detached, with a log, and only one however many ask at the same time."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from prefect_modeldeploy.errors import NodeError, ProviderError
from prefect_modeldeploy.local.client import NodeClient
from prefect_modeldeploy.local.home import Home, NodeInfo
from prefect_modeldeploy.local.logs import bound_size, tail
from prefect_modeldeploy.transport import RetryPolicy

_POLL_SECONDS = 0.05
_started: list["subprocess.Popen[bytes]"] = []
"""Kept so that Python does not warn about a child that outlives its handle: outliving us is the point."""


async def find_node(home: Home) -> NodeInfo | None:
    """The running node of a home; None if there is none that answers."""
    info = home.read_node()
    if info is None:
        return None
    async with NodeClient(info.control_url, home.token(), policy=RetryPolicy(attempts=1)) as client:
        try:
            status = await client.status()
        except ProviderError:
            return None
    # A killed node's file is still there when the next one, on the same port, begins to answer: the pid tells.
    return info if (status["home"], status["pid"]) == (str(home.directory), info.pid) else None


async def ensure_node(
    home: Home | Path | str | None = None,
    *,
    autostart: bool = True,
    port: int | None = None,
    gateway_port: int | None = None,
    remote: str | None = None,
    certificate: Path | None = None,
    timeout_seconds: float = 30.0,
) -> NodeInfo:
    """The running node of a home, started if there is none.

    Args:
        home: Directory of the node; None: `MODELDEPLOY_HOME`, else `~/.modeldeploy`.
        autostart: Whether a node may be started.
        port: Port of the control API of a node that is started; None: any.
        gateway_port: Port that clients call, of a node that is started; None: any.
        remote: `address:port` where a node that is started takes other machines' calls too, over TLS; None: as the
            last one did; "none": nowhere.
        certificate: PEM file with certificate and private key, for `remote`; None: as before.
        timeout_seconds: How long to wait for it.

    Raises:
        NodeError: There is none and none may be started, or it did not start; the message holds its log's tail.
    """
    place = _home(home)
    if (info := await find_node(place)) is not None:
        return info
    if not autostart:
        raise NodeError(f"home={place.directory}: no node runs there; start it with `modeldeploy node start`")
    place.prepare()
    options = {"--port": port, "--gateway-port": gateway_port, "--remote": remote, "--certificate": certificate}
    deadline, child = time.monotonic() + timeout_seconds, _spawn(place, options)
    while time.monotonic() < deadline:
        if (info := await find_node(place)) is not None:
            if info.pid != child.pid:  # ours came too late, and must not become a node when that one is stopped
                child.terminate()
                await asyncio.to_thread(child.wait)
            return info
        # A starter that lost the race ends at once, while the winner holds the lock and is about to be ready.
        if child.poll() is not None and place.holder() is None:
            raise NodeError(f"home={place.directory}: the node ended at once; {_log_of(place)}")
        await asyncio.sleep(_POLL_SECONDS)
    raise NodeError(f"home={place.directory}: no node was ready within {timeout_seconds:g} s; {_log_of(place)}")


async def stop_node(home: Home | Path | str | None = None, *, timeout_seconds: float = 60.0) -> bool:
    """Stop the node of a home, its proxy and its replicas, and wait until all of it has ended.

    Returns:
        False when no node was running.

    Raises:
        NodeError: It did not end in time.
    """
    place = _home(home)
    if (pid := place.holder()) is None:
        return False
    deadline = time.monotonic() + timeout_seconds
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while _lives(pid):
        if time.monotonic() > deadline:
            raise NodeError(
                f"home={place.directory}: node {pid} did not end within {timeout_seconds:g} s; {_log_of(place)}"
            )
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def node_overview(home: Home | Path | str | None = None) -> dict[str, Any] | None:
    """The running node of a home with all its deployments and endpoints; None if there is none."""
    place = _home(home)
    if (info := await find_node(place)) is None:
        return None
    async with NodeClient(info.control_url, place.token()) as client:
        return {
            "control_url": info.control_url,
            **await client.status(),
            "deployments": [d.model_dump(mode="json", exclude={"raw"}) for d in await client.list_deployments()],
            "endpoints": [e.model_dump(mode="json") for e in await client.list_endpoints()],
        }


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _home(home: Home | Path | str | None) -> Home:
    return home if isinstance(home, Home) else Home(home)


def _spawn(home: Home, options: Mapping[str, int | str | Path | None]) -> "subprocess.Popen[bytes]":
    bound_size(home.node_log)
    given = list[str]()
    for name, value in options.items():
        if value is not None:
            given += [name, str(value.absolute() if isinstance(value, Path) else value)]
    with home.node_log.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "prefect_modeldeploy.local.node", "--home", str(home.directory), *given],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.directory,
            start_new_session=True,
        )
    _started.append(child)
    return child


def _log_of(home: Home) -> str:
    return f"the end of {home.node_log}:\n{tail(home.node_log)}"
