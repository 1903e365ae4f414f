"""The Baseten emulator itself: hosts, credentials, life cycles, replicas, S3, and what it keeps."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conftest import eventually
from tests.providers.baseten_kit import baseten, client_of, make_truss, seeded, spec_of
from tests.sandbox.kit import RunningSandbox, running_sandbox, sandbox_process

NO_SURGE = {"rolling_deploy_config": {"max_surge_percent": 0}}


def http_of(sandbox: RunningSandbox, scheme: str = "Api-Key", key: str | None = None) -> httpx.AsyncClient:
    ready = sandbox["baseten"]
    headers = {"authorization": f"{scheme} {key or ready['api_key']}"}
    return httpx.AsyncClient(base_url=ready["base_url"], headers=headers, trust_env=False, timeout=30)


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[tuple[RunningSandbox, httpx.AsyncClient]]:
    async with running_sandbox("baseten") as sandbox, http_of(sandbox) as http:
        yield sandbox, http


@pytest_asyncio.fixture
async def here(running: "Here") -> "Here":
    await running[0].control.reset()
    return running


Here = tuple[RunningSandbox, httpx.AsyncClient]


async def test_it_starts_as_users_start_it_and_is_ready_with_a_healthy_deployment(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path, "baseten") as (sandbox, _), client_of(sandbox) as client:
        ready = sandbox["baseten"]
        assert set(ready) == {"base_url", "inference_url", "api_key", "seed"}
        assert set(ready["seed"]) == {"model_id", "deployment_id"}
        assert (await client.get(seeded(sandbox))).ready


@pytest.mark.parametrize("scheme", ["Api-Key", "Bearer", "bearer"])
async def test_both_forms_of_the_key_are_taken_on_both_hosts(here: Here, scheme: str) -> None:
    sandbox, _ = here
    async with http_of(sandbox, scheme) as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.post("/inference/production/predict", json={})).status_code == 200


async def test_a_wrong_key_is_refused_in_the_words_of_each_host(here: Here) -> None:
    sandbox, _ = here
    async with http_of(sandbox, key="wrong") as http:
        management, inference = await http.get("/v1/models"), await http.post("/inference/production/predict", json={})
    assert (management.status_code, management.json()) == (
        403, {"code": "PERMISSION_DENIED", "message": "Authorization error"},
    )  # fmt: skip
    assert (inference.status_code, inference.json()["error_code"]) == (401, "unauthorized")


async def test_a_model_is_reached_at_every_stand_in_for_its_host(here: Here) -> None:
    sandbox, http = here
    seed = sandbox["baseten"]["seed"]
    model, own = seed["model_id"], seed["deployment_id"]
    for path in (
        f"/inference/model-{model}/production/predict", f"/inference/m/{model}/environments/production/predict",
        f"/m/{model}/deployment/{own}/predict", f"/inference/deployment/{own}/predict",
        "/inference/production/predict", f"/inference/regional/{model}/production/predict",
        f"/inference/model-{model}/production/sync/v1/chat",
    ):  # fmt: skip
        answer = await http.post(path, json={"x": 4})
        assert (answer.status_code, answer.json()["sum"]) == (200, 4), path
        assert answer.headers["x-baseten-request-id"]


async def test_a_rate_limit_comes_in_its_own_envelope(here: Here) -> None:
    sandbox, http = here
    await sandbox.control.fault(kind="status", status=429)
    answer = await http.get("/v1/models")
    assert answer.json() == {"error": "Rate limit exceeded. Please try again later.", "retry_after": 1}


async def test_a_life_passes_all_words_of_the_vendor() -> None:
    async with running_sandbox("baseten", speed=0.001) as sandbox, http_of(sandbox) as http:
        model = sandbox["baseten"]["seed"]["model_id"]
        url = f"/v1/models/{model}/deployments/production"

        async def status() -> str:
            return str((await http.get(url)).json()["status"])

        assert await status() == "ACTIVE"
        assert (await http.post(f"{url}/deactivate")).json() == {"success": True, "no_op": False}
        assert await status() == "DEACTIVATING"
        await sandbox.control.advance(9)
        assert await status() == "INACTIVE"
        gone = await http.post("/inference/production/predict", json={})
        assert (gone.status_code, gone.json()["error_code"]) == (404, "model_does_not_exist")
        await http.post(f"{url}/activate")
        words = [await status()]
        for seconds in (61, 31):
            await sandbox.control.advance(seconds)
            words.append(await status())
        assert words == ["DEPLOYING", "LOADING_MODEL", "ACTIVE"]
        await http.patch(f"{url}/autoscaling_settings", json={"min_replica": 0})
        await sandbox.control.advance(1000)
        assert await status() == "SCALED_TO_ZERO"
        assert (await http.post("/inference/production/wake")).status_code == 202
        assert await status() == "WAKING_UP"
        await sandbox.control.advance(30)
        assert await status() == "ACTIVE"


async def test_replicas_follow_the_load(here: Here) -> None:
    sandbox, http = here
    seed = sandbox["baseten"]["seed"]
    await sandbox.control.behave(latency_seconds=0.4)
    load = [asyncio.create_task(http.post("/inference/production/predict", json=number)) for number in range(8)]

    async def all_there() -> bool:
        found = await http.get(f"/v1/models/{seed['model_id']}/deployments/{seed['deployment_id']}")
        return bool(found.json()["active_replica_count"] == 4)

    await eventually(all_there)
    assert [task.json()["sum"] for task in await asyncio.gather(*load)] == list(range(8))


async def test_a_replica_is_replaced_when_it_is_terminated(here: Here) -> None:
    sandbox, http = here
    seed = sandbox["baseten"]["seed"]
    url = f"/v1/models/{seed['model_id']}/deployments/{seed['deployment_id']}"
    assert (await http.delete(f"{url}/replicas/{seed['deployment_id'][:5]}")).json() == {"success": True}
    assert (await http.get(url)).json()["active_replica_count"] == 1
    assert (await http.delete(f"{url}/replicas/other")).json()["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/deployments/production/autoscaling_settings", {"min_replica": -1}),
        ("PATCH", "/deployments/production/autoscaling_settings", {"min_replica": 9}),
        ("PATCH", "/deployments/production/autoscaling_settings", {"unknown": 1}),
        ("PATCH", "/environments/production", {"promotion_settings": {"ramp_up_while_promoting": True}}),
        ("PATCH", "/environments/production", {"promotion_settings": NO_SURGE}),
        ("POST", "/environments", {"name": "production"}),
        ("POST", "/environments", {"name": "Not A Name"}),
        ("DELETE", "/environments/production", None),
        ("DELETE", "/deployments/production", None),
        ("POST", "/environments/production/pause_promotion", None),
        ("POST", "/deployments", {"source": {"kind": "model_archive", "deployment": {"config": {}}, "s3_key": "none"}}),
        ("GET", "/deployments/production/logs?search_pattern=(", None),
        ("GET", "/deployments/production/metrics?mode=CURRENT&start_epoch_millis=1", None),
    ],
)  # fmt: skip
async def test_a_bad_request_is_a_validation_error_and_changes_nothing(
    here: Here, method: str, path: str, body: Any
) -> None:
    sandbox, http = here
    model = sandbox["baseten"]["seed"]["model_id"]
    before = await http.get(f"/v1/models/{model}/environments/production")
    answer = await http.request(method, f"/v1/models/{model}{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
    assert (await http.get(f"/v1/models/{model}/environments/production")).json() == before.json()


async def test_s3_takes_only_what_is_signed_with_the_given_credentials(here: Here) -> None:
    sandbox, http = here
    model = sandbox["baseten"]["seed"]["model_id"]
    payload = {"deployment": {"config": {}}, "model_id": model}
    ticket = (await http.post("/v1/prepare_model_upload", json=payload)).json()
    url = f"{ticket['endpoint_url']}/{ticket['s3_bucket']}/{ticket['s3_key']}"
    unsigned = await http.put(url, content=b"x")
    assert (unsigned.status_code, "InvalidAccessKeyId" in unsigned.text) == (403, True)

    from prefect_modeldeploy.providers.baseten.signing import sign_put

    creds = ticket["creds"]
    key, secret, token = creds["aws_access_key_id"], creds["aws_secret_access_key"], creds["aws_session_token"]
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    for content, wrong, status, said in (
        (b"x", "no", 403, "SignatureDoesNotMatch"), (b"y", "", 400, "SHA256Mismatch"), (b"x", "", 200, ""),
    ):  # fmt: skip
        headers = sign_put(url, digest, ticket["s3_region"], key, secret + wrong, token)
        answer = await http.put(url, content=content, headers=headers)
        assert (answer.status_code, said in answer.text) == (status, True)
    again = await http.post("/v1/prepare_model_upload", json={**payload, "dry_run": True})
    assert set(again.json().values()) == {None}


async def test_the_world_outlives_the_sandbox(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with running_sandbox("baseten", state=state) as sandbox, client_of(sandbox) as client:
        created = await client.create(spec_of(make_truss(tmp_path / "truss")))
        await client.promote(created.id, environment="production")
    async with running_sandbox("baseten", state=state) as again, client_of(again) as client:
        kept = await client.get(created.id)
        assert (kept.environment, kept.ready) == ("production", True)
        assert (await client.predict(created.id, 5))["sum"] == 5
        assert (await client.create(spec_of(make_truss(tmp_path / "other"), "v3"))).id != created.id


async def test_an_upload_of_an_archive_is_the_same_whoever_packs_it(tmp_path: Path) -> None:
    async with baseten() as (sandbox, client):
        truss = make_truss(tmp_path / "one")
        (truss / "__pycache__").mkdir()
        (truss / "__pycache__" / "x.pyc").write_bytes(b"junk")
        await client.create(spec_of(truss, "a"))
        await client.create(spec_of(make_truss(tmp_path / "two"), "b"))
        uploads = [one for one in (await sandbox.control.table("baseten", "uploads")).values() if one["bytes"]]
        assert len({one["sha256"] for one in uploads}) == 1
