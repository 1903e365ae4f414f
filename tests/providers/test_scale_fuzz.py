"""Whatever is sent to the Scale emulator, it answers in the vendor's envelope: never a 5xx, never a traceback."""

import asyncio
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_modeldeploy.sandbox.house import House
from prefect_modeldeploy.sandbox.scale import ScaleEmulator
from tests.providers.scale_kit import scale_sandbox
from tests.sandbox.fuzz import sendings
from tests.sandbox.kit import RunningSandbox

__all__ = ["scale_sandbox"]

WORKERS = {"vendor": "LAUNCH", "min_workers": 0, "max_workers": 2, "per_worker": 1}
IMAGE = {"registry": "r", "repository": "p", "tag": "t", "command": ["x"]}
FIELDS = {
    "name": "n",
    "alias": "a",
    "account_id": "",
    "model_type": "GENERIC",
    "model_vendor": "launch",
    "vendor_configuration": WORKERS,
    "vendor": "LAUNCH",
    "bundle_config": IMAGE,
    "model_image": IMAGE,
    "model_infra": WORKERS,
    "deployment_metadata": {"a": 1},
    "model_creation_parameters": {"a": 1},
    "wait_for_ready": False,
    "stream": True,
    "model_deployment_id": "",
    "new_model_deployment_id": "",
    "on_conflict": "swap",
    "endpoint_type": "SYNC",
    "model": "launch/n",
    "args": {"x": 1},
    "prompt": "p",
    "texts": ["a"],
    "query": "q",
    "chunks": ["a"],
}
QUERIES = (
    *("limit", "page", "sort_by", "view", "account_id", "model_type", "model_group_id", "chunks", "start_date"),
    *("end_date", "starting_after", "ending_before", "sort_order", "name", "model_vendor"),
)


def routes() -> dict[str, list[str]]:
    """The emulator's own routes; things to hit shall live on, so that few requests delete."""
    emulator = House(["scale"], speed=0).emulators["scale"]
    assert isinstance(emulator, ScaleEmulator)
    found: dict[str, list[str]] = {}
    for route in emulator.routes():
        template = "/".join("{}" if part.startswith("{") else part for part in route.path.split("/"))  # type: ignore[attr-defined]
        if route.methods == {"DELETE"}:  # type: ignore[attr-defined]
            continue
        found.setdefault(template, []).extend(sorted(route.methods - {"HEAD", "DELETE"}))  # type: ignore[attr-defined]
    return found


def things(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One of each kind of thing, for the requests to hit."""
    owned = {"account_id": fields["account_id"], "name": "n"}
    template = {"endpoint_type": "SYNC", "vendor_configuration": {"bundle_config": {**IMAGE, "image": "i"}}}
    return {
        "/v4/serving": {"name": "n", "alias": "a", "model_deployment_id": fields["model_deployment_id"]},
        "/v4/model-groups": owned,
        "/v4/model-templates": {**owned, "model_type": "GENERIC", **template},
        "/v5/models": {"name": "n", "vendor_configuration": {"model_image": IMAGE, "model_infra": {}}},
    }


def make(http: httpx.Client, path: str, body: dict[str, Any]) -> str:
    made = http.post(path, json=body)
    assert made.status_code == 200, made.text
    return str(made.json().get("model_server_id") or made.json()["id"])


async def test_no_request_is_too_strange(scale_sandbox: RunningSandbox) -> None:
    await scale_sandbox.control.reset()
    scale = scale_sandbox["scale"]
    facts = (await scale_sandbox.control.state("scale"))["facts"]
    fields = {
        **FIELDS,
        "account_id": facts["account_id"],
        "model_deployment_id": facts["deployment_id"],
        "new_model_deployment_id": facts["deployment_id"],
    }
    headers = {"x-api-key": scale["api_key"], "x-selected-account-id": scale["account_id"]}
    statuses: dict[int, int] = {}

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        answer = data.draw(sendings(table, ids, fields, QUERIES)).send(http)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert list(answer.json()) == ["detail"], answer.text

    table = routes()
    with httpx.Client(base_url=scale["base_url"], headers=headers, trust_env=False) as http:
        ids = {
            "/v4/models/": [facts["model_instance_id"], facts["deployment_id"], "n"],
            "/deployments/": [facts["deployment_id"]],
            "/v4/model-deployments/": [facts["deployment_id"]],
            "/v4/serving/a/": ["a"],
            **{f"{path}/": [make(http, path, body)] for path, body in things(fields).items()},
        }
        await asyncio.to_thread(fuzz)
    print(f"\nstatuses: {dict(sorted(statuses.items()))}")
    assert {200, 404, 405, 422} <= set(statuses)
    assert await scale_sandbox.control.crashes() == []
