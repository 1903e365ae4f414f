"""Changes that a running HAProxy worker takes over its admin socket: maps and plain servers."""

from collections.abc import Mapping

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.traffic.admin import AdminSocket
from prefect_modeldeploy.traffic.haproxy_config import ACTIVATOR, ROUTES, Rendered, upstreams_of

Maps = Mapping[str, Mapping[str, str]]


async def change_maps(admin: AdminSocket, worker: int, running: Maps, wanted: Maps) -> None:
    """Change what differs, one command an entry: a request sees an endpoint's former weights or the new ones.

    Raises:
        GatewayError: HAProxy refused a change.
    """
    for name, entries in wanted.items():
        before = running[name]
        for key, value in entries.items():
            if key not in before:
                await admin.do(f"add map {name} {key} {value}", worker=worker)
            elif before[key] != value:
                await admin.do(f"set map {name} {key} {value}", worker=worker)
        for key in before.keys() - entries.keys():
            await admin.do(f"del map {name} {key}", worker=worker)


async def change_servers(admin: AdminSocket, worker: int, wanted: Rendered) -> None:
    """Add, move and remove plain servers. Requests in flight on a removed one are finished.

    Raises:
        GatewayError: HAProxy refused a change.
    """
    there = await admin.servers(worker)
    for upstream, servers in wanted.servers.items():
        known = there.get(upstream, {})
        for name, line in servers.items():
            await _have_server(admin, worker, f"{upstream}/{name}", line, known.get(name))
        for name in known.keys() - servers.keys() - {ACTIVATOR}:
            if f"\n  server {name} " not in _section(wanted.shape, upstream):
                await admin.do(f"set server {upstream}/{name} state maint", worker=worker)
                # Refused while it has connections; then it stays, without requests, until the next change or reload.
                await admin.ask(f"del server {upstream}/{name}", worker=worker)


async def follow(admin: AdminSocket, worker: int, running: Maps, wanted: Maps) -> None:
    """Tell a worker that a reload has replaced the changes of the maps that it can still understand.

    It answers the next request of each connection that was open at the reload, and that request, too, must go where the
    weights say. It knows the upstreams of its time only, and HAProxy changes no servers there ("Proxy is disabled").
    It may end at any moment, which is no error.
    """
    known = await admin.backends(worker)
    for name, entries in wanted.items():
        for key, value in entries.items() - running.get(name, {}).items():
            if name != ROUTES or upstreams_of(value) <= known:
                await admin.ask_old(f"set map {name} {key} {value}", worker=worker)


async def _have_server(admin: AdminSocket, worker: int, server: str, line: str, address: str | None) -> None:
    wanted, _, options = line.partition(" ")
    drained = options.endswith("weight 0")
    if address is None:
        answer = await admin.ask(f"add server {server} {line}", worker=worker)
        if "registered" not in answer:
            raise GatewayError(f"HAProxy refused to add the server {server}: {answer}")
        if "check" in options:
            await admin.do(f"enable health {server}", worker=worker)
    elif address != wanted:
        host, _, port = wanted.rpartition(":")
        await admin.ask(f"set server {server} addr {host.strip('[]')} port {port}", worker=worker)
    await admin.do(f"set server {server} state {'drain' if drained else 'ready'}", worker=worker)


def _section(shape: str, upstream: str) -> str:
    return shape.partition(f"\nbackend {upstream}\n")[2].partition("\nbackend ")[0]
