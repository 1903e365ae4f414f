"""The vendor's own Python SDK, gradient 2.99.4, drives the emulator; and ours sends what it and pspace really sent."""

import contextlib
from typing import Any

import httpx
import pytest

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.errors import ProviderError
from prefect_modeldeploy.sandbox.gradient.query import parse
from tests.contract.recordings import Sent, assert_same, calls, recorded
from tests.contract.venvs import VendorClient
from tests.providers.gradient_kit import block, gradient, graph
from tests.sandbox.kit import RunningSandbox, running_sandbox

# pip's resolver does not come to an end with this package: the list is complete, and is not resolved.
SDK = VendorClient(
    (
        "gradient==2.99.4", "gradient-utils==0.5.0", "gql==3.0.0a6", "graphql-core==3.1.7", "requests==2.32.3",
        "urllib3==2.2.3", "charset-normalizer==3.4.0", "idna==3.10", "certifi==2024.8.30", "websocket-client==0.57.0",
        "marshmallow==2.21.0", "click==8.1.7", "colorama==0.4.3", "websockets==9.1", "yarl==1.18.3",
        "multidict==6.1.0", "propcache==0.2.1", "setuptools==75.8.0", "prometheus_client==0.21.1", "hyperopt==0.2.7",
        "numpy==1.26.4", "scipy==1.14.1", "six==1.17.0", "terminaltables==3.1.10", "click-didyoumean==0.3.1",
        "click-help-colors==0.9.4", "click-completion==0.5.2", "requests-toolbelt==1.0.0", "progressbar2==4.5.0",
        "python-utils==3.9.1", "halo==0.0.31", "log-symbols==0.0.14", "spinners==0.0.24", "termcolor==2.5.0",
        "attrs==19.3.0", "PyYAML==6.0.2", "python-dateutil==2.9.0.post0", "packaging==24.2", "shellingham==1.5.4",
        "jinja2==3.1.4", "markupsafe==3.0.2", "typing_extensions==4.12.2", "tqdm==4.67.1", "networkx==3.4.2",
        "future==1.0.0", "cloudpickle==3.1.0", "py4j==0.10.9.7", "pymongo==4.10.1", "dnspython==2.7.0",
    ),
    resolve=False,
)  # fmt: skip

IMPORTS = """
import warnings
warnings.simplefilter("ignore")
from gradient.api_sdk.repositories import gradient_deployments as sdk
"""

EVERY_CALL = f"""{IMPORTS}
project, spec = given["project"], given["spec"]
said = {{}}
made = sdk.create_deployment("demo", project, spec)
said["create"] = made
other = sdk.create_deployment("other", project, spec, cluster_id="clg1", api_key=given["key"])
said["get"] = sdk.get_deployment(made["id"])
said["missing"] = sdk.get_deployment("00000000-0000-0000-0000-000000000000")
said["list"] = sdk.list_deployments()
said["filtered"] = sdk.list_deployments(name="other", project_id=project, cluster_id="clg1", first=5)
said["none"] = sdk.list_deployments(project_id="elsewhere")
said["update"] = sdk.update_deployment(made["id"], spec={{**spec, "enabled": False}})
said["rename"] = sdk.update_deployment(made["id"], name="renamed")
said["after"] = sdk.get_deployment(made["id"])
said["logs"] = [row.message for row in sdk.get_deployment_logs(made["id"])]
said["yielded"] = [row.message for row in sdk.yield_deployment_logs(made["id"])]
said["delete"] = sdk.delete_deployment(other["id"])
said["left"] = sdk.list_deployments()
answer(said)
"""

REFUSED = f"""{IMPORTS}
def error(call, *arguments, **named):
    try:
        return repr(call(*arguments, **named))
    except Exception as problem:
        return type(problem).__name__ + ": " + str(problem)
project, spec = given["project"], given["spec"]
answer({{
    "spec": error(sdk.create_deployment, "demo", project, {{"bogus": 1}}),
    "key": error(sdk.create_deployment, "demo", project, spec, api_key="wrong"),
    "id": error(sdk.get_deployment, "no uuid"),
    "update": error(sdk.update_deployment, "00000000-0000-0000-0000-000000000000", name="x"),
    "delete": error(sdk.delete_deployment, "00000000-0000-0000-0000-000000000000"),
    "project": error(sdk.create_deployment, "demo", "elsewhere", spec),
}})
"""

SPEC = {
    "image": "tensorflow/serving", "port": 8501, "enabled": True,
    "resources": {"replicas": 1, "instanceType": "C4"},
}  # fmt: skip


def environment(sandbox: RunningSandbox) -> dict[str, str]:
    host = sandbox["gradient"]["graphql_url"].removesuffix("/graphql")
    return {
        "PAPERSPACE_API_HOST": sandbox["gradient"]["graphql_url"], "PAPERSPACE_CONFIG_HOST": host,
        "PAPERSPACE_CONFIG_LOG_HOST": host, "PAPERSPACE_API_KEY": sandbox["gradient"]["api_key"],
    }  # fmt: skip


def what_is_given(sandbox: RunningSandbox) -> dict[str, Any]:
    ready = sandbox["gradient"]
    return {"project": ready["seed"]["project_id"], "spec": SPEC, "key": ready["api_key"]}


@pytest.mark.contract
@pytest.mark.timeout(900)
async def test_every_deployment_call_of_the_sdk_succeeds_and_ours_sees_the_same() -> None:
    async with running_sandbox("gradient") as sandbox:
        said = await SDK.run(EVERY_CALL, what_is_given(sandbox), env=environment(sandbox))
        deployment_id = said["create"]["id"]
        node = said["get"]["deployment"]
        [version] = node["deploymentSpecs"]["nodes"]
        [run] = version["deploymentRuns"]["nodes"]
        [instance] = run["deploymentRunInstances"]["nodes"]
        assert (node["id"], node["name"]) == (deployment_id, "demo")
        assert version["data"]["resources"] == {"instanceType": "C4", "replicas": 1}
        assert (run["replicas"], run["readyReplicas"], instance["phase"]) == (1, 1, "Running")
        assert said["missing"] == {"deployment": None}
        assert [n["name"] for n in said["list"]] == ["other", "demo"]
        assert [n["name"] for n in said["filtered"]] == ["other"]
        assert said["none"] == []
        assert said["update"] == said["rename"] == {"id": deployment_id}
        assert len(said["after"]["deployment"]["deploymentSpecs"]["nodes"]) == 2
        assert len(said["logs"]) >= 2
        assert said["yielded"] == [line for line in said["logs"] if line != "PSEOF"]
        assert [n["name"] for n in said["left"]] == ["renamed"]
        for api in ("rest", "graphql"):
            async with block(sandbox, api).get_client() as ours:  # type: ignore[arg-type]
                [seen] = await ours.find()
                assert (seen.id, seen.name, seen.status) == (deployment_id, "renamed", DeploymentStatus.STOPPED)
                theirs = said["after"]["deployment"]["deploymentSpecs"]["nodes"]
                assert [v.id for v in await ours.history(deployment_id)] == [v["id"] for v in theirs]
                assert await ours.logs(deployment_id) == [line for line in said["logs"] if line != "PSEOF"]


@pytest.mark.contract
@pytest.mark.timeout(900)
async def test_the_sdk_understands_every_refusal() -> None:
    async with running_sandbox("gradient") as sandbox:
        said = await SDK.run(REFUSED, what_is_given(sandbox), env=environment(sandbox))
    assert all(text.startswith("TransportQueryError") for text in said.values()), said
    assert "One or more invalid values were supplied." in said["spec"]
    assert "No auth token provided." in said["key"]


@pytest.mark.contract
@pytest.mark.timeout(900)
async def test_the_command_line_of_the_sdk_works_too() -> None:
    script = """
import os, pathlib, subprocess, sys
cli = [str(pathlib.Path(sys.executable).parent / "gradient"), "deployments"]
spec = pathlib.Path(sys.argv[1]).with_suffix(".yaml")
spec.write_text("enabled: true\\nimage: nginx\\nport: 80\\nresources:\\n  replicas: 1\\n  instanceType: C4\\n")
said = {}
def run(name, *arguments):
    done = subprocess.run([*cli, *arguments], capture_output=True, text=True)
    said[name] = [done.returncode, done.stdout + done.stderr]
    return done.stdout
project = given["project"]
made = run("create", "create", "--name", "demo", "--projectId", project, "--spec", str(spec))
deployment = made.split()[-1]
run("get", "get", "--id", deployment)
run("list", "list", "--projectId", project)
run("update", "update", "--id", deployment, "--spec", str(spec))
run("delete", "delete", "--id", deployment)
answer(said)
"""
    async with running_sandbox("gradient") as sandbox:
        said = await SDK.run(script, what_is_given(sandbox), env=environment(sandbox))
        assert {name: code for name, (code, _) in said.items()} == dict.fromkeys(said, 0), said
        assert "nginx" in said["get"][1]
        assert "demo" in said["list"][1]
        assert await sandbox.control.table("gradient", "deployments") == {}, said


# --- ours against the recordings --------------------------------------------------------------------------------------

PSPACE = {
    "pspace session.get",
    "pspace deployments.upsert create",
    "pspace deployments.upsert update (deploymentId)",
    "pspace deployments.upsert invalid",
    "pspace deployments.get",
    "pspace deployments.get 404",
    "pspace deployments.delete",
    "pspace deploymentRuns.get",
}
PSPACE_ID = "d4e74a9c-b125-4bd7-b143-8f5c386df8a9"


def replace(**values: str) -> Any:
    def rename(text: str) -> str:
        for old, new in values.items():
            text = text.replace(old.replace("_", "-"), new)
        return text

    return rename


async def test_rest_sends_what_the_vendors_pspace_sent() -> None:
    """Only pages differ: ours asks for the longest, and names the order that it relies on."""
    async with gradient() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        api = client._api
        control = sandbox.control

        compared = set[str]()

        async def sent(call: str, rename: Any) -> None:
            compared.add(call)
            ours = await control.requests(provider="gradient")
            await control.forget_requests()
            assert_same(ours, recorded("gradient", call), rename=rename)

        named = replace(pabc123=project)
        [create] = recorded("gradient", "pspace deployments.upsert create")
        made = await api.send(create.body["config"])
        await sent("pspace deployments.upsert create", named)
        both = replace(pabc123=project, d4e74a9c_b125_4bd7_b143_8f5c386df8a9=made)
        [update] = recorded("gradient", "pspace deployments.upsert update (deploymentId)")
        await api.send(update.body["config"], deployment_id=made)
        await sent("pspace deployments.upsert update (deploymentId)", both)
        await api.get(made)
        await sent("pspace deployments.get", both)
        await api.runs(made)
        await sent("pspace deploymentRuns.get", both)
        await client.session()
        await sent("pspace session.get", both)
        await api.delete(made)
        await sent("pspace deployments.delete", both)
        with pytest.raises(ProviderError):
            await api.get("00000000-0000-0000-0000-000000000000")
        await sent("pspace deployments.get 404", both)
        [invalid] = recorded("gradient", "pspace deployments.upsert invalid")
        with pytest.raises(ProviderError, match="Input validation failed"):
            await api.send(invalid.body["config"])
        await sent("pspace deployments.upsert invalid", named)
        assert compared == PSPACE


def operation(sent: Sent) -> Any:
    """Root field and variables; the selection may differ (ours asks for all of the spec, to lose nothing of it)."""
    body = sent.body
    found = parse(body["query"], body["variables"])
    return sent.method, sent.path, found.kind, list(found.selection), body["variables"]


MISSING = "00000000-0000-0000-0000-000000000000"
SPEC_OF_SEED = {"image": "nginx", "port": 80, "resources": {"replicas": 1, "instanceType": "C4"}}
RECORDED_SPEC = {
    **SPEC_OF_SEED,
    "image": "tensorflow/serving",
    "port": 8501,
    "resources": {"replicas": 1, "instanceType": "C4"},
}


GRAPH: dict[str, Any] = {
    "sdk.create_deployment": lambda c: c.create_deployment("demo", "prj1", {**RECORDED_SPEC, "enabled": True}),
    "sdk.create_deployment(api_key arg, cluster)": lambda c: c.create_deployment(
        "demo", "prj1", {**RECORDED_SPEC, "enabled": True}, cluster_id="clg1"
    ),
    "sdk.update_deployment(spec)": lambda c: c.update_deployment(PSPACE_ID, spec={**RECORDED_SPEC, "enabled": False}),
    "sdk.update_deployment(name)": lambda c: c.update_deployment(PSPACE_ID, name="renamed"),
    "sdk.get_deployment": lambda c: c.get_deployment(PSPACE_ID),
    "sdk.list_deployments": lambda c: c.list_deployments(),
    "sdk.list_deployments(filters)": lambda c: c.list_deployments(
        name="demo", project_id="prj1", cluster_id="clg1", first=5
    ),
    "sdk.delete_deployment": lambda c: c.delete_deployment(PSPACE_ID),
    "seed.create": lambda c: c.create_deployment("n", "p", SPEC_OF_SEED),
    "seed.update": lambda c: c.update_deployment(PSPACE_ID, spec=SPEC_OF_SEED),
    "seed.list": lambda c: c.list_deployments(project_id="p"),
    "seed.get": lambda c: c.get_deployment(PSPACE_ID),
    "seed.delete": lambda c: c.delete_deployment(PSPACE_ID),
    "sdk.get_deployment missing": lambda c: c.get_deployment(MISSING),
    "cli deployments create": lambda c: c.create_deployment("n", "prj1", {**SPEC_OF_SEED, "enabled": True}),
    "cli deployments update": lambda c: c.update_deployment(PSPACE_ID, spec={**SPEC_OF_SEED, "enabled": True}),
    "cli deployments get": lambda c: c.get_deployment(PSPACE_ID),
    "cli deployments list": lambda c: c.list_deployments(project_id="prj1"),
    "cli deployments delete": lambda c: c.delete_deployment(PSPACE_ID),
}
"""Calls of the vendor's SDK, those in the seed's document, and its command line."""


@pytest.mark.parametrize(("call", "ours"), GRAPH.items())
async def test_graphql_sends_the_operations_and_variables_of_the_sdk(call: str, ours: Any) -> None:
    async with graph() as (sandbox, client):
        with contextlib.suppress(ProviderError):  # ids and projects of the recording do not exist here
            await ours(client)
        [sent] = await sandbox.control.requests(path="/graphql")
        [theirs] = recorded("gradient", call)
        assert operation(Sent.of(sent)) == operation(theirs)


async def test_the_log_host_is_asked_as_the_sdk_asks_it() -> None:
    async with graph() as (sandbox, client):
        with pytest.raises(ProviderError):
            await client.logs(PSPACE_ID)
        assert_same(await sandbox.control.requests(), recorded("gradient", "sdk.get_deployment_logs"))


NOT_OURS = {
    "sdk.create_deployment invalid spec": "ours refuses it before it sends anything",
    "sdk.create_deployment bad key": "the same request as sdk.create_deployment",
    "sdk.yield_deployment_logs": "the same request as sdk.get_deployment_logs",
    "pspace deployments.list": "ours asks for the longest page, and names the order that it relies on",
    "deploy-action ok": "a tool for CI: its requests are sent to the emulator again, below",
    "deploy-action bad config": "the same",
}


def test_every_recorded_call_is_compared_or_left_out_for_a_reason() -> None:
    assert {*GRAPH, *PSPACE, "sdk.get_deployment_logs", *NOT_OURS} == set(calls("gradient"))


@pytest.mark.parametrize("call", [c for c in calls("gradient") if c.startswith(("pspace", "deploy-action"))])
async def test_the_emulator_takes_every_recorded_rest_request(call: str) -> None:
    """The vendor's pspace and its deploy-action run elsewhere: their requests are sent again, as they were."""
    async with gradient() as (sandbox, _):
        ready = sandbox["gradient"]
        headers = {"authorization": f"Bearer {ready['api_key']}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
            base = ready["base_url"].removesuffix("/v1")
            config = {
                "apiVersion": "v1",
                "name": "demo",
                "image": "nginx",
                "resources": {"machineType": "C4", "ports": [80]},
            }
            project = ready["seed"]["project_id"]
            made = await http.post(f"{base}/v1/deployments", json={"projectId": project, "config": config})
            known = made.json()["deploymentId"]
            for sent in recorded("gradient", call):
                path = sent.path.replace(PSPACE_ID, known).replace("pabc123", project)
                body = sent.body
                if body is not None:
                    body = {**body, "projectId": project}
                    if "deploymentId" in body:
                        body["deploymentId"] = known
                answer = await http.request(sent.method, base + path, params=list(sent.query), json=body)
                expected = {"pspace deployments.upsert invalid": 400, "pspace deployments.get 404": 404}.get(call, 200)
                if call == "deploy-action bad config" and sent.method == "POST":
                    expected = 400  # it has no resources: the recording's stub took anything
                assert answer.status_code == expected, answer.text
                if expected != 200:
                    assert {"code", "message"} <= set(answer.json())
                    assert len(answer.json()) <= 3, "pspace takes a longer body for no error"
