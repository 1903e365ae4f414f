"""The document that the provider was written from: all that is in it exists, and its examples are read."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, Resources
from prefect_modeldeploy.errors import AuthenticationFailed, InvalidInput, NotFound, ProviderError
from prefect_modeldeploy.providers.foundry import FoundryApi
from prefect_modeldeploy.providers.foundry.config import configured
from prefect_modeldeploy.providers.foundry.problems import KNOWN, read_error
from prefect_modeldeploy.providers.foundry.types import (
    DirectTarget,
    LiveDeployment,
    LiveModelVersion,
    LiveStatus,
    RuntimeConfiguration,
    checked,
)
from prefect_modeldeploy.providers.foundry.words import translated
from prefect_modeldeploy.transport import Transport
from tests.providers.foundry_kit import Foundry, shared_foundry, stack

__all__ = ["shared_foundry", "stack"]

SEED: dict[str, Any] = json.loads((Path(__file__).parent.parent / "contract" / "seeds" / "foundry.json").read_text())
PAGE = (files("prefect_modeldeploy") / "docs" / "providers" / "foundry.md").read_text()
ANSWER = SEED["answer"]


def names(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(names(inner) for inner in value.values()))


@pytest.mark.parametrize("name", sorted(names(ANSWER) | names(SEED["request"]) | {"deploymentType", "preview"}))
def test_every_field_and_parameter_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_field_is_typed() -> None:
    typed = {
        field.alias or name
        for model in (LiveDeployment, LiveModelVersion, LiveStatus, RuntimeConfiguration, DirectTarget)
        for name, field in model.model_fields.items()
    }
    assert names(ANSWER) | names(SEED["request"]) <= typed


def test_the_examples_answer_is_read_whole() -> None:
    live = LiveDeployment.model_validate(ANSWER)
    assert live.raw == ANSWER
    found = translated(
        live, ANSWER["modelVersion"]["modelVersionRid"], environment="production", api_url="https://x/api"
    )
    assert (found.status, found.ready, found.provider_status) == (DeploymentStatus.READY, True, "ACTIVE")
    assert found.id == ANSWER["rid"]
    assert (found.model_id, found.version) == tuple(ANSWER["modelVersion"].values())
    assert found.autoscaling == Autoscaling(min_replicas=1, max_replicas=3)
    assert found.resources == Resources(cpu_millicores=1000, memory_mib=256)
    assert found.raw == ANSWER


def test_the_examples_answer_lacks_required_fields_which_the_next_change_sends() -> None:
    changed = configured(ANSWER["runtimeConfiguration"], autoscaling=Autoscaling(max_replicas=4))
    assert changed == {**ANSWER["runtimeConfiguration"], "maxReplicas": 4, "sources": [], "environmentVariables": {}}


async def test_the_examples_request_lacks_required_fields_and_is_refused(stack: Foundry) -> None:
    about = stack.sandbox["foundry"]
    headers = {"authorization": f"Bearer {about['token']}"}
    async with httpx.AsyncClient(base_url=about["base_url"], headers=headers, trust_env=False) as http:
        operation = SEED["operation"]
        answer = await http.post(operation["path"], params=operation["query"], json=SEED["request"])
    assert (answer.status_code, answer.json()["parameters"]["parameter"]) == (400, "body.deploymentType")
    with pytest.raises(InvalidInput, match=r"deploymentType\.modelRid"):
        checked(DirectTarget, "deploymentType", {"branch": "master"})


async def test_our_create_sends_what_the_example_says_and_what_it_lacks(stack: Foundry) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=ANSWER)

    runtime = RuntimeConfiguration.model_validate(SEED["request"]["runtimeConfiguration"])
    async with Transport("foundry", "https://x/api", http=httpx.MockTransport(answer)) as transport:
        model = ANSWER["modelVersion"]["modelRid"]
        assert (await FoundryApi(transport).create_live_deployment(model, "master", runtime)).raw == ANSWER
    body = json.loads(sent[0].read())
    assert (sent[0].method, sent[0].url.path, dict(sent[0].url.params)) == (
        "POST", SEED["operation"]["path"], SEED["operation"]["query"],
    )  # fmt: skip
    assert sorted(body) == SEED["request_fields"]
    assert body["runtimeConfiguration"] == {
        **SEED["request"]["runtimeConfiguration"], "sources": [], "environmentVariables": {},
    }  # fmt: skip


@pytest.mark.parametrize("error", SEED["errors"], ids=lambda error: str(error["errorName"]))
async def test_every_error_keeps_its_name_code_and_parameters(error: dict[str, Any]) -> None:
    parameters = dict.fromkeys(error["parameters"], 7)
    body = {"errorCode": error["errorCode"], "errorName": error["errorName"], "errorInstanceId": "i"}
    http = httpx.MockTransport(lambda _: httpx.Response(error["status"], json={**body, "parameters": parameters}))
    async with Transport("foundry", "https://x/api", read_error=read_error, http=http) as transport:
        with pytest.raises(ProviderError) as caught:
            await FoundryApi(transport).live_deployment("ri.a..b.c")
    problem = caught.value.problem
    assert (problem.code, problem.status_code) == (error["errorName"], error["status"])
    assert problem.parameters == {**parameters, "errorCode": error["errorCode"], "errorInstanceId": "i"}
    assert KNOWN[error["errorName"]] in str(caught.value)
    assert type(caught.value) is {400: ProviderError, 403: AuthenticationFailed, 404: NotFound}[error["status"]]
    assert error["errorName"] in PAGE
    assert all(f"`{name}`" in PAGE for name in error["parameters"])


def test_the_pages_example_runs() -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["foundry"].branches == {"production": "master"}


def test_every_known_error_is_in_the_documentation() -> None:
    assert [name for name in KNOWN if name not in PAGE] == []


def test_the_page_states_the_rules_that_the_example_breaks() -> None:
    for words in ("deploymentType", "sources", "ACTIVE", SEED["operation"]["scope"]):
        assert words in PAGE.partition("break the vendor's own rules")[2] or words in PAGE
