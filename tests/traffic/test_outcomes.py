"""The table of what counts as a failure, row by row; and where the proxy really says so."""

import asyncio
import sqlite3
from pathlib import Path

import httpx
import pytest

from prefect_modeldeploy.measurements import bucket_of
from prefect_modeldeploy.traffic.access_log import tally
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from prefect_modeldeploy.traffic.outcomes import FAILED, OK, Outcome, outcome_of
from prefect_modeldeploy.traffic.windows import ArmCounts, WindowStore
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, endpoint, upstream


def excluded(reason: str) -> Outcome:
    return Outcome(False, excluded=reason)


@pytest.mark.parametrize(
    ("server", "status", "termination", "forced", "expected"),
    [
        ("r1", 200, "--", "", OK),
        ("r1", 302, "--", "", OK),
        ("r1", 422, "--", "", OK),
        ("r1", 401, "--", "", excluded("unauthorized")),
        ("r1", 403, "--", "", excluded("unauthorized")),
        ("r1", 429, "--", "", excluded("rate_limited")),
        ("r1", 500, "--", "", FAILED),
        ("r1", 503, "--", "", FAILED),
        ("r1", 504, "sH", "", FAILED),
        ("r1", 200, "sD", "", FAILED),
        ("r1", 502, "SH", "", FAILED),
        ("r1", 200, "SD", "", FAILED),
        ("r1", 502, "PH", "", FAILED),
        ("<NOSRV>", 503, "SC", "", FAILED),
        ("r1", 200, "CD", "", excluded("client_abort")),
        ("r1", -1, "CH", "", excluded("client_abort")),
        ("r1", 408, "cD", "", excluded("client_abort")),
        ("ACTIVATOR", 200, "--", "", excluded("parked")),
        ("ACTIVATOR", 503, "--", "", excluded("parked_failed")),
        ("ACTIVATOR", 504, "sH", "", excluded("parked_failed")),
        ("r1", 500, "--", "!", excluded("forced")),
        ("r1", 500, "RC", "", excluded("proxy")),
        ("<NOSRV>", 400, "PR", "", excluded("proxy")),
        ("r1", 200, "KD", "", excluded("proxy")),
    ],
)
def test_the_table(server: str, status: int, termination: str, forced: str, expected: Outcome) -> None:
    line = f"g1 1000000 1500000 prod:stable=9000,canary=1000{forced} canary d-2 {server} {status} {termination} +1"
    ((kind, times),) = tally([line, line])
    assert outcome_of(kind) == expected
    assert (kind.retries, times.count, times.start, times.end) == (1, 2, 1.0, 1.5)
    assert times.latency == {bucket_of(0.5): 2}


def test_the_proxys_own_lines_are_not_requests() -> None:
    assert tally(["Proxy GATEWAY stopped (cumulated conns: FE: 1, BE: 0).", "a b c d e f g h i j", "", "g 1 2 3"]) == []
    ((health, _),) = tally(["g1 1000000 1500000 - - GATEWAY <NOSRV> 200 LR 0"])
    assert outcome_of(health) == excluded("proxy")
    ((broken, times),) = tally(["g1 - 1500000 - - GATEWAY <NOSRV> 400 PR 0"])
    assert (outcome_of(broken), times.start) == (excluded("proxy"), 1.5)


# --- the same, seen by a real proxy ----------------------------------------------------------------------------------


async def counts_of(gateway: Gateway, database: Path) -> ArmCounts:
    store = WindowStore(sqlite3.connect(database))

    def counted() -> ArmCounts | None:
        while store.ingest(gateway.logs):
            pass
        return store.summary("prod").get("stable")

    found = await eventually(counted)
    assert isinstance(found, ArmCounts)
    return found


@pytest.mark.parametrize(
    ("path", "failures", "statuses", "reasons"),
    [
        ("/status/200", 0, {"2xx": 1}, {}),
        ("/status/418", 0, {"4xx": 1}, {}),
        ("/status/500", 1, {"5xx": 1}, {}),
        ("/status/401", 0, {}, {"unauthorized": 1}),
        ("/status/429", 0, {}, {"rate_limited": 1}),
        ("/slow/5", 1, {"5xx": 1}, {}),
    ],
)
async def test_what_an_arm_answers(
    start_gateway: StartGateway,
    models: Models,
    client: httpx.AsyncClient,
    tmp_path: Path,
    path: str,
    failures: int,
    statuses: dict[str, int],
    reasons: dict[str, int],
) -> None:
    gateway = await start_gateway(models.split(0), answer_timeout=1)
    await ask(client, gateway, f"/prod{path}")
    counts = await counts_of(gateway, tmp_path / "windows.db")
    assert (counts.failures, dict(counts.statuses), dict(counts.excluded)) == (failures, statuses, reasons)
    assert counts.latency.total() == counts.requests == sum(statuses.values())


@pytest.mark.parametrize(
    ("answer", "failures"),
    [
        (b"", 1),
        (b"this is not HTTP\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0),
    ],
)
async def test_an_arm_that_breaks_the_connection_failed(
    start_gateway: StartGateway, tmp_path: Path, client: httpx.AsyncClient, answer: bytes, failures: int
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gateway = await start_gateway(DataPlane((endpoint(),), (upstream("stable", port),)))
    try:
        assert (await ask(client, gateway)).status_code == (502 if failures else 200)
    except httpx.RemoteProtocolError:
        assert b"cut off" in answer
    assert (await counts_of(gateway, tmp_path / "windows.db")).failures == failures
    server.close()


async def test_no_reachable_server_is_a_failure_of_the_arm(
    start_gateway: StartGateway, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(DataPlane((endpoint(),), (upstream("stable"),)))
    assert (await ask(client, gateway)).status_code == 503
    assert (await counts_of(gateway, tmp_path / "windows.db")).failures == 1


async def test_a_client_that_goes_away_is_not_held_against_the_arm(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    gateway = await start_gateway(models.split(0))
    with pytest.raises(httpx.ReadTimeout):
        await ask(client, gateway, "/prod/slow/3", timeout=0.2)
    counts = await counts_of(gateway, tmp_path / "windows.db")
    assert (counts.requests, dict(counts.excluded)) == (0, {"client_abort": 1})


async def test_forced_requests_are_counted_apart(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    gateway = await start_gateway(models.split(0))
    await ask(client, gateway, headers={"X-Modeldeploy-Arm": "stable"})
    counts = await counts_of(gateway, tmp_path / "windows.db")
    assert (counts.requests, dict(counts.excluded)) == (0, {"forced": 1})
