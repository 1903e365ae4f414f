"""Prometheus, or anything that answers its HTTP API, as the source of a rollout's windows.

What is asked for are the raw samples of the counters (`selector[range]`), never rates: a difference of two samples is
exact, a gap is seen as one, and the same question has the same answer later. API: prometheus.io/docs, "HTTP API",
"Instant queries"; POST is used, since selectors may be long.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from string import Template
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator, model_validator

from prefect_modeldeploy.block_schemas import SchemaOnce
from prefect_modeldeploy.errors import Problem, ProviderError
from prefect_modeldeploy.sources.base import Observed, run_logger
from prefect_modeldeploy.sources.counters import LOOKBACK_SECONDS, ArmSeries, Series, counts_of
from prefect_modeldeploy.traffic.windows import ArmCounts, EndpointWindow
from prefect_modeldeploy.transport import Logger, RetryPolicy, SecretHeader, Transport
from prefect_modeldeploy.urls import check_base_url

PATH = "/api/v1/query"
PAGE_SECONDS = 3600.0
KEPT_SECONDS = 86_400.0
"""Nothing older is read, whatever the cursor says."""

POLICY = RetryPolicy(attempts=2, total_seconds=5.0)
"""The rollout asks again at its next look, so one call need not try for long."""

_SELECTOR = re.compile(r"[A-Za-z_:][\w:]*(\{[^{}]*\})?|\{[^{}]+\}", re.ASCII)


class PrometheusMetrics(SchemaOnce, Block):
    """Counters in Prometheus that say what each arm experienced.

    Each field names raw counters by a plain series selector, the same for both arms but for the placeholders
    `$deployment`, `$version` and `$arm` (`stable` or `canary`). What counts as a request and as a failure is the one
    table of the docs: leave 401, 403 and 429 out of `requests`; 5xx are failures, other 4xx are not.

    Attributes:
        url: Address of Prometheus.
        requests: Selector of the counters of an arm's requests.
        failures: Selector of the counters of those that failed.
        latency: Selector of the buckets of a latency histogram in seconds.
        token: Bearer token.
        window_seconds: Length of a window.
        delay_seconds: How late a sample may show.
        allow_http: Allow plain http to another machine.

    Example:
        ```python
        from prefect_modeldeploy.sources import PrometheusMetrics

        metrics = PrometheusMetrics.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Prometheus Metrics"
    _block_type_slug = "modeldeploy-prometheus-metrics"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/measurements-from-elsewhere.md"  # type: ignore[assignment]
    _description = "Judges rollouts by counters that Prometheus scrapes, instead of the gateway's own measurements."

    url: str = Field(description="Address of Prometheus, such as https://prometheus.example.com.")
    requests: str = Field(
        description="Series selector of the counters of an arm's requests, such as "
        'http_requests_total{deployment="$deployment",status!~"401|403|429"}; $deployment, $version and $arm are the '
        "arm's own."
    )
    failures: str = Field(
        description="Series selector of the counters of those that failed, such as "
        'http_requests_total{deployment="$deployment",status=~"5.."}.'
    )
    latency: str | None = Field(
        None,
        description="Series selector of the buckets of a latency histogram in seconds, such as "
        'http_request_duration_seconds_bucket{deployment="$deployment"}. None: latency is not judged.',
    )
    token: SecretStr | None = Field(None, description="Bearer token. None: Prometheus asks for none.")
    window_seconds: float = Field(
        15.0, ge=1, le=600, description="Length of a window in seconds: the interval at which Prometheus scrapes."
    )
    delay_seconds: float = Field(
        10.0, ge=0, le=600, description="Seconds after which no sample of a moment is missing: the scrape's timeout."
    )
    allow_http: bool = Field(False, description="Allow plain http to another machine: the token goes in clear.")

    @field_validator("requests", "failures", "latency")
    @classmethod
    def _plain_selector(cls, selector: str | None) -> str | None:
        # Resets are seen series by series: a sum that falls because a server went away would look like one.
        if selector is not None and not _SELECTOR.fullmatch(_without_strings(selector)):
            raise ValueError(
                f'{selector!r} is not a plain series selector such as name{{label="value"}}: name the raw counters, '
                "without functions, sums, ranges or offsets"
            )
        return selector

    @model_validator(mode="after")
    def _address(self) -> "PrometheusMetrics":
        check_base_url("url", self.url, allow_http=self.allow_http)
        return self

    @asynccontextmanager
    async def get_source(self, endpoint: str, arms: Mapping[str, Observed]) -> AsyncIterator["PrometheusSource"]:
        """Yield the windows of these arms.

        Args:
            endpoint: Name for the windows' ids.
            arms: Who answers, by arm.
        """
        logger = run_logger()
        async with Transport(
            "prometheus",
            self.url,
            auth=SecretHeader(self.token, scheme="Bearer") if self.token else None,
            secrets=[self.token] if self.token else [],
            policy=POLICY,
            timeout=10.0,
            allow_http=self.allow_http,
            logger=logger,
        ) as transport:
            yield PrometheusSource(self, transport, endpoint, arms, logger)


class PrometheusSource:
    """The counters of one rollout's arms. A cursor is a time in seconds since the epoch, by Prometheus' own clock."""

    def __init__(
        self,
        block: PrometheusMetrics,
        transport: Transport,
        endpoint: str,
        arms: Mapping[str, Observed],
        logger: Logger,
    ) -> None:
        self._block, self._transport, self._endpoint, self._logger = block, transport, endpoint, logger
        self._arms = arms

    async def cursor(self) -> str:
        """Now. Asks for each selector too, so that one which Prometheus does not understand is found at the start."""
        now = await self._now()
        for selector in filter(None, (self._block.requests, self._block.failures, self._block.latency)):
            await self._matrix(_filled(selector, "stable", Observed("any")), now - 1, now)
        return f"{now:.3f}"

    async def windows(self, after: str | None) -> tuple[list[EndpointWindow], str]:
        """The windows up to where both arms were measured; a selector that finds nothing holds the cursor."""
        begin, windows, last = float(after or 0.0), list[EndpointWindow](), dict.fromkeys(self._arms, 0.0)
        async for found, seen in self._pages(begin):
            windows += found
            last = {arm: max(last[arm], seen[arm]) for arm in self._arms}
        # The window that holds the last sample of the arm that was seen least recently is the last that is complete.
        until = min(last.values(), default=0.0)
        windows = [window for window in windows if window.start < until]
        width = self._block.window_seconds
        measured = max(begin, -(-until // width) * width)
        return windows, f"{measured:.3f}"

    async def history(self, since: float) -> list[EndpointWindow]:
        """Everything that is known from `since` on."""
        return [window async for found, _ in self._pages(since) for window in found]

    def settled(self, cursor: str) -> float:
        """The cursor is that time."""
        return float(cursor)

    async def _pages(self, begin: float) -> AsyncIterator[tuple[list[EndpointWindow], dict[str, float]]]:
        """Windows, and when each arm was last seen in them, an hour at a time."""
        width, now = self._block.window_seconds, await self._now()
        end = (now - self._block.delay_seconds) // width * width
        start = -(-max(begin, end - KEPT_SECONDS) // width) * width
        while start < end:
            stop = min(end, start + -(-PAGE_SECONDS // width) * width)
            arms = {arm: await self._series(arm, start, stop) for arm in self._arms}
            counts = {arm: counts_of(series, start, stop, width) for arm, series in arms.items()}
            yield self._joined(counts), {arm: series.last for arm, series in arms.items()}
            start = stop

    def _joined(self, counts: Mapping[str, Mapping[int, ArmCounts]]) -> list[EndpointWindow]:
        slices = sorted({number for by_slice in counts.values() for number in by_slice})
        width, found = self._block.window_seconds, list[EndpointWindow]()
        for number in slices:
            arms = {arm: by_slice[number] for arm, by_slice in counts.items() if number in by_slice}
            identity = f"{self._endpoint}@{number * width:.3f}+{width:g}"
            found.append(EndpointWindow(identity, self._endpoint, {}, arms, former_end=number * width))
        return found

    async def _series(self, arm: str, begin: float, end: float) -> ArmSeries:
        async def read(selector: str | None) -> list[Series]:
            if selector is None:
                return []
            return await self._matrix(_filled(selector, arm, self._arms[arm]), begin - LOOKBACK_SECONDS, end)

        block = self._block
        return ArmSeries(await read(block.requests), await read(block.failures), await read(block.latency))

    async def _matrix(self, selector: str, begin: float, end: float) -> list[Series]:
        milliseconds = round((end - begin) * 1000)
        result = await self._query(f"{selector}[{milliseconds}ms]", time=f"{end:.3f}")
        return [
            Series(one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in result
            if "values" in one
        ]

    async def _now(self) -> float:
        at, _ = await self._query("time()")
        return float(at)

    async def _query(self, query: str, **more: str) -> list[Any]:
        answer = await self._transport.call("POST", PATH, idempotent=True, data={"query": query, **more})
        try:
            found: list[Any] = answer["data"]["result"]
        except (TypeError, KeyError):
            problem = Problem(f"the answer is not Prometheus': {str(answer)[:200]}")
            raise ProviderError("prometheus", f"POST {PATH}", problem) from None
        for warning in answer.get("warnings") or ():
            self._logger.warning("prometheus: %s", warning)
        return found


def _filled(selector: str, arm: str, observed: Observed) -> str:
    values = {"deployment": observed.deployment, "version": observed.version or "", "arm": arm}
    return Template(selector).safe_substitute({name: _escaped(value) for name, value in values.items()})


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")


def _without_strings(selector: str) -> str:
    """The selector with empty strings, so that nothing in them is taken for syntax."""
    return re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])*\'', '""', selector.strip())
