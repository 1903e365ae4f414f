"""The document that this provider was created from: its operation, fields, statuses and example exist here."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus
from prefect_modeldeploy.errors import NotFound, ProviderError
from prefect_modeldeploy.providers.baseten import AutoscalingSettings, BasetenClient
from prefect_modeldeploy.providers.baseten.answers import AutoscalingState, VendorDeployment
from prefect_modeldeploy.providers.baseten.reading import MANAGEMENT_URL
from prefect_modeldeploy.providers.baseten.words import STATUSES, translate
from prefect_modeldeploy.sandbox.baseten import BasetenEmulator
from tests.conftest import serve
from tests.providers.baseten_kit import baseten, seeded

SEED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "contract" / "seeds" / "baseten.json").read_text())
PAGE = (Path(__file__).parents[2] / "prefect_modeldeploy" / "docs" / "providers" / "baseten.md").read_text()
OURS: dict[str, type[BaseModel]] = {"DeploymentV1": VendorDeployment, "AutoscalingSettingsV1": AutoscalingState}
TYPES = {
    "string": str,
    "date-time": datetime,
    "boolean": bool,
    "integer": int,
    "AutoscalingSettingsV1": AutoscalingState,
}
FIELDS = [(schema, name) for schema in OURS for name in SEED["schemas"][schema]["properties"]]


def translated(**changes: Any) -> Any:
    return translate({**SEED["example"], **changes}, "https://x")


@pytest.mark.parametrize(("schema", "name"), FIELDS)
def test_every_field_exists_with_its_type_a_description_and_a_place_in_the_docs(schema: str, name: str) -> None:
    field = OURS[schema].model_fields[name]
    theirs, _, nullable = SEED["schemas"][schema]["properties"][name].partition("|")
    types = {field.annotation, *get_args(field.annotation)}
    assert TYPES[theirs] in types
    assert not nullable or NoneType in types
    assert field.description
    assert f"`{name}`" in PAGE


def test_settings_can_be_sent_as_they_can_be_read() -> None:
    assert set(SEED["schemas"]["AutoscalingSettingsV1"]["properties"]) <= set(AutoscalingSettings.model_fields)


def test_every_status_has_a_meaning_and_a_row_in_the_docs() -> None:
    assert set(STATUSES) == set(SEED["statuses"])
    for word, ours in STATUSES.items():
        assert f"| {word} | {ours.value} |" in PAGE
        assert translated(status=word).status is ours


def test_an_unknown_status_is_kept_and_no_exception() -> None:
    found = translated(status="NEW_WORD")
    assert (found.status, found.provider_status, found.ready) == (DeploymentStatus.UNKNOWN, "NEW_WORD", False)


def test_the_example_is_read_although_it_breaks_the_vendors_rules() -> None:
    found = translated()
    assert (found.id, found.name, found.model_id) == ("<string>/<string>", "<string>", "<string>")
    assert found.created_at == datetime(2023, 11, 7, 5, 31, 56, tzinfo=UTC)
    assert (found.status, found.ready) == (DeploymentStatus.BUILDING, False)
    assert (found.replicas.running, found.replicas.ready) == (123, 0)
    assert found.autoscaling == Autoscaling(
        min_replicas=123, max_replicas=123, target_concurrency=123, scale_down_delay_seconds=123, window_seconds=123
    )
    assert found.raw == SEED["example"]
    with pytest.raises(ValidationError, match="target_utilization_percentage"):
        AutoscalingSettings.model_validate(SEED["example"]["autoscaling_settings"])  # read, but never sent


@pytest.mark.parametrize("missing", SEED["schemas"]["DeploymentV1"]["required"])
def test_a_missing_field_is_borne_but_for_the_id(missing: str) -> None:
    raw = {name: value for name, value in SEED["example"].items() if name != missing}
    if missing == "id":
        with pytest.raises(ProviderError, match="id: Field required"):
            translate(raw, "https://x")
    else:
        assert translate(raw, "https://x").raw == raw


@pytest.mark.parametrize("settings", [None, {"min_replica": 9, "max_replica": 1}, {"min_replica": -1, "extra": 1}])
def test_settings_that_make_no_sense_are_borne(settings: Any) -> None:
    assert translated(autoscaling_settings=settings).raw["autoscaling_settings"] == settings


async def test_the_operation_is_sent_as_documented() -> None:
    seen: list[Request] = []

    async def answer(request: Request) -> Response:
        seen.append(request)
        return JSONResponse(SEED["example"])

    operation = SEED["operation"]
    async with (
        serve(Starlette(routes=[Route(operation["path"], answer)])) as url,
        BasetenClient(SecretStr("<Your_Api_Key>"), url) as client,
    ):
        await client.get("abc/def")
    [request] = seen
    assert request.method == operation["method"]
    assert request.path_params == {"model_id": "abc", "deployment_id": "def"}
    assert dict(request.query_params) == operation["query"]
    assert request.headers["authorization"] == operation["authorization"]
    assert SEED["server"] == MANAGEMENT_URL


async def test_the_emulator_answers_with_the_documents_fields() -> None:
    async with baseten() as (sandbox, client):
        raw = (await client.get(seeded(sandbox))).raw
        for name in SEED["schemas"]["DeploymentV1"]["required"]:
            assert name in raw
        for name in SEED["schemas"]["AutoscalingSettingsV1"]["required"]:
            assert name in raw["autoscaling_settings"]
        assert raw["status"] in SEED["statuses"]
        with pytest.raises(NotFound):
            await client.get(f"{raw['model_id']}/none")


def test_the_emulators_words_are_the_documents() -> None:
    timelines = BasetenEmulator.timelines
    words = {word for name, line in timelines.items() if name != "promotion" for word, _ in line.stages}
    assert words | {line.end for name, line in timelines.items() if name != "promotion"} <= set(SEED["statuses"])
