"""The document that this provider was created from: every operation, field, default, enum and error of it exists here.

The document has no example payloads, so none breaks its vendor's rules.
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prefect_modeldeploy.errors import Problem
from prefect_modeldeploy.providers.scale import BASE_URL, schemas
from prefect_modeldeploy.providers.scale.wire import read_problem
from tests.providers.scale_kit import Account, account, scale_sandbox

__all__ = ["account", "scale_sandbox"]

SEED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "contract" / "seeds" / "scale.json").read_text())

OURS: dict[str, type[BaseModel]] = {
    "ModelDeploymentResponse": schemas.ScaleDeployment,
    "LaunchDeploymentVendorConfiguration": schemas.LaunchConfiguration,
    "LLMEngineDeploymentVendorConfiguration": schemas.LLMEngineConfiguration,
    "ValidationError": schemas.ValidationProblem,
}
JSON_TYPES = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": tuple}

FIELDS = [(schema, name) for schema in OURS for name in SEED["schemas"][schema]["properties"]]


def test_nothing_of_the_document_is_left_out() -> None:
    others = {"HTTPValidationError", "DeploymentVendorConfiguration", "IdentifierTypeEnum", "GPUType"}
    assert set(SEED["schemas"]) == set(OURS) | others
    assert SEED["server"] == BASE_URL


@pytest.mark.parametrize(("schema", "name"), FIELDS)
def test_every_field_exists_with_its_type_and_a_description(schema: str, name: str) -> None:
    field: FieldInfo = OURS[schema].model_fields[name]
    assert field.description
    theirs = SEED["schemas"][schema]["properties"][name]
    if "type" in theirs and "format" not in theirs:
        assert JSON_TYPES[theirs["type"]] in _types(field.annotation)
    if "const" in theirs:
        assert get_args(field.annotation) == (theirs["const"],)
    if "default" in theirs:
        assert field.default == theirs["default"]


def _types(annotation: Any) -> set[Any]:
    found = {getattr(annotation, "__origin__", annotation)}
    for argument in get_args(annotation):
        found |= _types(argument) if not isinstance(argument, str | int) else {type(argument)}
    return found


def test_enums_have_the_documents_values() -> None:
    assert list(get_args(schemas.GPUType)) == SEED["schemas"]["GPUType"]["enum"]
    assert list(get_args(schemas.IdentityType)) == SEED["schemas"]["IdentifierTypeEnum"]["enum"]
    union = SEED["schemas"]["DeploymentVendorConfiguration"]
    assert union["discriminator"] == "vendor"
    assert [OURS[name] for name in union["oneOf"]] == list(schemas.CONFIGURATIONS.values())


async def test_the_operation_is_called_as_documented(account: Account) -> None:
    seeded = await account.seeded()
    await account.control.forget_requests()
    found = await account.client.get(seeded.id)
    request = (await account.sent())[0]
    names = dict(zip(("model_instance_id", "deployment_id"), seeded.id.split("/"), strict=True))
    assert {one["name"] for one in SEED["operation"]["parameters"]} == set(names)
    assert (request.method, request.path) == (SEED["operation"]["method"], SEED["operation"]["path"].format(**names))
    assert set(SEED["schemas"]["ModelDeploymentResponse"]["properties"]) == set(found.raw)


def test_both_documented_answers_are_read() -> None:
    assert SEED["operation"]["responses"] == {"200": "ModelDeploymentResponse", "422": "HTTPValidationError"}
    import httpx

    entry = {"loc": ["path", 0], "msg": "bad", "type": "t", "input": 1, "ctx": {"ge": 0}}
    found = read_problem(httpx.Response(422, json={"detail": [entry, {"msg": "worse"}]}))
    assert found == Problem("path.0: bad; : worse", 422, "t", {"detail": [entry, {"msg": "worse"}]})


@pytest.mark.parametrize("body", ["[]", "{}", '{"detail": []}', '{"detail": null}', "<html>", "", '{"detail": [1]}'])
def test_an_error_of_any_form_is_read(body: str) -> None:
    import httpx

    assert read_problem(httpx.Response(500, text=body)).status_code == 500


def test_a_configuration_is_read_typed_and_unknown_vendors_are_kept() -> None:
    def read(configuration: Any) -> schemas.ScaleDeployment:
        return schemas.ScaleDeployment.read({"vendor_configuration": configuration})

    assert read({"vendor": "LAUNCH", "min_workers": 2, "new": 1}).configuration == schemas.LaunchConfiguration(
        vendor="LAUNCH", min_workers=2
    )
    assert isinstance(read({"vendor": "LLMENGINE", "gpu_type": None}).configuration, schemas.LLMEngineConfiguration)
    assert read({"vendor": "NEW", "foo": 1}).configuration is None
    assert read({"min_workers": 2}).configuration is None  # the document does not require the word that tells which
    assert read({"vendor": "NEW", "foo": 1}).vendor_configuration == {"vendor": "NEW", "foo": 1}
    assert read({"vendor": "LAUNCH", "min_workers": "many"}).configuration is None
