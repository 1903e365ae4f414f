"""The vendor's own clients, scale-gp and scale-gp-beta, drive the sandbox: they believe it, and see what we see."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.providers.scale import ScaleClient, ScaleV5Client
from tests.contract.venvs import VendorClient
from tests.providers.scale_kit import credentials_of
from tests.sandbox.kit import RunningSandbox, running_sandbox

pytestmark = [pytest.mark.contract, pytest.mark.timeout(600)]

V4 = VendorClient(("scale-gp==0.1.0a62",))
V5 = VendorClient(("scale-gp-beta==0.7.0",))

CLIENT = """
from {module} import SGPClient
import {module} as sgp
client = SGPClient(
    api_key=given["api_key"], account_id=given["account_id"], base_url=given["base_url"],
    max_retries=given.get("retries", 2), timeout=given.get("timeout", 20),
)
def plain(answer):
    return answer.to_dict(mode="json") if hasattr(answer, "to_dict") else answer
def refusal(call):
    try:
        call()
    except sgp.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.body]
    except sgp.APIConnectionError as error:
        return [type(error).__name__, None, None]
model = given["seed"]["model_instance_id"]
account = given["account_id"]
"""
V4_CLIENT, V5_CLIENT = CLIENT.format(module="scale_gp"), CLIENT.format(module="scale_gp_beta")


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox("scale") as running:
        yield running


async def v4(sandbox: RunningSandbox, script: str, **given: Any) -> Any:
    return await V4.run(V4_CLIENT + script, {**sandbox["scale"], **given})


async def v5(sandbox: RunningSandbox, script: str, **given: Any) -> Any:
    return await V5.run(V5_CLIENT + script, {**sandbox["scale"], **given})


async def test_deployments_from_creation_to_deletion(sandbox: RunningSandbox) -> None:
    said = await v4(
        sandbox,
        """
made = client.models.deployments.create(model, name="dep", account_id=account, wait_for_ready=False,
    deployment_metadata={"k": "v"}, model_creation_parameters={"p": 1},
    vendor_configuration={"vendor": "LAUNCH", "min_workers": 1, "max_workers": 2, "per_worker": 5})
llm = client.models.deployments.create(model, name="llm", vendor_configuration={"vendor": "LLMENGINE", "gpus": 1,
    "cpus": 3, "memory": "8Gi", "storage": "16Gi", "gpu_type": "nvidia-hopper-h100", "num_shards": 4})
got = client.models.deployments.retrieve(made.id, model_instance_id=model)
changed = client.models.deployments.update(made.id, model_instance_id=model, name="n2",
    vendor_configuration={"vendor": "LAUNCH", "min_workers": 0, "max_workers": 1}, wait_for_ready=False)
listed = [one.name for one in client.models.deployments.list(model, limit=2, sort_by=["created_at:asc", "name:asc"])]
everything = [one.name for one in client.models.deployments.list_all(account_id=account)]
executed = client.models.deployments.execute(made.id, model_instance_id=model, extra_body={"prompts": ["hi"], "n": 2})
nothing = client.models.deployments.execute(made.id, model_instance_id=model)
streamed = client.models.deployments.execute(made.id, model_instance_id=model, stream=True, extra_body={"n": 1})
completion = client.models.completions.create(made.id, prompt="one two")
chat = client.models.chat_completions.create(made.id, prompt="hi", chat_history=[])
embedded = client.models.embeddings.create(made.id, texts=["a"])
ranked = client.models.rerankings.create(made.id, query="q", chunks=["q a", "b"])
used = client.models.deployments.usage_statistics.retrieve(made.id, chunks=2, start_date="2020-01-01T00:00:00Z",
    end_date="2040-01-01T00:00:00Z")
by_name = client.models.usage_statistics.retrieve("fraud", chunks=1, start_date="2020-01-01T00:00:00Z",
    end_date="2040-01-01T00:00:00Z")
answer({"made": plain(made), "llm": plain(llm), "got": plain(got), "changed": plain(changed), "listed": listed,
    "everything": everything, "executed": executed, "nothing": nothing, "streamed": streamed,
    "completion": plain(completion), "chat": plain(chat), "embedded": plain(embedded), "ranked": plain(ranked),
    "used": plain(used), "by_name": plain(by_name)})
""",
    )
    assert said["made"] == said["got"]
    assert said["llm"]["vendor_configuration"]["gpu_type"] == "nvidia-hopper-h100"
    assert said["changed"]["vendor_configuration"] == {
        "vendor": "LAUNCH", "min_workers": 0, "max_workers": 1, "per_worker": 10,
    }  # fmt: skip
    assert said["listed"] == said["everything"] == ["fraud-v1", "n2", "llm"]
    assert said["executed"]["sum"] == 2
    assert said["nothing"]["sum"] == 0
    assert said["streamed"].startswith("data: ")
    assert said["completion"]["prompt_tokens"] == 2
    assert said["chat"]["chat_completion"]["message"]["role"] == "assistant"
    assert said["embedded"]["embeddings"] == [["a", [1.0]]]
    assert said["ranked"]["chunk_scores"] == [1.0, 0.0]
    assert sum(point["prompt_tokens"] for point in said["used"]["data"]) > 0
    assert said["by_name"]["data"][0]["summary_tokens"] > 0
    async with credentials_of(sandbox).get_client() as ours:
        assert isinstance(ours, ScaleClient)
        model = sandbox["scale"]["seed"]["model_instance_id"]
        found = await ours.get(f"{model}/{said['made']['id']}")
        shown = {name: value for name, value in found.raw.items() if value is not None}
        assert shown == {name: value for name, value in said["changed"].items() if value is not None}
        gone = await v4(
            sandbox,
            """
deleted = client.models.deployments.delete(given["id"], model_instance_id=model)
answer([plain(deleted), refusal(lambda: client.models.deployments.retrieve(given["id"], model_instance_id=model))])
""",
            id=said["made"]["id"],
        )
        assert gone[0] == {"count": 1, "success": True}
        assert gone[1][:2] == ["NotFoundError", 404]
        assert [one.name for one in await ours.find()] == ["fraud-v1", "llm"]


async def test_what_we_create_is_what_their_client_sees(sandbox: RunningSandbox) -> None:
    model = sandbox["scale"]["seed"]["model_instance_id"]
    async with credentials_of(sandbox).get_client() as ours:
        made = await ours.create(DeploymentSpec(name="ours", model=model, version="9"))
    seen = await v4(
        sandbox,
        'answer(plain(client.models.deployments.retrieve(given["id"], model_instance_id=model)))',
        id=made.id.partition("/")[2],
    )
    assert seen["name"] == "ours"
    assert seen["deployment_metadata"]["modeldeploy"]["version"] == "9"
    assert seen["vendor_configuration"] == made.raw["vendor_configuration"]


async def test_models_templates_and_groups(sandbox: RunningSandbox) -> None:
    said = await v4(
        sandbox,
        """
template = client.model_templates.create(account_id=account, endpoint_type="SYNC", model_type="COMPLETION", name="t",
    vendor_configuration={"vendor": "LAUNCH", "bundle_config": {"registry": "r", "image": "i", "tag": "t",
    "env": {"A": "1"}}, "endpoint_config": {"max_workers": 3}})
made = client.models.create(account_id=account, model_type="COMPLETION", name="m", model_template_id=template.id,
    model_vendor="LAUNCH", model_creation_parameters={"MODEL_BUCKET": "b"})
changed = client.models.update(made.id, description="x", display_name="y")
group = client.model_groups.create(account_id=account, name="g")
grouped = client.model_groups.models.create(made.id, model_group_id=group.id)
client.models.deployments.create(made.id, name="dep")
viewed = client.models.retrieve(made.id, view=["Deployments", "ModelGroup"])
listed = [one.name for one in client.models.list(limit=1, view=["Deployments"], sort_by=["name:desc"])]
of_group = [one.name for one in client.models.list(model_group_id=group.id)]
usage = client.model_groups.usage_statistics.retrieve(group.id, chunks=1, start_date="2020-01-01T00:00:00Z",
    end_date="2040-01-01T00:00:00Z")
refused = refusal(lambda: client.models.delete(made.id))
for one in client.models.deployments.list(made.id):
    client.models.deployments.delete(one.id, model_instance_id=made.id)
answer({"template": plain(client.model_templates.retrieve(template.id)), "changed": plain(changed),
    "grouped": plain(grouped), "viewed": plain(viewed), "listed": listed, "of_group": of_group, "usage": plain(usage),
    "templates": [one.name for one in client.model_templates.list(limit=10)], "refused": refused,
    "group": plain(client.model_groups.update(group.id, description="d")),
    "groups": [one.name for one in client.model_groups.list()],
    "deleted": [plain(client.models.delete(made.id)), plain(client.model_templates.delete(template.id)),
    plain(client.model_groups.delete(group.id))]})
""",
    )
    assert said["template"]["vendor_configuration"]["endpoint_config"] == {"max_workers": 3}
    assert (said["changed"]["description"], said["changed"]["display_name"]) == ("x", "y")
    assert said["viewed"]["deployments"][0]["name"] == "dep"
    assert said["viewed"]["model_group"]["name"] == "g"
    assert said["grouped"]["model_group_id"] == said["group"]["id"]
    assert (said["listed"], said["of_group"]) == (["m", "fraud"], ["m"])
    assert (said["templates"], said["groups"]) == (["t"], ["g"])
    assert said["refused"][:2] == ["ConflictError", 409]
    assert said["deleted"] == [{"count": 1, "success": True}] * 3


async def test_model_servers(sandbox: RunningSandbox) -> None:
    said = await v4(
        sandbox,
        """
first = next(iter(client.models.deployments.list(model)))
second = client.models.deployments.create(model, name="second")
server = client.model_servers.create(model_deployment_id=first.id, name="srv", alias="prod")
swapped = client.model_servers.update_backend(server.model_server_id, new_model_deployment_id=second.id)
after = client.model_servers.deployment.retrieve(server.model_server_id)
executed = client.model_servers.execute(server.model_server_id, extra_body={"n": 3})
rolled = client.model_servers.rollback(server.model_server_id)
by_alias = client.alias.retrieve("prod")
answer({"first": first.id, "second": second.id, "swapped": plain(swapped), "after": plain(after),
    "executed": plain(executed), "rolled": plain(rolled), "by_alias": plain(by_alias),
    "alias": plain(client.alias.execute("prod", extra_body={"n": 4})),
    "got": plain(client.model_servers.retrieve(server.model_server_id)),
    "listed": [plain(one) for one in client.model_servers.list()]})
""",
    )
    first, second = said["first"], said["second"]
    assert (said["swapped"]["new_model_deployment_id"], said["swapped"]["old_model_deployment_id"]) == (second, first)
    assert said["after"] == {"model_deployment_id": second}
    assert said["rolled"] == {"rolled_back_to_deployment": first, "from_deployment": second}
    assert (said["executed"]["sum"], said["alias"]["sum"]) == (3, 4)
    assert said["got"] == said["by_alias"] == said["listed"][0]
    async with credentials_of(sandbox).get_client() as ours:
        assert isinstance(ours, ScaleClient)
        assert [one.raw for one in await ours.servers.find()] == said["listed"]


async def test_their_client_reads_every_refusal(sandbox: RunningSandbox) -> None:
    said = await v4(
        sandbox,
        """
import os
stranger = client.with_options(api_key="wrong", max_retries=0)
foreign = client.with_options(default_headers={"x-selected-account-id": "other"})
answer({
    "unknown": refusal(lambda: client.models.deployments.retrieve("none", model_instance_id=model)),
    "nameless": refusal(lambda: client.models.deployments.create(model, name="")),
    "workers": refusal(lambda: client.models.deployments.create(model, name="x",
        vendor_configuration={"vendor": "LAUNCH", "per_worker": 0})),
    "wrong key": refusal(lambda: stranger.model_servers.list()),
    "wrong account": refusal(lambda: foreign.model_servers.list()),
    "no rollback": refusal(lambda: client.model_servers.rollback("none")),
})
""",
    )
    kinds = {name: found[:2] for name, found in said.items()}
    assert kinds == {
        "unknown": ["NotFoundError", 404],
        "nameless": ["UnprocessableEntityError", 422],
        "workers": ["BadRequestError", 400],
        "wrong key": ["AuthenticationError", 401],
        "wrong account": ["PermissionDeniedError", 403],
        "no rollback": ["NotFoundError", 404],
    }
    assert said["nameless"][2]["detail"][0]["loc"] == ["body", "name"]
    assert said["wrong key"][2] == {"detail": "Unauthorized"}


async def test_their_default_makes_three_deployments_where_ours_makes_one(sandbox: RunningSandbox) -> None:
    """The trap of the vendor's client, on the same sandbox: it blocks, times out and posts again."""
    model = sandbox["scale"]["seed"]["model_instance_id"]
    await sandbox.control.fate(outcome="stuck", times=None, timeline="create")
    refused = await v4(
        sandbox, 'answer(refusal(lambda: client.models.deployments.create(model, name="theirs")))', timeout=1
    )
    assert refused[0] == "APITimeoutError"
    async with credentials_of(sandbox).get_client() as ours:
        await ours.create(DeploymentSpec(name="ours", model=model))
    names = [one["name"] for one in (await sandbox.control.table("scale", "deployments")).values()]
    assert (names.count("theirs"), names.count("ours")) == (3, 1)
    await sandbox.control.release()


async def test_v5_models_from_creation_to_deletion(sandbox: RunningSandbox) -> None:
    said = await v5(
        sandbox,
        """
image = {"registry": "r", "repository": "p", "tag": "t", "command": ["x"], "env_vars": {}}
def launch(name, **more):
    return client.models.create(model={"name": name, "model_vendor": "launch", "vendor_configuration":
        {"model_image": image, "model_infra": {"min_workers": 0, "max_workers": 1}}, **more})
made, other = launch("n"), launch("prod")
conflict = refusal(lambda: launch("n"))
again = launch("n", on_conflict="update")
noted = client.models.update(made.id, model={"model_metadata": {"a": 1}})
changed = client.models.update(made.id, model={"vendor_configuration": {"model_infra": {"min_workers": 1}}})
swapped = client.models.update(made.id, model={"name": "prod", "on_conflict": "swap"})
listed = [one.name for one in client.models.list(limit=1, model_vendor="launch")]
inferred = client.inference.create(model="launch/prod", args={"x": 5})
answer({"made": plain(made), "again": plain(again), "conflict": conflict, "noted": plain(noted),
    "changed": plain(changed), "swapped": plain(swapped), "other": plain(client.models.retrieve(other.id)),
    "listed": listed, "inferred": plain(inferred),
    "hosted": plain(client.models.create(model={"name": "gpt", "model_vendor": "openai",
    "model_type": "chat_completion"})), "deleted": plain(client.models.delete(other.id)),
    "gone": refusal(lambda: client.models.retrieve(other.id))})
""",
    )
    assert said["conflict"][:2] == ["ConflictError", 409]
    assert said["again"]["id"] == said["made"]["id"]
    assert said["noted"]["model_metadata"] == {"a": 1}
    infra = said["changed"]["vendor_configuration"]["model_infra"]
    assert (infra["min_workers"], infra["max_workers"]) == (1, 1)
    assert (said["swapped"]["name"], said["other"]["name"]) == ("prod", "n")
    assert sorted(said["listed"]) == ["n", "prod"]
    assert said["inferred"]["response"]["sum"] == 5
    assert said["hosted"]["status"] == "ready"
    assert said["deleted"]["deleted"] is True
    assert said["gone"][:2] == ["NotFoundError", 404]
    async with credentials_of(sandbox, api="v5").get_client() as ours:
        assert isinstance(ours, ScaleV5Client)
        found = await ours.get(said["swapped"]["id"])
        assert (found.name, found.ready) == ("prod", True)
        assert {name: found.raw[name] for name in said["swapped"]} == said["swapped"]
