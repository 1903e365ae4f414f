"""The document that this provider was created from ("fdl.ModelDeployment"): all of it exists here.

Its example breaks the vendor's own rules in one place: `job_uuid` is no UUID (it holds `j` and `g`). It is read as it
is, and sent as it is when the job is asked for.
"""

import json
import types
from datetime import datetime
from pathlib import Path
from typing import Any, Union, get_args, get_origin
from uuid import UUID

import pytest

from prefect_modeldeploy.deployments import DeploymentStatus, Resources
from prefect_modeldeploy.providers.fiddler import ArtifactType, DeploymentType, Model, ModelDeployment, UserCompact
from prefect_modeldeploy.providers.fiddler.api import FIRST_V3
from prefect_modeldeploy.providers.fiddler.notes import Notes
from prefect_modeldeploy.providers.fiddler.views import view
from tests.providers.fiddler_kit import Account, account, credentials, fiddler_sandbox

__all__ = ["account", "fiddler_sandbox"]

SEED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "contract" / "seeds" / "fiddler.json").read_text())
TYPES = {
    "str": str,
    "int": int,
    "bool": bool,
    "UUID": str,
    "datetime.datetime": datetime,
    "fdl.UserCompact": UserCompact,
}


def alternatives(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return {inner for part in get_args(annotation) for inner in alternatives(part)}
    return {annotation}


@pytest.mark.parametrize("field", SEED["fields"], ids=lambda field: field["name"])
def test_every_field_exists_with_its_type(field: dict[str, str]) -> None:
    ours = ModelDeployment.model_fields[field["name"]]
    wanted = field["type"].replace("\\", "").removeprefix("Optional[").removesuffix("]")
    # v2's id is a number, v3's an UUID: both are kept as a text.
    expected = str if field["name"] == "id" else TYPES[wanted]
    assert expected in alternatives(ours.annotation)
    assert ours.default == {"None": None, "True": True}[field["default"]]


def test_every_enumerated_word_exists() -> None:
    assert set(ArtifactType) == set(SEED["artifact_types"])
    assert set(DeploymentType) == {*SEED["deployment_types"], "MANUAL"}, "MANUAL came with client 1.8.4"
    assert set(UserCompact.model_fields) == set(SEED["user_compact"])


def test_the_example_is_read_and_its_broken_job_is_kept() -> None:
    read = ModelDeployment.read(SEED["example"])
    with pytest.raises(ValueError):
        UUID(SEED["example"]["job_uuid"])
    assert read.job_id == SEED["example"]["job_uuid"]
    assert (read.id, read.uuid) == ("106548", SEED["example"]["uuid"])
    assert read.created_by is not None
    assert (read.created_by.id, read.created_by.email) == ("4839", "example_email@gmail.com")
    assert read.created_at == datetime(2023, 1, 27, 10, 9, 39, 793829)
    dumped = read.model_dump(mode="json", exclude_unset=True)
    assert {**dumped, "id": 106548} == {**dumped, **SEED["example"], "id": 106548} | {
        "created_by": dumped["created_by"], "updated_by": dumped["updated_by"],
    }  # fmt: skip


def test_the_example_in_our_words() -> None:
    id = "PROJECT_NAME:MODEL_NAME"
    seen = view(
        id,
        "https://x/v2/predict",
        Model(id=id, name="MODEL_NAME"),
        ModelDeployment.read(SEED["example"]),
        None,
        Notes(),
    )
    assert (seen.id, seen.model_id, seen.status) == (id, "MODEL_NAME", DeploymentStatus.READY)
    assert seen.resources == Resources(cpu_millicores=250, memory_mib=512)
    assert (seen.replicas.ready, seen.created_by) == (1, "example_email@gmail.com")
    assert seen.raw["deployment"]["image_uri"] == "md-base/python/machine-learning:1.0.0"


async def test_the_broken_job_is_asked_for_as_it_is(account: Account) -> None:
    answer = {"api_version": "2.0", "kind": "NORMAL", "data": SEED["example"]}
    path = "/v2/model-deployments/acme:bank_churn:churn"
    await account.control.fault(path=path, kind="status", status=200, body=answer)
    async with credentials(account.sandbox, api="v2").get_client() as old:
        seen = await old.get("bank_churn:churn")
    assert [one.path for one in await account.sent("GET", "/v2/jobs/*")] == [f"/v2/jobs/{SEED['example']['job_uuid']}"]
    assert seen.ready, "a job that is not found says nothing against it"


def test_servers_that_have_the_feature_but_not_v3_are_served_by_v2() -> None:
    assert SEED["supported_from"] == "23.1"
    assert str(FIRST_V3) == "24.4"


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 0}, {"replicas": "many"}, {"cpu": -5, "memory": 0}, {"created_at": "yesterday"},
        {"created_by": "somebody"}, {"active": None}, {"artifact_type": "NEW"}, {"new_field": {"a": 1}}, {"model": []},
    ],
)  # fmt: skip
def test_an_answer_that_breaks_the_rules_is_read_all_the_same(change: dict[str, Any]) -> None:
    seen = view("i", "u", Model(id="i"), ModelDeployment.read({**SEED["example"], **change}), None, Notes())
    assert seen.provider == "fiddler"
