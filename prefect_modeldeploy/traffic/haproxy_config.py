"""What HAProxy is told: one configuration file, and two maps that change while it runs.

Routing lives in `routes.map`, one line an endpoint, so that one admin command moves all its weights at once, whatever
the number of arms, and a request's cost does not grow with the number of endpoints:

    prod prod:stable=9000,canary=1000|X-User|canary=1000=d-2|stable=10000=d-1

that is: the endpoint and the asked split as the log carries them, the sticky header or `-`, then the arms from the last
to the first with the upper end of their share of 0..9999 and their upstream. A request belongs to the first arm whose
end is above its number: random, or the hash of its sticky header. The canary, being last, owns the low numbers: as its
weight grows it only gains clients, so sticky clients never flip back.

Secrets live in `secrets.map` (mode 0600), base64 so that no character needs escaping: they can be renewed without a
reload, and HAProxy's messages about the configuration cannot quote them.
"""

import base64
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import certifi
from pydantic import SecretStr

from prefect_modeldeploy.traffic.access_log import FORCED, SHADOWED, STICKY
from prefect_modeldeploy.traffic.dataplane import DataPlane
from prefect_modeldeploy.traffic.endpoint import WHOLE, Endpoint, Server, Upstream

ROUTES, SECRETS, SHADOWS = "routes.map", "secrets.map", "shadows.map"
DIRECT_SOCKET = "direct.sock"
"""Where the comparer and the adapter reach upstreams by name, `/-/<upstream>/...`, as clients of the gateway do."""
ACTIVATOR = "ACTIVATOR"
"""Name of the server that holds requests; names of ours are upper case, names of users never are."""

LOG_FD = "MODELDEPLOY_LOG_FD"
"""Environment variable that holds the descriptor of the access log."""

_RESOLVERS = Path("/etc/resolv.conf")

CHECK = "check inter 1s fastinter 200ms downinter 500ms fall 3 rise 1 observe layer4 error-limit 1 on-error mark-down"


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change while a gateway lives."""

    host: str
    port: int
    activator: tuple[str, int] | None = None
    certificate: Path | None = None
    client_key: SecretStr | None = None
    answer_timeout: float = 300.0
    threads: int = 1
    log: bool = True
    comparer: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A desired state in HAProxy's terms.

    Args:
        config: The whole file.
        shape: The part of it that only a reload can change.
        maps: Content of the maps, by file name.
        servers: Lines of the servers that can be added and removed at run time, by upstream and name.
    """

    config: str
    shape: str
    maps: Mapping[str, Mapping[str, str]]
    servers: Mapping[str, Mapping[str, str]]


def render(state: DataPlane, settings: Settings, *, generation: str, draining: frozenset[tuple[str, str]]) -> Rendered:
    """Put a desired state into HAProxy's words.

    Args:
        state: What shall be.
        settings: Where to listen, who may call.
        generation: Marks the log lines of the workers that run this file.
        draining: (upstream, server) that shall get no new requests.
    """
    servers = {
        upstream.name: {
            server.name: _server(upstream, server, (upstream.name, server.name) in draining)
            for server in upstream.servers
            if _is_dynamic(upstream, server)
        }
        for upstream in state.upstreams
    }
    head = _global(settings) + _resolvers(state) + _defaults(settings) + _frontend(state, settings)
    shape, config = list(head), [f"global\n  setenv GENERATION {generation}", *head]
    for upstream in state.upstreams:
        backend = _backend(upstream, settings, draining)
        shape += backend
        config += [*backend, *(f"  server {name} {line}" for name, line in servers[upstream.name].items())]
    maps: dict[str, Mapping[str, str]] = {
        ROUTES: {e.name: route_of(e) for e in state.endpoints},
        SECRETS: _secrets(state, settings),
    }
    if shadows := {e.name: shadow_of(e) for e in state.endpoints if e.shadow}:
        maps[SHADOWS] = shadows
    return Rendered("\n".join(config) + "\n", "\n".join(shape), maps, servers)


def split_of(endpoint: Endpoint) -> str:
    """The asked split as the log carries it: `prod:stable=9000,canary=1000`, in steps of 0.01 %."""
    return f"{endpoint.name}:" + ",".join(f"{arm.name}={_steps(arm.weight)}" for arm in endpoint.arms)


def route_of(endpoint: Endpoint) -> str:
    """The value of an endpoint in `routes.map`."""
    ends, end = [], 0
    for arm in reversed(endpoint.arms):
        end += _steps(arm.weight)
        ends.append(f"{arm.name}={end}={arm.upstream}")
    return "|".join([split_of(endpoint), endpoint.sticky_header or "-", *ends])


def shadow_of(endpoint: Endpoint) -> str:
    """The value of an endpoint in `shadows.map`: the share in steps of 0.01 %, who answers, and who gets the copies."""
    assert endpoint.shadow is not None
    copied = next(arm for arm in endpoint.arms if arm.name == endpoint.shadow.arm)
    answering = next(arm for arm in endpoint.arms if arm is not copied)
    return "|".join([str(_steps(endpoint.shadow.share)), answering.name, answering.upstream, copied.upstream])


def upstreams_of(route: str) -> set[str]:
    """Which upstreams a value of `routes.map` sends requests to."""
    return {arm.rpartition("=")[2] for arm in route.split("|")[2:]}


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _steps(weight: float) -> int:
    return int(Decimal(str(weight)) * WHOLE / 100)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _is_dynamic(upstream: Upstream, server: Server) -> bool:
    """HAProxy adds plain servers with numeric addresses while it runs; the rest needs a reload."""
    return not upstream.tls and not _is_name(server.host)


def _server(upstream: Upstream, server: Server, draining: bool) -> str:
    words = [_address(server.host, server.port)]
    if _is_name(server.host):  # one that cannot be resolved now must not keep the others from starting
        words.append("init-addr libc,none" + (" resolvers SYSTEM" if _RESOLVERS.exists() else ""))
    if upstream.health_path:
        words.append(CHECK)
    if upstream.tls:
        words.append("ssl alpn http/1.1")
        ca_file = upstream.ca_file or system_authorities()
        words.append(f"verify required ca-file '{ca_file}'" if upstream.tls_verify else "verify none")
        name = (upstream.host_header or server.host).partition(":")[0]
        words.append(f"sni str({name}) check-sni {name} verifyhost {name}")
    if draining:
        words.append("weight 0")
    return " ".join(words)


def system_authorities() -> str:
    """PEM file of the authorities that Python trusts here; HAProxy's own `@system-ca` is empty in the wheel."""
    return os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or certifi.where()


def _secrets(state: DataPlane, settings: Settings) -> dict[str, str]:
    secrets = {
        f"{upstream.name}:{name}": _base64(value.get_secret_value())
        for upstream in state.upstreams
        for name, value in upstream.headers.items()
    }
    if settings.client_key:
        secrets["CLIENT"] = _base64(f"Bearer {settings.client_key.get_secret_value()}")
    return secrets


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _global(settings: Settings) -> list[str]:
    target = [f'  log fd@"${{{LOG_FD}}}" len 4096 format raw local0 info'] if settings.log else []
    return [
        "  stats socket unix@worker.sock mode 600 level admin expose-fd listeners",
        f"  nbthread {settings.threads}",
        "  noreuseport",  # else a second proxy could share the port unnoticed
        # So much of a buffer no body fills, for headers that are added. The default of 1 KiB is less than many tokens.
        "  tune.bufsize 32768",
        "  tune.maxrewrite 16384",
        "  hard-stop-after 600s",
        *target,
    ]


def _resolvers(state: DataPlane) -> list[str]:
    """Follow the addresses of names; when DNS fails, or knows less than /etc/hosts, keep the last one."""
    if not _RESOLVERS.exists() or not any(_is_name(s.host) for upstream in state.upstreams for s in upstream.servers):
        return []
    holds = (f"  hold {reason} 24d" for reason in ("nx", "other", "refused", "timeout", "obsolete"))
    return ["resolvers SYSTEM", "  parse-resolv-conf", "  hold valid 30s", *holds]


def _defaults(settings: Settings) -> list[str]:
    reasons = {
        400: "the request is not valid HTTP",
        408: "the request was not complete in time",
        500: "the gateway has an internal error",
        502: "the deployment closed the connection or its answer is not valid HTTP",
        503: "no replica of the deployment can be reached",
        504: "the deployment did not answer in time",
    }
    seconds = f"{max(1, round(settings.answer_timeout))}s"
    return [
        "defaults",
        "  mode http",
        "  log global",
        "  option dontlognull",
        "  option http-no-delay",  # pieces of a stream leave when they come
        "  option abortonclose",
        "  option redispatch 1",
        "  option idle-close-on-response",  # a reload closes no connection that a client may be about to use
        # A replica's death can cost a request two tries: the one that is cut off, and one that is refused.
        "  retries 5",
        "  timeout connect 5s",
        "  timeout check 5s",
        f"  timeout client {seconds}",
        f"  timeout server {seconds}",
        f"  timeout queue {seconds}",
        "  timeout tunnel 1h",
        "  timeout http-request 30s",
        "  timeout http-keep-alive 60s",
        *(
            f'  http-error status {status} content-type application/json string \'{{"error": "{reason}"}}\''
            + (" hdr Retry-After 1" if status == 503 else "")
            for status, reason in reasons.items()
        ),
    ]


def _frontend(state: DataPlane, settings: Settings) -> list[str]:
    shadowed = any(endpoint.shadow for endpoint in state.endpoints)
    tls = f" ssl crt '{settings.certificate}' alpn h2,http/1.1" if settings.certificate else ""
    log_format = '"${GENERATION} %[var(txn.t0)] %[date(0,us)] %[var(txn.split)] %[var(txn.arm)] %b %s %ST %ts %rc"'
    return [
        "frontend GATEWAY",
        f"  bind {_address(settings.host, settings.port)}{tls}",
        *([f"  log-format {log_format}"] if settings.log else []),
        "  http-request set-var(txn.t0) date(0,us)",
        _answer(200, {"status": "ok"}, "{ path /-/health }"),
        *_client_key(settings),
        "  http-request del-header Authorization",
        "  http-request del-header Proxy-Authorization",
        "  http-request del-header X-Modeldeploy-Upstream",
        # /-/<upstream>/...: one deployment by itself
        "  http-request set-var(txn.upstream) path,field(3,/) if { path_beg /-/ }",
        "  http-request set-path /%[path,field(4,/,0)] if { path_beg /-/ }",
        # /<endpoint>/...: an arm of an endpoint
        "  http-request set-var(txn.name) path,field(2,/) if !{ var(txn.upstream) -m found }",
        "  http-request set-var(txn.route) var(txn.name),map_str(routes.map) if { var(txn.name) -m found }",
        "  http-request set-path /%[path,field(3,/,0)] if { var(txn.route) -m found }",
        *_choice(state),
        *(_sample() if shadowed else []),
        "  http-request del-header X-Modeldeploy-Arm",
        "  http-response set-header X-Modeldeploy-Arm %[var(txn.arm)] if { var(txn.arm) -m found }",
        *(["  use_backend SHADOW if { var(txn.shadowed) -m found }"] if shadowed else []),
        "  use_backend %[var(txn.upstream)] if { var(txn.upstream) -m found }",
        "  default_backend UNKNOWN",
        *(_shadow(settings) if shadowed else []),
        *(_direct(settings, log_format) if settings.comparer else []),
        "backend UNKNOWN",
        _answer(404, {"error": "no such endpoint or deployment"}),
    ]


def _sample() -> list[str]:
    """Rules that choose the requests which go to both arms. One that a header forces on an arm is none of them."""
    shadow = "var(txn.shadow)"
    sampled = f"{{ {shadow} -m found }} {{ {shadow},field(1,|),sub(txn.dice) -m int gt 0 }}"
    told = "%[var(txn.split)] %[var(txn.shadow),field(3,|)] %[var(txn.shadow),field(4,|)]"
    chosen = "if { var(txn.shadowed) -m found }"
    return [
        "  http-request del-header X-Modeldeploy-Shadow",
        f"  http-request set-var(txn.dice) rand({WHOLE})",
        f"  http-request set-var(txn.shadow) var(txn.name),map_str({SHADOWS}) if {{ var(txn.route) -m found }} "
        "!{ var(txn.wanted) -m found }",
        f"  http-request set-var(txn.shadowed) str(yes) if {sampled}",
        f"  http-request set-var(txn.arm) {shadow},field(2,|) {chosen}",
        f"  http-request set-var(txn.split) var(txn.split),concat({SHADOWED}) {chosen}",
        f'  http-request set-header X-Modeldeploy-Shadow "{told}" {chosen}',
    ]


def _shadow(settings: Settings) -> list[str]:
    """The way to the comparer. While it is gone, stable answers without it."""
    assert settings.comparer is not None, "the gateway has refused this"
    return [
        "backend SHADOW",
        "  timeout connect 200ms",
        "  retry-on conn-failure",
        "  http-request set-path /-/%[var(txn.shadow),field(3,|)]%[path]",
        f"  server COMPARER {_address(*settings.comparer)} {CHECK}",
        f"  server DIRECT unix@{DIRECT_SOCKET} backup",
    ]


def _direct(settings: Settings, log_format: str) -> list[str]:
    """The way back of the comparer and the adapter. Always there: a worker that a reload has replaced may need it."""
    return [
        "frontend DIRECT",
        f"  bind unix@{DIRECT_SOCKET} mode 600",
        *([f"  log-format {log_format}"] if settings.log else []),
        "  http-request set-var(txn.t0) date(0,us)",
        "  http-request del-header X-Modeldeploy-Shadow",
        "  http-request set-var(txn.upstream) path,field(3,/)",
        "  http-request set-path /%[path,field(4,/,0)]",
        "  use_backend %[var(txn.upstream)]",
    ]


def _client_key(settings: Settings) -> list[str]:
    if settings.client_key is None:
        return []
    return [
        "  http-request set-var(txn.key) str(CLIENT),map_str(secrets.map),b64dec",
        "  acl key_given req.fhdr(Authorization) -m found",
        "  acl key_right req.fhdr(Authorization),secure_memcmp(txn.key) -m bool true",
        _answer(401, {"error": "a client key is needed"}, "!key_given || !key_right", "hdr WWW-Authenticate Bearer"),
    ]


def _choice(state: DataPlane) -> list[str]:
    """Rules that choose an arm, for as many arms as the endpoint with the most has."""
    rules = [
        "  http-request set-var(txn.split) var(txn.route),field(1,|)",
        "  http-request set-var(txn.wanted) req.fhdr(X-Modeldeploy-Arm) if { var(txn.route) -m found }",
        f"  http-request set-var(txn.number) rand({WHOLE})",
    ]
    for header in sorted({endpoint.sticky_header for endpoint in state.endpoints if endpoint.sticky_header}):
        given = f"if {{ req.fhdr({header}) -m found }} {{ var(txn.route),field(2,|) -m str {header} }}"
        rules.append(f"  http-request set-var(txn.number) req.fhdr({header}),xxh32(0),mod({WHOLE}) {given}")
        rules.append(f"  http-request set-var(txn.split) var(txn.split),concat({STICKY}) {given}")
    most = max([2, *(len(endpoint.arms) for endpoint in state.endpoints)])
    places = [f"var(txn.route),field({place},|)" for place in range(3, 3 + most)]
    for arm in places:
        wanted = f"{{ {arm},field(1,=),strcmp(txn.wanted) -m int eq 0 }}"
        rules.append(f"  http-request set-var(txn.pick) {arm} if {{ var(txn.wanted) -m found }} {wanted}")
    rules.append(f"  http-request set-var(txn.split) var(txn.split),concat({FORCED}) if {{ var(txn.wanted) -m found }}")
    rules.append(
        _answer(400, {"error": "no such arm"}, "{ var(txn.wanted) -m found } !{ var(txn.pick) -m found }"),
    )
    for arm in places:  # `-m int` matters: a bare number would be compared as text
        mine = f"{{ {arm},field(2,=),sub(txn.number) -m int gt 0 }}"
        rules.append(f"  http-request set-var(txn.pick) {arm} if !{{ var(txn.pick) -m found }} {mine}")
    return [
        *rules,
        "  http-request set-var(txn.arm) var(txn.pick),field(1,=)",
        "  http-request set-var(txn.upstream) var(txn.pick),field(3,=) if { var(txn.pick) -m found }",
    ]


def _backend(upstream: Upstream, settings: Settings, draining: frozenset[tuple[str, str]]) -> list[str]:
    lines = [f"backend {upstream.name}", "  balance leastconn"]
    if all(is_loopback(server.host) for server in upstream.servers):
        # HAProxy pauses for this long, at most a second, before it tries another server. Loopback connects at once.
        lines.append("  timeout connect 200ms")
    if upstream.retry_sent:
        # Without the buffer a request whose body comes after its head in a packet of its own is never sent again.
        lines += ["  http-reuse always", "  retry-on conn-failure empty-response", "  option http-buffer-request"]
    else:
        lines += ["  http-reuse safe", "  retry-on conn-failure"]
    if upstream.health_path:
        uri = upstream.path_prefix + upstream.health_path
        host = f" hdr Host {upstream.host_header}" if upstream.host_header else ""
        lines += ["  option httpchk", f"  http-check send meth GET uri '{uri}'{host}"]
    if upstream.predict_path:
        path, _, query = upstream.predict_path.replace("%", "%%").partition("?")
        lines.append(_answer(404, {"error": "a hosted deployment answers at /predict only"}, "!{ path /predict }"))
        lines.append(f"  http-request set-path '{path}'")
        lines += [f"  http-request set-query '{query}'"] if query else []
    if upstream.path_prefix:
        lines.append(f"  http-request set-path '{upstream.path_prefix.replace('%', '%%')}%[path]'")
    if upstream.host_header:
        lines.append(f"  http-request set-header Host {upstream.host_header}")
    for name in upstream.headers:
        value = f"%[str({upstream.name}:{name}),map_str(secrets.map),b64dec]"
        lines.append(f"  http-request set-header '{name}' {value}")
    if upstream.wakes and settings.activator:
        lines.append(f"  http-request set-header X-Modeldeploy-Upstream {upstream.name}")
        lines.append(f"  server {ACTIVATOR} {_address(*settings.activator)} backup")
    for server in upstream.servers:
        if not _is_dynamic(upstream, server):
            is_draining = (upstream.name, server.name) in draining
            lines.append(f"  server {server.name} {_server(upstream, server, is_draining)}")
    return lines


def _answer(status: int, body: Mapping[str, str], condition: str = "", extra: str = "") -> str:
    ((key, text),) = body.items()
    rule = f'  http-request return status {status} content-type application/json string \'{{"{key}": "{text}"}}\''
    return " ".join(filter(None, [rule, extra, f"if {condition}" if condition else ""]))
