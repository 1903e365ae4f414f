"""Our client sends what the official one was recorded to send: method, path, query and body."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from prefect_modeldeploy.providers.foundry import FoundryApi
from prefect_modeldeploy.providers.foundry.auth import ClientCredentials
from prefect_modeldeploy.providers.foundry.model_api import DillFiles, ModelApi, NewFunction, NewVersion
from prefect_modeldeploy.providers.foundry.types import Duration, Gpu, RuntimeConfiguration, ScalingConfiguration
from prefect_modeldeploy.transport import Transport
from tests.contract.recordings import Sent, calls, recorded

MODEL = "ri.models.main.model.f351c142-0e4c-4b12-adc2-6e1539737ae9"
VERSION = "ri.models.main.model-version.adf94926-c3ac-41ea-beb2-4946699d08ee"
LIVE = "ri.foundry-ml-live.main.live-deployment.f351c142-0e4c-4b12-adc2-6e1539737ae9"


class Stack:
    """Notes what it is asked, and answers with a little of everything."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        text = request.read().decode()
        body = json.loads(text) if text.startswith("{") else text or None
        query = tuple(sorted(request.url.params.multi_items()))
        self.sent.append(Sent(request.method, request.url.path, query, body))
        answer: dict[str, Any] = {"rid": LIVE, "functionRid": LIVE, "data": []}
        if request.url.path.endswith("/versions") and "pageToken" not in request.url.params:
            answer["nextPageToken"] = "p2"
        if request.url.path.endswith("/oauth2/token"):
            answer = {"access_token": "oauth-tok-1", "token_type": "bearer", "expires_in": 3600}
        return httpx.Response(204) if text == "" and request.method == "POST" else httpx.Response(200, json=answer)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Stack, FoundryApi, ClientCredentials]]:
    stack = Stack()
    http, scopes = httpx.MockTransport(stack), ["api:models-read", "api:models-write"]
    async with Transport("foundry", "https://stack.example", http=http) as root:
        auth = ClientCredentials(root, "cid", SecretStr("sec"), scopes)
        async with Transport("foundry", "https://stack.example/api", http=http) as plain:
            yield stack, FoundryApi(plain), auth


def runtime(least: int = 1, **fields: Any) -> RuntimeConfiguration:
    return RuntimeConfiguration(
        min_replicas=least, max_replicas=3, cpu=1.0, memory="256MiB", thread_count=32,
        environment_variables={"LOG_LEVEL": "INFO"}, **fields,
    )  # fmt: skip


FULL = runtime(
    0,
    gpu=Gpu(count=1, type="T4"),
    scaling_configuration=ScalingConfiguration(
        scale_up_load_threshold=0.75,
        scale_up_delay=Duration(value=30, unit="SECONDS"),
        scale_down_delay=Duration(value=30, unit="MINUTES"),
    ),
)
PUBLISHED = NewVersion(
    model_files=DillFiles(serialized_model_function="QUJD"), conda_requirements=["numpy==1.26"], model_api=ModelApi()
)

OURS: dict[str, Callable[[FoundryApi], Awaitable[Any]]] = {
    "LiveDeployment.create": lambda api: api.create_live_deployment(MODEL, "master", runtime()),
    "LiveDeployment.create full": lambda api: api.create_live_deployment(MODEL, "master", FULL),
    "LiveDeployment.get": lambda api: api.live_deployment(LIVE),
    "LiveDeployment.list": lambda api: api.live_deployments(MODEL),
    "LiveDeployment.list branch": lambda api: api.live_deployments(MODEL, "feature/x"),
    "LiveDeployment.replace": lambda api: api.replace_live_deployment(LIVE, runtime(0)),
    "LiveDeployment.start": lambda api: api.start_live_deployment(LIVE),
    "LiveDeployment.disable": lambda api: api.disable_live_deployment(LIVE),
    "LiveDeployment.transform_json": lambda api: api.transform_json(LIVE, {"input_df": [{"feature_1": 1.0}]}),
    "Model.create": lambda api: api.create_model("m", "ri.compass.main.folder.1"),
    "Model.get": lambda api: api.model(MODEL),
    "Model.promote_version": lambda api: api.promote_version(MODEL, VERSION, "prod"),
    "Model.Version.create": lambda api: api.create_version(MODEL, PUBLISHED),
    "Model.Version.get": lambda api: api.version(MODEL, VERSION),
    "Model.Version.list": lambda api: api.versions(MODEL, "master", page_size=1),
    "Model.Function.create": lambda api: api.create_function(
        MODEL, NewFunction(api_name="com.x.f", is_row_wise=False, display_name="f")
    ),
    "Model.Function.get": lambda api: api.function(MODEL),
    "Model.Function.replace": lambda api: api.replace_function(
        MODEL, NewFunction(api_name="com.x.f", is_row_wise=False)
    ),
}


@pytest.mark.parametrize("call", OURS)
async def test_the_same_request(call: str) -> None:
    async with connected() as (stack, api, _):
        await OURS[call](api)
    assert stack.sent == recorded("foundry", call)


async def test_the_same_token_request() -> None:
    async with connected() as (stack, _, auth):
        await auth.token()
        await auth.revoke()
    assert stack.sent[:1] == recorded("foundry", "OAuth client credentials get")[:1]
    assert stack.sent[1:] == recorded("foundry", "OAuth sign_out")


def test_no_recording_is_left_out() -> None:
    assert set(calls("foundry")) == {*OURS, "OAuth client credentials get", "OAuth sign_out"}
