"""Our client says to Scale what the vendor's official client was recorded to say: method, path, query and body.

Where it says more or less on purpose, the table says so:

| ours                                                      | the vendor's client                                    |
|-----------------------------------------------------------|--------------------------------------------------------|
| always `wait_for_ready: false`                            | leaves it out: the call blocks                         |
| the mark `deployment_metadata.modeldeploy`                | has none                                               |
| lists: `limit=100`, and no page beyond the total          | as the user says; always one page beyond the end       |
| PATCH sends the whole configuration and metadata          | sends what the user gives                              |
| looks before it creates, swaps, deletes                   | does not                                               |
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, Resources
from prefect_modeldeploy.providers.scale import ScaleClient, ScaleV5Client
from prefect_modeldeploy.providers.scale.schemas import (
    Bundle,
    EndpointConfiguration,
    ModelPatch,
    NewGroup,
    NewModel,
    NewTemplate,
    TemplateConfiguration,
)
from prefect_modeldeploy.transport import Transport
from tests.conftest import serve
from tests.contract.recordings import Sent, calls, recorded

DAY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))


class Recorder:
    """Answers every request with the same few facts and keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        request = Request(scope, receive)
        raw = await request.body()
        body = httpx.Response(200, content=raw).json() if raw else None
        query = tuple(sorted(request.query_params.multi_items()))
        self.sent.append(Sent(request.method, scope["raw_path"].decode(), query, body))
        await JSONResponse(self.answer(request))(scope, receive, send)

    def answer(self, request: Any) -> Any:
        one = {"id": "x1", "name": "x", "status": "READY", "model_instance_id": "m1", "model_vendor": "launch"}
        path, method = request.url.path, request.method
        if path == "/v4/serving" and method == "GET":
            return []
        if path.endswith("/deployment"):
            return {"model_deployment_id": "d1"}
        if path.endswith("/rollback"):
            return {"rolled_back_to_deployment": "d0", "from_deployment": "d1"}
        if path == "/v4/models/m1":
            return {**one, "id": "m1"}
        listing = method == "GET" and path.rpartition("/")[2] in (
            "models", "deployments", "model-templates", "model-groups", "model-deployments",
        )  # fmt: skip
        if listing:
            return {"items": [], "current_page": 1, "total_item_count": 0, "has_more": False}
        if method == "DELETE":
            return {"count": 1, "success": True, "id": "mod1", "deleted": True}
        return {**one, "model_server_id": "s1", "response": {"x": 1}}


@pytest_asyncio.fixture(scope="module")
async def recording() -> AsyncIterator[Recorder]:
    """One recorder for all tests."""
    recorder = Recorder()
    async with serve(recorder) as recorder.url:
        yield recorder


@pytest.fixture
def recorder(recording: Recorder) -> Recorder:
    """A recorder that has heard nothing yet."""
    recording.sent.clear()
    return recording


def without_ours(sent: Sent) -> Sent:
    """What is ours on purpose, taken away."""
    body = sent.body
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name != "wait_for_ready"}
        for kept in ("deployment_metadata", "model_metadata"):
            if kept in body:
                body[kept] = {name: value for name, value in body[kept].items() if name != "modeldeploy"}
                if not body[kept]:
                    del body[kept]
    return Sent(sent.method, sent.path, tuple(pair for pair in sent.query if pair[0] not in ("limit", "page")), body)


CALLS: dict[str, Any] = {
    "model_templates.create": lambda c: c.templates.create(
        NewTemplate(
            name="t",
            endpoint_type="SYNC",
            model_type="COMPLETION",
            vendor_configuration=TemplateConfiguration(
                vendor="LAUNCH",
                bundle_config=Bundle(registry="r", image="i", tag="t", env={"A": "1"}),
                endpoint_config=EndpointConfiguration(max_workers=3),
            ),
        )
    ),
    "model_templates.retrieve": lambda c: c.templates.get("t1"),
    "model_templates.list": lambda c: c.templates.find(),
    "model_templates.delete": lambda c: c.templates.delete("t1"),
    "models.create": lambda c: c.models.create(
        NewModel(
            name="m",
            model_type="COMPLETION",
            model_vendor="LAUNCH",
            model_template_id="t1",
            model_creation_parameters={"MODEL_BUCKET": "b"},
        )
    ),
    "models.retrieve view": lambda c: c.models.get("m1", views=["Deployments", "ModelGroup"]),
    "models.update": lambda c: c.models.update("m1", ModelPatch(description="x", display_name="y")),
    "models.list": lambda c: c.models.find(model_group_id="g1", sort_by="created_at:desc", views=["Deployments"]),
    "models.delete": lambda c: c.models.delete("m1"),
    "deployments.create LAUNCH": lambda c: c.create(
        DeploymentSpec(
            name="dep",
            model="m1",
            autoscaling=Autoscaling(min_replicas=0, max_replicas=2, target_concurrency=5),
            options={"model_creation_parameters": {"p": 1}, "deployment_metadata": {"k": "v"}},
        )
    ),
    "deployments.create minimal": lambda c: c.create(DeploymentSpec(name="dep", model="m1")),
    "deployments.create LLMENGINE": lambda c: c.create(
        DeploymentSpec(
            name="dep",
            model="m1",
            autoscaling=Autoscaling(min_replicas=1, max_replicas=2, target_concurrency=10),
            resources=Resources(cpu_millicores=3000, memory_mib=8192, gpu_count=1, gpu_type="nvidia-hopper-h100"),
            options={
                "vendor": "LLMENGINE",
                "storage": "16Gi",
                "high_priority": False,
                "num_shards": 4,
                "checkpoint_path": "s3://b/c",
                "model_name": "llama",
                "base_model_name": "llama",
                "inference_framework_image_tag": "latest",
            },
        )
    ),
    "deployments.retrieve": lambda c: c.get("m1/d1"),
    "deployments.list_all": lambda c: c.find(),
    "deployments.execute": lambda c: c.predict("m1/d1", {"prompts": ["hi"]}),
    "deployments.execute no extra body": lambda c: c.predict("m1/d1", {}),
    "deployments.execute stream=True": lambda c: c.predict("m1/d1", {"stream": True, "prompts": ["hi"]}),
    "deployments.usage_statistics.retrieve": lambda c: c.usage("m1/d1", *DAY, chunks=3),
    "deployments.delete": lambda c: c.delete("m1/d1"),
    "models.usage_statistics.retrieve": lambda c: c.models.usage("m", *DAY, chunks=3),
    "models.completions.create": lambda c: c.predict("m1/d1", {"prompt": "hi"}, path="completions"),
    "models.chat_completions.create": lambda c: c.predict(
        "m1/d1", {"prompt": "hi", "chat_history": []}, path="chat-completions"
    ),
    "models.embeddings.create": lambda c: c.predict("m1/d1", {"texts": ["a"]}, path="embeddings"),
    "models.rerankings.create": lambda c: c.predict("m1/d1", {"query": "q", "chunks": ["a"]}, path="rerankings"),
    "model_servers.create": lambda c: c.servers.create("srv", "d1", alias="prod"),
    "model_servers.retrieve": lambda c: c.servers.get("s1"),
    "model_servers.list": lambda c: c.servers.find(),
    "model_servers.deployment.retrieve": lambda c: c.servers.backend("s1"),
    "model_servers.update_backend": lambda c: c.servers.swap_backend("s1", "d2"),
    "model_servers.rollback": lambda c: c.servers.roll_back("s1", "d1"),
    "model_servers.execute": lambda c: c.servers.execute("s1", {"prompts": ["hi"]}),
    "alias.retrieve": lambda c: c.servers.get_by_alias("prod"),
    "alias.execute": lambda c: c.servers.execute_alias("prod", {"prompts": ["hi"]}),
    "model_groups.create": lambda c: c.groups.create(NewGroup(name="g")),
    "model_groups.models.create": lambda c: c.groups.add_model("g1", "m1"),
    "model_groups.list": lambda c: c.groups.find(),
}


UNNAMED = {"deployments.create minimal", "deployments.create LLMENGINE"}
"""Calls whose user named no account."""

NOT_OURS = {
    "deployments.update (scale to zero)": "ours reads first and writes whole objects (test_a_change_sends_...)",
    "deployments.list limit=2 iterated (3 items)": "pages and order of the user's choice (test_all_pages_are_read)",
    "v5 models.update metadata": "ours writes all of the metadata, with its mark",
}


def test_every_recorded_call_is_compared_or_left_out_for_a_reason() -> None:
    by_form = {"v5 models.create launch", "v5 inference.create"}
    assert {*CALLS, *V5_CALLS, *by_form, *NOT_OURS} == set(calls("scale"))


@pytest.mark.parametrize("call", CALLS)
async def test_v4_says_what_the_vendors_client_says(recorder: Recorder, call: str) -> None:
    theirs = recorded("scale", call)
    async with Transport("scale", recorder.url) as transport:
        await CALLS[call](ScaleClient(transport, recorder.url, None if call in UNNAMED else "acct"))
    ours = [without_ours(sent) for sent in recorder.sent]
    # The vendor's client asks for a page beyond the end, and names the account when its user does.
    expected = without_ours(theirs[0])
    if call == "deployments.list_all":
        expected = Sent(expected.method, expected.path, (), None)
    assert expected in ours, f"{expected} is not among {ours}"


async def first_page(client: ScaleV5Client) -> None:
    async for _ in client._items(limit=1, model_vendor="launch", name="n"):
        pass


V5_CALLS: dict[str, Any] = {
    "v5 models.list": first_page,
    "v5 models.retrieve": lambda c: c.get("mod1"),
    "v5 models.delete": lambda c: c.delete("mod1"),
    "v5 models.update swap names": lambda c: c._rename("mod1", "prod"),
    "v5 models.update config": lambda c: c.scale("mod1", Autoscaling(min_replicas=0)),
}


@pytest.mark.parametrize("call", V5_CALLS)
async def test_v5_says_what_the_vendors_client_says(recorder: Recorder, call: str) -> None:
    theirs = recorded("scale", call)
    async with Transport("scale", recorder.url) as transport:
        await V5_CALLS[call](ScaleV5Client(transport, recorder.url))
    assert theirs[0] in recorder.sent


async def test_v5_creation_and_inference_have_the_recorded_form(recorder: Recorder) -> None:
    async with Transport("scale", recorder.url) as transport:
        client = ScaleV5Client(transport, recorder.url)
        options = {"command": ["x"]}
        bounds = Autoscaling(min_replicas=0, max_replicas=1)
        await client.create(DeploymentSpec(name="n", model="n", source="r/p:t", options=options, autoscaling=bounds))
        await client.predict("mod1", {"x": 1})
    [created] = [sent.body for sent in recorder.sent if (sent.method, sent.path) == ("POST", "/v5/models")]
    theirs = recorded("scale", "v5 models.create launch")[0].body
    # The recorded user asked to update a namesake; we never do. Empty env_vars are left out.
    del theirs["vendor_configuration"]["model_image"]["env_vars"]
    assert {**created, "on_conflict": "update", "model_metadata": None} == {**theirs, "model_metadata": None}
    [inferred] = [sent for sent in recorder.sent if sent.path == "/v5/inference"]
    assert inferred.body == {**recorded("scale", "v5 inference.create")[0].body, "model": "launch/x"}
