"""The control API: who may call it, what it refuses, and in which words."""

import stat
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, DeploymentStatus, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import AuthenticationFailed, Conflict, InvalidInput, NotFound, StaleEpoch
from prefect_modeldeploy.local.client import NodeClient
from tests.local.conftest import MODELS, RunningNode

ROUTES = [
    ("GET", "/v1/status"),
    ("GET", "/v1/deployments"),
    ("POST", "/v1/deployments"),
    ("DELETE", "/v1/deployments/x"),
    ("GET", "/v1/deployments/x/logs"),
    ("PUT", "/v1/endpoints/x/weights"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic {token}", "bearer {token}x", "{token}"])
async def test_without_the_token_nothing_gets_through(
    node: RunningNode, method: str, path: str, header: str | None
) -> None:
    token = node.home.token().get_secret_value()
    headers = {} if header is None else {"Authorization": header.format(token=token)}
    answer = await node.http.request(method, node.info.control_url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"error": {"code": "unauthorized", "message": "wrong or missing bearer token"}}
    assert token not in str(answer.headers)


async def test_the_client_says_that_the_token_is_wrong_and_shows_neither(node: RunningNode) -> None:
    wrong = SecretStr("a-wrong-token-that-is-long")
    async with NodeClient(node.info.control_url, wrong) as client:
        with pytest.raises(AuthenticationFailed) as caught:
            await client.list_deployments()
    assert wrong.get_secret_value() not in str(caught.value)
    assert node.home.token().get_secret_value() not in str(caught.value)


def test_secrets_are_for_their_owner_only(node: RunningNode) -> None:
    for name, mode in (("token", 0o600), ("node.json", 0o600), ("node.sqlite", 0o600), (".", 0o700)):
        assert stat.S_IMODE((node.home.directory / name).stat().st_mode) == mode, name


async def test_the_same_spec_twice_is_one_deployment(node: RunningNode) -> None:
    first = await node.deploy("twice", "toy_models:echo")
    again = await node.deploy("twice", "toy_models:echo")
    assert again.raw["replicas"] == first.raw["replicas"]
    with pytest.raises(Conflict, match="another spec"):
        await node.deploy("twice", "toy_models:double")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("source", {"source": None}),
        ("source", {"source": "not a source"}),
        ("options.pyhton", {"options": {"pyhton": "/usr/bin/python3"}}),
        ("options.concurrency", {"options": {"concurrency": 0}}),
        ("options.python_path.0", {"options": {"python_path": 3}}),
        ("resources.gpu_count", {"resources": Resources(gpu_count=1)}),
        ("env", {"env": {"NOT A NAME": "x"}}),
    ],
)
async def test_bad_input_names_the_field(node: RunningNode, field: str, fields: dict[str, Any]) -> None:
    spec = DeploymentSpec(name="bad", model="toy", **{"source": "toy_models:echo", **fields})
    with pytest.raises(InvalidInput) as caught:
        await node.client.create_deployment(spec)
    assert caught.value.field == field or caught.value.field == field.removesuffix(".0")
    with pytest.raises(NotFound):
        await node.client.get_deployment("bad")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/deployments", b"{", 400, "invalid"),
        ("POST", "/v1/deployments", b'{"name": "UPPER", "model": "m"}', 400, "invalid"),
        ("POST", "/v1/deployments", b'{"name": "x", "model": "m", "surplus": 1}', 400, "invalid"),
        ("POST", "/v1/deployments", b'"' + b"x" * 1_100_000 + b'"', 400, "invalid"),
        ("GET", "/v1/deployments/no-such", b"", 404, "not_found"),
        ("GET", "/v1/endpoints/no-such", b"", 404, "not_found"),
        ("GET", "/v2/deployments", b"", 404, "not_found"),
        ("POST", "/v1/deployments/no-such/explode", b"", 404, "not_found"),
        ("PUT", "/v1/deployments", b"{}", 405, "method_not_allowed"),
        ("POST", "/v1/endpoints/e/audit", b'{"who": "", "event": {}}', 400, "invalid"),
        ("GET", "/v1/endpoints/e/audit?after=-1", b"", 400, "invalid"),
    ],
)
async def test_every_refusal_has_a_code_and_a_sentence(
    node: RunningNode, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    headers = {"Authorization": f"Bearer {node.home.token().get_secret_value()}"}
    answer = await node.http.request(method, node.info.control_url + path, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]
    assert "Traceback" not in answer.text


async def test_relative_paths_are_meant_from_the_caller(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MODELS.parent)
    spec = DeploymentSpec(name="relative", model="toy", source="toy_models:echo", options={"python_path": ["models"]})
    await node.client.create_deployment(spec)
    ready = await node.until("relative", DeploymentStatus.READY)
    assert ready.raw["spec"]["options"]["python_path"] == [str(MODELS)]


async def test_the_node_refuses_a_relative_path_by_itself(node: RunningNode) -> None:
    headers = {"Authorization": f"Bearer {node.home.token().get_secret_value()}"}
    body = {"name": "relative-file", "model": "toy", "source": "models/x.joblib"}
    answer = await node.http.post(f"{node.info.control_url}/v1/deployments", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "source")


async def test_weights_are_in_force_when_the_call_returns(node: RunningNode) -> None:
    for name in ("w-a", "w-b"):
        await node.deploy(name, "toy_models:pid")
    url = await node.route("weights", **{"w-a": 100, "w-b": 0})
    pids = {arm: (await node.replica_pids(name))[0] for arm, name in (("stable", "w-a"), ("canary", "w-b"))}
    for share in (0, 100, 0, 100):
        await node.client.set_weights("weights", {"canary": share, "stable": 100 - share})
        seen = {(await node.predict(url, 1)).json() for _ in range(20)}
        assert seen == {pids["canary" if share else "stable"]}
    for arm, pid in pids.items():
        assert await node.client.ask("weights", arm, 1) == pid, "an arm can be asked whatever its share"


async def test_who_reaches_the_control_api_alone_reaches_the_models_by_way_of_it(node: RunningNode) -> None:
    for name in ("far-a", "far-b"):
        await node.deploy(name, "toy_models:pid")
    await node.route("far", **{"far-a": 100, "far-b": 0})
    [pid] = await node.replica_pids("far-b")
    relay = f"{node.info.control_url}/v1/gateway"
    headers = {"Authorization": f"Bearer {node.home.token().get_secret_value()}", "X-Modeldeploy-Arm": "canary"}
    for path in ("far/predict", "-/far-b/predict"):
        assert (await node.http.post(f"{relay}/{path}", json=1, headers=headers)).json() == pid
    assert (await node.http.post(f"{relay}/nobody/predict", json=1, headers=headers)).status_code == 404
    assert (await node.http.post(f"{relay}/far/predict", json=1)).status_code == 401


async def test_an_older_epoch_is_refused(node: RunningNode) -> None:
    await node.deploy("epoch", "toy_models:echo")
    await node.route("epochs", epoch=100)
    epoch = await node.client.claim("epochs")
    assert epoch == 1
    await node.client.set_weights("epochs", {"stable": 100}, expected_epoch=1)
    assert await node.client.claim("epochs") == 2
    with pytest.raises(StaleEpoch, match="epoch 2"):
        await node.client.set_weights("epochs", {"stable": 100}, expected_epoch=1)
    with pytest.raises(StaleEpoch):
        await node.client.put_endpoint(await node.client.get_endpoint("epochs"), expected_epoch=1)
    assert (await node.client.get_endpoint("epochs")).epoch == 2


async def test_traffic_goes_only_where_it_is_answered(node: RunningNode) -> None:
    await node.deploy("t-good", "toy_models:echo")
    await node.deploy("t-bad", "raises_on_import:f", wait=False)
    await node.deploy("t-stopped", "toy_models:echo")
    await node.client.stop_deployment("t-stopped")
    await node.route("safe", **{"t-good": 100, "t-bad": 0})
    with pytest.raises(Conflict, match=r"t-bad is (FAILED|STARTING|PENDING)"):
        await node.client.set_weights("safe", {"stable": 90, "canary": 10})
    with pytest.raises(Conflict, match=r"t-stopped is STOPP"):
        await node.route("safe", **{"t-good": 90, "t-stopped": 10})
    with pytest.raises(NotFound):
        await node.route("safe", **{"no-such": 100})
    assert (await node.client.get_endpoint("safe")).weights == {"stable": 100.0, "canary": 0.0}


async def test_weight_may_be_given_to_what_sleeps_because_it_wakes(node: RunningNode) -> None:
    await node.deploy("sleeper", "toy_models:echo")
    await node.client.scale_deployment("sleeper", replicas=0)
    await node.until("sleeper", DeploymentStatus.SCALED_TO_ZERO)
    url = await node.route("sleepers", sleeper=100)
    assert (await node.predict(url, 5)).json() == 5


@pytest.mark.parametrize("weights", [{"stable": 99}, {"stable": 99.999, "canary": 0.001}, {"other": 100}])
async def test_impossible_weights_are_refused(node: RunningNode, weights: dict[str, float]) -> None:
    await node.deploy("i-a", "toy_models:echo")
    await node.deploy("i-b", "toy_models:echo")
    await node.route("impossible", **{"i-a": 100, "i-b": 0})
    with pytest.raises(InvalidInput, match="weight"):
        await node.client.set_weights("impossible", weights)


async def test_an_arm_cannot_be_deleted(node: RunningNode) -> None:
    await node.deploy("arm", "toy_models:echo")
    await node.route("with-arm", arm=100)
    with pytest.raises(Conflict, match="with-arm"):
        await node.client.delete_deployment("arm")
    await node.client.delete_endpoint("with-arm")
    await node.client.delete_deployment("arm")


async def test_deleting_what_is_gone_is_no_error(node: RunningNode) -> None:
    await node.client.delete_deployment("never-there")
    await node.client.delete_endpoint("never-there")


async def test_the_audit_is_kept_in_order_and_outlives_its_endpoint(node: RunningNode) -> None:
    for number in range(3):
        await node.client.append_audit("audited", "ann", {"number": number, "nested": {"x": [1, None]}})
    entries = await node.client.audit("audited")
    assert [entry["event"]["number"] for entry in entries] == [0, 1, 2]
    assert {entry["who"] for entry in entries} == {"ann"}
    assert await node.client.audit("audited", after=entries[1]["id"]) == entries[2:]


async def test_what_the_arms_experienced_is_told_since_a_cursor(node: RunningNode) -> None:
    await node.deploy("m-a", "toy_models:echo")
    await node.deploy("m-b", "toy_models:failing")
    url = await node.route("measured", **{"m-a": 50, "m-b": 50})
    await node.predict(url, 1)
    cursor = await node.client.cursor("measured")
    answers = [await node.predict(url, 1) for _ in range(60)]
    windows, after = await node.client.windows("measured", after=cursor)
    canary = sum(w.arms["canary"].requests for w in windows if "canary" in w.arms)
    stable = sum(w.arms["stable"].requests for w in windows if "stable" in w.arms)
    assert canary + stable == 60
    assert sum(w.arms["canary"].failures for w in windows if "canary" in w.arms) == canary
    assert canary == sum(answer.status_code == 500 for answer in answers)
    assert await node.client.windows("measured", after=after) == ([], after)


async def test_an_update_that_changes_nothing_restarts_nothing(node: RunningNode) -> None:
    before = await node.deploy("same", "toy_models:echo")
    update = DeploymentUpdate(environment="staging", autoscaling=Autoscaling(min_replicas=1))
    after = await node.client.update_deployment("same", update)
    assert (after.environment, after.status) == ("staging", DeploymentStatus.READY)
    assert after.raw["replicas"] == before.raw["replicas"]


async def test_logs_hold_what_the_model_printed(node: RunningNode) -> None:
    await node.deploy("talks", "toy_models:failing")
    await node.predict((await node.client.get_deployment("talks")).endpoint_url or "", 1)
    lines = await node.client.logs("talks", tail=50)
    assert any("ValueError: this model never works" in line for line in lines)
    assert len(await node.client.logs("talks", tail=2)) == 2


async def test_the_gateway_does_not_serve_the_control_api(node: RunningNode) -> None:
    headers = {"Authorization": f"Bearer {node.home.token().get_secret_value()}"}
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{node.info.gateway_url}/v1/status", headers=headers)).status_code == 404
