"""Prometheus as the source of windows: a stand-in over a socket, and the real one where it is installed."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from prefect_modeldeploy.errors import AuthenticationFailed, ProviderError, ProviderUnavailable
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.sources import Observed, PrometheusMetrics
from prefect_modeldeploy.sources.prometheus import PrometheusSource
from prefect_modeldeploy.traffic.windows import EndpointWindow
from tests.conftest import eventually, serve
from tests.sources.prometheus_kit import Store, prometheus

REQUESTS = 'http_requests_total{deployment="$deployment",status!~"401|403|429"}'
FAILURES = 'http_requests_total{deployment="$deployment",status=~"5.."}'
LATENCY = 'http_request_duration_seconds_bucket{deployment="$deployment"}'
ARMS = {"stable": Observed("fraud-1", "1"), "canary": Observed("fraud-2", "2")}
T = 1_700_000_000.0
"""A moment on the grid of 10 s."""


@asynccontextmanager
async def source_of(store: Store, **fields: object) -> AsyncIterator[PrometheusSource]:
    async with prometheus(store) as url:
        settings = {"requests": REQUESTS, "failures": FAILURES, "window_seconds": 10, "delay_seconds": 2, **fields}
        block = PrometheusMetrics(url=url, **settings)  # type: ignore[arg-type]
        async with block.get_source("prod", ARMS) as source:
            yield source


def at(seconds: float) -> Store:
    return Store(now=lambda: T + seconds)


def scraped(store: Store, *deployments: str, until: float, since: float = -10, every: float = 5) -> Store:
    """Each deployment answers one request a second, of which every 20th fails."""
    seconds = since
    while seconds <= until:
        for deployment in deployments:
            count = seconds - since
            store.add("http_requests_total", T + seconds, 1000 + count, deployment=deployment, status="200")
            store.add("http_requests_total", T + seconds, 7 + count // 20, deployment=deployment, status="503")
            store.add("http_requests_total", T + seconds, 9 * count, deployment=deployment, status="429")
        seconds += every
    return store


def requests(windows: list[EndpointWindow]) -> list[tuple[int, int, int]]:
    """Start, and requests of stable and canary."""
    return [(round(w.start - T), w.arms["stable"].requests, w.arms["canary"].requests) for w in windows]


async def test_windows_are_the_differences_of_counters_by_arm() -> None:
    async with source_of(scraped(at(35), "fraud-1", "fraud-2", until=34)) as source:
        windows, cursor = await source.windows(str(T))
        assert requests(windows) == [(0, 11, 11), (10, 10, 10), (20, 11, 11)]
        assert [w.arms["canary"].failures for w in windows] == [1, 0, 1]
        assert source.settled(cursor) == T + 30
        window = windows[0].to_window()
        assert window is not None
        assert (window.seconds, window.share, window.canary.requests) == (10.0, None, 11)


async def test_each_moment_is_in_one_window_however_often_one_looks() -> None:
    store = scraped(at(35), "fraud-1", "fraud-2", until=200)
    whole, last = Counter[str](), T
    async with source_of(store) as source:
        everything, _ = await _at(source, store, 200, str(T))
        cursor = str(T)
        for seconds in (12, 13, 40, 41, 99, 200):
            windows, after = await _at(source, store, seconds, cursor)
            again, _ = await _at(source, store, seconds, cursor)
            assert windows == again
            whole.update(w.id for w in windows)
            assert float(after) >= last
            cursor, last = after, float(after)
    assert list(whole) == [w.id for w in everything]
    assert set(whole.values()) == {1}
    assert len(everything) == 19


async def _at(source: PrometheusSource, store: Store, seconds: float, cursor: str) -> tuple[list[EndpointWindow], str]:
    store.now = lambda: T + seconds
    return await source.windows(cursor)


async def test_no_sample_of_the_canary_holds_the_cursor_and_loses_nothing() -> None:
    store = scraped(at(45), "fraud-1", until=60)
    async with source_of(store) as source:
        assert await source.windows(str(T)) == ([], f"{T:.3f}")
        scraped(store, "fraud-2", since=40, until=60)
        store.now = lambda: T + 62
        windows, cursor = await source.windows(str(T))
    stable = [(round(w.start - T), w.arms["stable"].requests) for w in windows]
    assert [start for start, _ in stable] == [0, 10, 20, 30, 40, 50]
    assert sum("canary" in w.arms for w in windows) == 2
    assert float(cursor) == T + 60


async def test_the_history_is_there_although_there_was_no_canary() -> None:
    async with source_of(scraped(at(35), "fraud-1", until=34)) as source:
        assert [w.arms["stable"].requests for w in await source.history(T)] == [11, 10, 11]


async def test_a_long_absence_is_read_in_pages() -> None:
    store = scraped(at(9000), "fraud-1", "fraud-2", until=8990)
    async with source_of(store) as source:
        windows, cursor = await source.windows(str(T))
    assert sum(w.arms["stable"].requests for w in windows) == 8990 + 450
    assert float(cursor) == T + 8990


async def test_latencies_come_from_the_buckets_of_a_histogram() -> None:
    store = scraped(at(35), "fraud-1", "fraud-2", until=34)
    for seconds in (5, 15):
        for edge, count in (("0.1", 8 * seconds), ("+Inf", 9 * seconds)):
            name = "http_request_duration_seconds_bucket"
            store.add(name, T + seconds, count, deployment="fraud-2", le=edge)
    async with source_of(store, latency=LATENCY) as source:
        windows, _ = await source.windows(str(T))
    latency = windows[1].arms["canary"].to_arm().latency
    assert latency is not None
    assert (latency.count, latency.slower_than(0.1)) == (90, 10)


async def test_the_placeholders_are_filled_and_nothing_in_them_is_syntax() -> None:
    store = scraped(at(35), "fraud-1", "fraud-2", until=34)
    async with prometheus(store) as url:
        selector = 'x{d="$deployment",v="$version",arm="$arm",path=~"/predict$"}'
        block = PrometheusMetrics(url=url, requests=selector, failures=selector)
        async with block.get_source("prod", {"canary": Observed('a"b\\c')}) as source:
            await source.history(T)
    assert store.asked[1].startswith('x{d="a\\"b\\\\c",v="",arm="canary",path=~"/predict$"}[')


async def test_a_bearer_token_is_sent_and_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    store = scraped(at(35), "fraud-1", "fraud-2", until=34)
    store.token = "planted-token"
    async with source_of(store, token=SecretStr("planted-token")) as source:
        assert len((await source.windows(str(T)))[0]) == 3
        store.token = "planted-other"
        with pytest.raises(AuthenticationFailed) as caught:
            await source.windows(str(T))
    assert "planted" not in f"{caught.value!r}{caught.value.__cause__!r}{caplog.text}"


async def test_prometheus_that_is_down_is_an_error_that_leaves_the_cursor_good(without_waits: None) -> None:
    store = scraped(at(35), "fraud-1", "fraud-2", until=34)
    async with source_of(store) as source:
        store.down = True
        with pytest.raises(ProviderUnavailable):
            await source.windows(str(T))
        store.down = False
        assert len((await source.windows(str(T)))[0]) == 3


async def test_something_that_is_not_prometheus_is_named() -> None:
    app = Starlette(routes=[Route("/api/v1/query", lambda _: PlainTextResponse("{}"), methods=["POST"])])
    async with serve(app) as url, PrometheusMetrics(url=url, requests="a", failures="b").get_source("e", {}) as source:
        with pytest.raises(ProviderError, match="not Prometheus"):
            await source.cursor()


@pytest.mark.parametrize(
    "selector",
    ["sum(http_requests_total)", "rate(x[1m])", "x[1m]", "x offset 5m", "a + b", "x{", 'x{a="b"} or y', "{}", ""],
)
def test_only_plain_selectors_are_taken(selector: str) -> None:
    with pytest.raises(ValidationError, match="raw counters"):
        PrometheusMetrics(url="http://127.0.0.1:9090", requests=selector, failures="x")


def test_a_plain_selector_may_hold_anything_in_its_strings() -> None:
    selector = 'x:y_total{path=~"/a{2}(b|c)[0-9]", note="say \\"hi\\" {}"}'
    assert PrometheusMetrics(url="http://127.0.0.1:9090", requests=selector, failures="x").requests == selector


def test_a_token_never_leaves_in_clear() -> None:
    with pytest.raises(ValidationError, match="plain http"):
        PrometheusMetrics(url="http://prometheus.example.com", requests="x", failures="y")


# --- the real one ----------------------------------------------------------------------------------------------------


class Exporter:
    """Counters of two deployments, as a server shows them."""

    def __init__(self) -> None:
        self.counters: Counter[tuple[str, str]] = Counter()

    def text(self) -> str:
        lines = [
            f'http_requests_total{{deployment="{deployment}",status="{status}"}} {count}'
            for (deployment, status), count in sorted(self.counters.items())
        ]
        return "\n".join(["# TYPE http_requests_total counter", *lines, ""])


@asynccontextmanager
async def real_prometheus(exporter: Exporter, directory: Path) -> AsyncIterator[str]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("NOT RUN: there is no `prometheus` on the PATH (apt install prometheus)")
    app = Starlette(routes=[Route("/metrics", lambda _: PlainTextResponse(exporter.text()))])
    async with serve(app) as target:
        address = f"127.0.0.1:{free_port()}"
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: models, static_configs: [{{targets: ['{target[7:]}']}}]}}]\n"
        )
        process = await asyncio.create_subprocess_exec(
            *(binary, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"),
            f"--web.listen-address={address}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=(directory / "log").open("wb"),
        )
        try:
            await eventually(lambda: _is_ready(f"http://{address}/-/ready"))
            yield f"http://{address}"
        finally:
            process.terminate()
            await process.wait()


async def _is_ready(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            return (await client.get(url)).is_success
        except httpx.TransportError:
            return False


@pytest.mark.slow
async def test_the_real_prometheus_counts_every_request_once(tmp_path: Path) -> None:
    exporter = Exporter()
    exporter.counters.update({("fraud-1", "200"): 500, ("fraud-2", "200"): 40})
    async with real_prometheus(exporter, tmp_path) as url:
        block = PrometheusMetrics(url=url, requests=REQUESTS, failures=FAILURES, window_seconds=1, delay_seconds=1)
        async with block.get_source("prod", ARMS) as source:
            cursor = await source.cursor()
            await eventually(lambda: _seen(source))
            total, asked = Counter[str](), Counter[str]()
            for round_ in range(60):
                if round_ < 40:
                    exporter.counters["fraud-1", "200"] += 9
                    exporter.counters["fraud-2", "200"] += 1
                    asked.update(stable=9, canary=1)
                    if round_ % 10 == 5:  # its first failure makes a series that was not there before
                        exporter.counters["fraud-2", "503"] += 1
                        asked.update(canary=1, failures=1)
                    exporter.counters["fraud-2", "429"] += 5
                if round_ == 20:  # the server starts again; nobody scraped in between
                    await _scraped_again(source)
                    exporter.counters = Counter(dict.fromkeys(exporter.counters, 0))
                await asyncio.sleep(0.1)
                windows, cursor = await source.windows(cursor)
                for window in windows:
                    total.update({arm: counts.requests for arm, counts in window.arms.items()})
                    total.update(failures=sum(counts.failures for counts in window.arms.values()))
            deadline = time.monotonic() + 20
            while total["stable"] < asked["stable"] and time.monotonic() < deadline:
                windows, cursor = await source.windows(cursor)
                for window in windows:
                    total.update({arm: counts.requests for arm, counts in window.arms.items()})
                    total.update(failures=sum(counts.failures for counts in window.arms.values()))
                await asyncio.sleep(0.2)
    assert +total == asked


async def _seen(source: PrometheusSource) -> bool:
    windows = await source._matrix("http_requests_total", time.time() - 30, time.time())
    return bool(windows)


async def _scraped_again(source: PrometheusSource) -> None:
    """Wait until a scrape that began after this moment has been stored."""
    now = time.time()

    async def scraped() -> bool:
        found = await source._matrix("http_requests_total", now - 30, time.time() + 1)
        return bool(found) and all(series.samples[-1][0] > now for series in found)

    await eventually(scraped)
