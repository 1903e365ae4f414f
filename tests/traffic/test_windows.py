"""Measurements: exactly once, whoever dies, and never two splits in one window."""

import asyncio
import os
import signal
import sqlite3
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from prefect_modeldeploy.traffic.windows import WindowStore
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, upstream
from tests.traffic.load import load


def open_store(path: Path) -> WindowStore:
    return WindowStore(sqlite3.connect(path))


@pytest.fixture
def store(tmp_path: Path) -> WindowStore:
    return open_store(tmp_path / "windows.db")


def ingest(store: WindowStore, gateway: Gateway) -> None:
    while store.ingest(gateway.logs):
        pass


def line(number: int = 0, *, canary: int = 1000, arm: str = "stable", status: int = 200) -> str:
    start = 1_700_000_000_000_000 + number * 1000
    split = f"stable={10_000 - canary},canary={canary}"
    return f"g1 {start} {start + 2000} prod:{split} {arm} d-1 r1 {status} -- 0\n"


async def test_a_window_holds_one_split_and_what_its_arms_experienced(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, store: WindowStore
) -> None:
    gateway = await start_gateway(models.split(0))
    started = time.time()
    for share in (0, 100):
        await gateway.apply(models.split(share))
        for _ in range(5):
            await ask(client, gateway, "/prod/slow/0.05")
    await ask(client, gateway, "/prod/status/500")
    await eventually(lambda: (ingest(store, gateway), sum(a.requests for a in store.summary("prod").values()) == 11)[1])

    windows, cursor = store.read("prod")
    judged = [window.to_window() for window in windows]
    assert [window.share for window in judged if window] == sorted(window.share for window in judged if window)
    first, last = judged[0], judged[-1]
    assert first
    assert last
    assert (first.share, first.baseline.requests, first.canary.requests) == (0, 5, 0)
    assert (last.share, last.canary.failures) == (1, 1)
    assert first.baseline.latency
    assert 0.05 <= (first.baseline.latency.quantile(0.5) or 0) < 1
    assert 0.25 < first.seconds < 30
    assert [window.id for window in windows] == sorted({window.id for window in windows})
    assert store.read("prod", after=cursor) == ([], cursor)
    last_request = store.last_request("canary")
    assert last_request
    assert started < last_request < time.time()
    assert store.last_request("nobody") is None


def test_sticky_requests_have_windows_of_their_own_without_a_share(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    log.write_text(line() + line().replace("canary=1000", "canary=1000~"))
    store.ingest([log])
    windows, _ = store.read("prod")
    judged = {window.sticky: window.to_window() for window in windows}
    assert [
        (sticky, window.share, window.baseline.requests) for sticky, window in sorted(judged.items()) if window
    ] == [
        (False, 0.1, 1),
        (True, None, 1),
    ]
    assert {window.weights["canary"] for window in windows} == {10}


def test_no_data_is_no_window(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    log.write_text(line(status=429))
    assert store.ingest([log]) == 1
    (window,), _ = store.read("prod")
    assert window.to_window() is None
    assert window.arms["stable"].excluded == {"rate_limited": 1}
    assert store.read("other") == ([], 0)


def test_windows_come_in_order_and_a_limit_keeps_the_rest(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    for number in range(5):
        with log.open("a") as file:
            file.write(line(number, canary=5000) + line(number, canary=5000 + number, arm="canary"))
        store.ingest([log])
    read, cursor = [], 0
    while True:
        windows, cursor = store.read("prod", after=cursor, limit=2)
        if not windows:
            break
        read += windows
    assert [window.id for window in read] == sorted(window.id for window in read)
    assert sum(window.arms["canary"].requests for window in read if "canary" in window.arms) == 5
    assert sum(window.arms["stable"].requests for window in read if "stable" in window.arms) == 5
    assert cursor == store.cursor()


def test_half_a_line_waits_for_its_other_half(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    whole = line()
    log.write_text(whole + whole[:30])
    assert store.ingest([log]) == 1
    with log.open("a") as file:
        file.write(whole[30:])
    assert store.ingest([log]) == 1
    assert store.summary("prod")["stable"].requests == 2


def test_old_windows_are_forgotten(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    log.write_text(line())
    store.ingest([log])
    assert store.forget(before=1_600_000_000) == 0
    assert store.forget() == 1
    assert store.read("prod") == ([], 0)


async def test_a_reader_that_is_killed_loses_nothing_and_counts_nothing_twice(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    gateway = await start_gateway(models.split(40))
    database = tmp_path / "windows.db"
    open_store(database)
    reader = textwrap.dedent("""
        import sqlite3, sys
        from pathlib import Path
        from prefect_modeldeploy.traffic.windows import WindowStore
        store = WindowStore(sqlite3.connect(sys.argv[1], timeout=30))
        while True:
            store.ingest(map(Path, sys.argv[2:]), max_bytes=2000)
    """)
    killed = 0
    async with load(gateway.url + "/prod/x", rate=600) as answers:
        while killed < 3:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", reader, str(database), *map(str, gateway.logs)
            )
            before = open_store(database).cursor()
            await eventually(lambda before=before: open_store(database).cursor() > before + 3)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            killed += 1
    assert answers.failures == []
    store = open_store(database)
    ingest(store, gateway)
    assert {arm: counts.requests for arm, counts in store.summary("prod").items()} == dict(answers.by_arm)
    generation, counted = await gateway.responses()
    assert sum(counted.values()) == answers.count
    assert set(store.difference(generation, counted).values()) == {0}


async def test_a_difference_to_the_proxys_own_count_shows(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, store: WindowStore
) -> None:
    gateway = await start_gateway(models.split(0))
    for _ in range(10):
        await ask(client, gateway)
    log = gateway.logs[0]
    await eventually(lambda: log.read_text().count(" prod:") == 10)
    os.truncate(log, log.read_text().index("\n") + 1)  # nine lines are lost
    ingest(store, gateway)
    assert store.difference(*await gateway.responses()) == {"stable": 9, "canary": 0}


async def test_the_disk_space_of_counted_lines_is_given_back_under_load(
    start_gateway: StartGateway, models: Models, store: WindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_modeldeploy.traffic.windows._GIVE_BACK", 1 << 14)
    gateway = await start_gateway(models.split(50))
    (log,) = gateway.logs
    async with load(gateway.url + "/prod/x", rate=800) as answers:
        while log.stat().st_size < 150_000:
            store.ingest(gateway.logs)
            await asyncio.sleep(0.01)
    assert answers.failures == []
    ingest(store, gateway)
    assert {arm: counts.requests for arm, counts in store.summary("prod").items()} == dict(answers.by_arm)
    assert log.stat().st_blocks * 512 < 50_000


def test_a_log_that_was_deleted_starts_again(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    log.write_text(line() * 3)
    store.ingest([log])
    log.unlink()
    log.write_text(line())
    assert store.ingest([log]) == 1
    assert store.ingest([log]) == 0


async def test_measurements_go_on_after_the_proxy_was_killed(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, store: WindowStore
) -> None:
    gateway = await start_gateway(models.split(0))
    await ask(client, gateway)
    await gateway.stop()
    await gateway.start(models.split(0))
    await ask(client, gateway)
    await gateway.apply(DataPlane(models.split(0).endpoints, (*models.split(0).upstreams, upstream("x"))))
    await ask(client, gateway)
    await eventually(lambda: (ingest(store, gateway), store.summary("prod")["stable"].requests == 3)[1])


def test_a_window_is_the_same_wherever_its_reader_began(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    cursors = [0]
    for number in range(4):
        with log.open("a") as file:
            file.write(line(number) + line(number, canary=5000))
        store.ingest([log])
        cursors.append(store.cursor())
    whole, _ = store.read("prod")
    for cursor in cursors:
        late, _ = store.read("prod", after=cursor)
        assert late == whole[len(whole) - len(late) :]


def test_a_window_lasts_since_the_one_before_it_pauses_included(tmp_path: Path, store: WindowStore) -> None:
    log = tmp_path / "access.log"
    for number in (0, 30):
        with log.open("a") as file:
            file.write(line(number))
        store.ingest([log])
    (first, second), _ = store.read("prod")
    assert second.seconds == pytest.approx(second.end - first.end)
    assert second.seconds > second.end - second.start
