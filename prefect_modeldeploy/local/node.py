"""The node process: `python -m prefect_modeldeploy.local.node --home DIR`, in the foreground until SIGTERM.

SIGTERM or Ctrl-C stops the proxy, its adapter and all replicas; what is wanted is kept and comes back at the next
start. When the process is killed, all of these go on serving, and the next node adopts them.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from prefect_modeldeploy.errors import ModelDeployError, NodeError
from prefect_modeldeploy.local.api import make_app
from prefect_modeldeploy.local.home import Home, NodeInfo
from prefect_modeldeploy.local.remote import Remote
from prefect_modeldeploy.local.service import Node

_CONTROL_PORT = "control_port"

_QUIET: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "lifespan": "off",
    "ws": "none",
    "timeout_graceful_shutdown": 5,
}

_log = logging.getLogger("prefect_modeldeploy.local")


def listen(port: int, remembered: int) -> socket.socket:
    """A listening socket on loopback. Port 0: the one that the last node had, else any free one.

    Raises:
        NodeError: that port is taken.
    """
    candidates = [port] if port else [remembered, 0]
    for candidate in candidates:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if candidate == port:
                raise NodeError(f"port={port}: cannot listen on it ({error}); choose another with --port") from error
        else:
            return listener
    raise AssertionError("unreachable: the last candidate returns or raises")


async def serve(
    home: Home, port: int = 0, gateway_port: int = 0, remote: str | None = None, certificate: str | None = None
) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises:
        NodeError: another node has this home, a port is taken, or the certificate cannot be used.
        GatewayError: the proxy cannot be started.
    """
    with home.locked():
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        node = Node(home, gateway_port)
        with ExitStack() as listeners:
            listener = listeners.enter_context(listen(port, int(node.store.get(_CONTROL_PORT) or 0)))
            actual = listener.getsockname()[1]
            node.store.put(_CONTROL_PORT, str(actual))
            elsewhere = Remote.of(node.store, remote, certificate)
            opened = {listener: dict[str, Any]()}
            if elsewhere is not None:
                secured = listeners.enter_context(elsewhere.listen(node.store))
                opened[secured] = {"ssl_certfile": str(elsewhere.certificate)}
            info = NodeInfo(os.getpid(), f"http://127.0.0.1:{actual}", "", elsewhere.url if elsewhere else None)
            await node.start()
            try:
                await _serve(node, home, opened, replace(info, gateway_url=node.routing.url), stop)
            finally:
                home.forget_node()
                await node.stop()


async def _serve(
    node: Node, home: Home, opened: Mapping[socket.socket, Mapping[str, Any]], info: NodeInfo, stop: asyncio.Event
) -> None:
    app = make_app(node, home.token())
    servers = [uvicorn.Server(uvicorn.Config(app, **_QUIET, **options)) for options in opened.values()]
    serving = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, listener in zip(servers, opened, strict=True)
    ]
    home.write_node(info)
    also = f" and {info.remote_url}" if info.remote_url else ""
    _log.info(
        "node %d of %s: control %s%s, gateway %s", info.pid, home.directory, info.control_url, also, info.gateway_url
    )
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((*serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    stopping.cancel()
    await asyncio.gather(*serving)


def run(
    home: Path | str | None = None,
    port: int = 0,
    gateway_port: int = 0,
    remote: str | None = None,
    certificate: str | None = None,
) -> int:
    """Run a node in the foreground; a failure to start is one line on standard error. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(serve(Home(home), port, gateway_port, remote, certificate))
    except (ModelDeployError, OSError) as error:
        print(f"modeldeploy node: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m prefect_modeldeploy.local.node", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--home", help="directory of the node (MODELDEPLOY_HOME, else ~/.modeldeploy)")
    parser.add_argument("--port", type=int, default=0, help="of the control API; 0: any")
    parser.add_argument("--gateway-port", type=int, default=0, help="of the gateway; 0: any")
    parser.add_argument("--remote", help="address:port of the control API for other machines; none: no more")
    parser.add_argument("--certificate", help="PEM file with certificate and private key, for --remote")
    sys.exit(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
