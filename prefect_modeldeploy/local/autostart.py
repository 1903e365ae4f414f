"""Finds the node of a home, or starts it: detached, with a log, and only one however many ask at the same time."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

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
    return info if status["home"] == str(home.directory) else None


async def ensure_node(
    home: Home | Path | str | None = None, *, autostart: bool = True, timeout_seconds: float = 30.0
) -> NodeInfo:
    """The running node of a home, started if there is none.

    Args:
        home: Directory of the node; None: `MODELDEPLOY_HOME`, else `~/.modeldeploy`.
        autostart: Whether a node may be started.
        timeout_seconds: How long to wait for it.

    Raises:
        NodeError: There is none and none may be started, or it did not start; the message holds its log's tail.
    """
    place = home if isinstance(home, Home) else Home(home)
    if (info := await find_node(place)) is not None:
        return info
    if not autostart:
        raise NodeError(f"home={place.directory}: no node runs there; start it with `modeldeploy node start`")
    place.prepare()
    deadline, child = time.monotonic() + timeout_seconds, _spawn(place)
    while time.monotonic() < deadline:
        if (info := await find_node(place)) is not None:
            return info
        # A starter that lost the race ends at once, while the winner holds the lock and is about to be ready.
        if child.poll() is not None and not place.is_locked():
            raise NodeError(f"home={place.directory}: the node ended at once; {_log_of(place)}")
        await asyncio.sleep(_POLL_SECONDS)
    raise NodeError(f"home={place.directory}: no node was ready within {timeout_seconds:g} s; {_log_of(place)}")


def _spawn(home: Home) -> "subprocess.Popen[bytes]":
    bound_size(home.node_log)
    with home.node_log.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "prefect_modeldeploy.local.node", "--home", str(home.directory)],
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
