"""What is concluded from Baseten's metrics, which come late; and the page's example, run."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.baseten import BasetenCredentials, MetricQuery
from prefect_modeldeploy.providers.baseten.answers import Metrics
from prefect_modeldeploy.providers.baseten.metrics import LAG_SECONDS, REQUESTS, idle_seconds, window
from tests.providers.baseten_kit import baseten, make_truss, seeded, spec_of

START = 1_800_000_000
NONE = [None, None]


def series(*steps: list[float | None], unit: str = "COUNT", labels: Any = None) -> Metrics:
    """Steps of a minute each: requests answered, and failed."""
    sets = [{"status": "2xx"}, {"status": "5xx"}] if labels is None else labels
    return Metrics.model_validate(
        {
            "start_epoch_millis": START * 1000,
            "end_epoch_millis": (START + 60 * len(steps)) * 1000,
            "mode": "SERIES",
            "step_seconds": 60,
            "metric_descriptors": [
                {"name": "baseten_replicas_active", "unit_hint": "COUNT", "kind": "GAUGE", "label_sets": [{}]},
                {"name": REQUESTS, "unit_hint": unit, "kind": "COUNTER", "label_sets": sets},
            ],
            "metric_values": [
                {"start_epoch_millis": (START + 60 * at) * 1000, "values": [[1.0], step]}
                for at, step in enumerate(steps)
            ],
        }
    )


@pytest.mark.parametrize(
    ("steps", "idle"),
    [
        ([[1, 0], *([[0, 0]] * 9)], 9 * 60 - LAG_SECONDS),  # the last three minutes say nothing yet
        ([[0, 0]] * 10, 10 * 60 - LAG_SECONDS),  # at least since the window began
        ([[0, 0], [0, 3], *([[0, 0]] * 8)], 8 * 60 - LAG_SECONDS),  # a failed request is a request
        ([*([[0, 0]] * 9), [1, 0]], 0.0),
        ([[1, 0], [0, 0], *([NONE] * 8)], 60.0),  # known until the second minute only
        ([NONE] * 10, None),
        ([], None),
    ],
)
def test_idleness_is_never_claimed_for_a_time_that_is_not_known(steps: Any, idle: float | None) -> None:
    assert idle_seconds(series(*steps), now=START + 60 * len(steps)) == idle


def test_a_window_holds_what_both_arms_experienced() -> None:
    found = window(series([90, 1]), series([9, 1]), "a-b")
    assert found is not None
    assert (found.seconds, found.baseline.requests, found.canary.requests, found.canary.failures) == (60.0, 91, 10, 1)
    assert found.id == f"a-b@{START}.000-{START + 60}.000"
    silent = window(series([80, 0]), series(NONE), "a-b")
    assert silent is not None
    assert (silent.baseline.requests, silent.canary.requests) == (80, 0)
    assert window(series(NONE), series(NONE), "a-b") is None
    assert window(series(), series(), "a-b") is None


def test_rates_become_counts_and_status_codes_are_understood() -> None:
    labels = [{"status_code": "200"}, {"status_code": "503"}, {"status_code": "429"}]
    rate = series([2.0, 0.5, 1.0], unit="PER_SECOND", labels=labels)
    found = window(rate, rate, "x")
    assert found is not None
    assert (found.canary.requests, found.canary.failures) == (150, 30)  # 429 is neither


async def test_idleness_and_windows_come_from_the_vendors_metrics() -> None:
    async with baseten() as (sandbox, client):
        this = seeded(sandbox)
        assert await client.idle_seconds(this) == pytest.approx(86400 - LAG_SECONDS, abs=1)
        await client.predict(this, {})
        assert await client.idle_seconds(this) == 0.0
        now = time.time()
        assert await client.windows(this, this, since=now) == ([], now)  # too late to be known yet
        [found], cursor = await client.windows(this, this, since=now - 600)
        assert found.canary.requests == 0
        assert now - LAG_SECONDS - 61 < cursor <= time.time() - LAG_SECONDS
        assert (await client.windows(this, this, since=cursor))[0] == []
        with pytest.raises(InvalidInput, match=r"CURRENT takes no start"):
            await client.metrics(this, client_query(start_epoch_millis=1))


def client_query(**fields: Any) -> MetricQuery:
    from prefect_modeldeploy.providers.baseten.requests import checked

    return checked(MetricQuery, fields)


PAGE = Path(__file__).parents[2] / "prefect_modeldeploy" / "docs" / "providers" / "baseten.md"


@pytest.mark.usefixtures("prefect_server")
async def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    code = PAGE.read_text().split("```python\n")[1].split("```")[0]
    async with baseten() as (sandbox, _):
        ready = sandbox["baseten"]
        block = BasetenCredentials(**{name: ready[name] for name in ("api_key", "base_url", "inference_url")})
        await block.save("baseten", overwrite=True)
        names: dict[str, Any] = {}
        await asyncio.to_thread(exec, code, names)
        serving = await names["put_into_production"](spec_of(make_truss(tmp_path)))
        assert (serving.name, serving.environment, serving.ready) == ("v2", "production", True)
