"""The Baseten emulator, given anything: the vendor's envelope, never a 5xx of its own, never a traceback."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from prefect_modeldeploy.sandbox.baseten import BasetenEmulator
from tests.sandbox.kit import RunningSandbox, running_sandbox

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "min_replica", "max_replica", "scale_down_delay", "name", "deployment_id", "autoscaling_settings",
    "promotion_settings", "rolling_deploy_config", "max_surge_percent", "max_unavailable_percent", "source", "kind",
    "deployment", "config", "s3_key", "environment_name", "deployment_name", "labels", "is_development", "query",
    "variables", "value", "policy", "environment_settings_update", "instance_type_id", "preserve_env_instance_type",
    "model_id", "model_input", "limit", "search_pattern", "includes", "manage_access", "is_restricted",
    "autoscaling_schedule_settings", "schedules", "timezone", "priority", "traffic_routing_settings",
)  # fmt: skip
GOOD = st.sampled_from(
    ["production", "staging", "model_archive", "KEEP", "1x4", "4x16", "{model}", "{deployment}", "{upload}", "x", 0, 1]
)
BODIES = st.recursive(
    GOOD | JSON,
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, min_size=1, max_size=6) | st.lists(inner, max_size=2),
    max_leaves=10,
)
QUERIES = st.dictionaries(
    st.sampled_from(
        ["name", "limit", "mode", "metrics", "start_epoch_millis", "end_epoch_millis", "direction", "cursor",
         "includes", "search_pattern", "min_level", "output_format", "uploads", "partNumber", "signature"]
    ),
    st.sampled_from(["CURRENT", "SUMMARY", "SERIES", "asc", "1", "-1", "raw", "(", "baseten_replicas_active"])
    | st.integers().map(str) | st.text(max_size=8),
    max_size=4,
)  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def here() -> AsyncIterator[tuple[RunningSandbox, httpx.AsyncClient]]:
    async with (
        running_sandbox("baseten") as running,  # fails in the end if the emulator had a fault of its own
        httpx.AsyncClient(trust_env=False, timeout=60, verify=False) as http,
    ):
        yield running, http


def all_routes() -> list[tuple[str, str]]:
    """Every method and path that the emulator has."""
    routes = BasetenEmulator.routes(BasetenEmulator.__new__(BasetenEmulator))
    return sorted(
        (method, route.path) for route in routes if isinstance(route, Route) for method in route.methods or () if
        method != "HEAD"
    )  # fmt: skip


def filled(path: str, values: dict[str, str], other: str) -> str:
    """A path with real ids, or with something else."""
    for name, value in values.items():
        path = path.replace("{" + name + "}", value)
    return path.replace("{replica}", other).replace("{name}", other).replace("{request}", other)


def with_ids(body: Any, ids: dict[str, str]) -> str:
    text = json.dumps(body)
    for name, value in ids.items():
        text = text.replace("{" + name + "}", value)
    return text


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
async def test_any_request_is_answered_in_the_vendors_way(
    here: tuple[RunningSandbox, httpx.AsyncClient], data: st.DataObject
) -> None:
    sandbox, http = here
    ready = sandbox["baseten"]
    method, template = data.draw(st.sampled_from(all_routes()))
    real = data.draw(st.integers(0, 5)) > 0
    odd = data.draw(st.sampled_from(["x", "%00", "..%2f", "ä", "production", "development"]))
    ids = {
        "model": ready["seed"]["model_id"] if real else odd,
        "deployment": ready["seed"]["deployment_id"] if real else odd,
        "environment": data.draw(st.sampled_from(["production", "staging", odd])),
        "team": odd,
        "bucket": "baseten-sandbox-uploads",
        "key:path": "uploads/x",
        "route:path": "v1/x",
    }
    content = data.draw(BODIES.map(lambda body: with_ids(body, ids).encode()) | st.binary(max_size=20))
    url = ready["base_url"] + filled(template, ids, odd)
    headers = {"authorization": f"Bearer {ready['api_key']}", "content-type": "application/json"}
    answer = await http.request(method, url, content=content, params=data.draw(QUERIES), headers=headers)
    assert answer.status_code < 500 or "inference" in url or "/m/" in url, (method, url, content, answer.text)
    if answer.status_code >= 400 and "/s3/" not in url and "/download/" not in url:
        assert set(answer.json()) <= {"code", "message", "error", "error_code", "retry_after"}, answer.text
    assert "Traceback" not in answer.text
    if method == "DELETE" or "deactivate" in url or answer.status_code >= 500:
        await sandbox.control.reset("baseten")
