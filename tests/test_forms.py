"""What Prefect makes of our parameters and blocks: the forms that a person fills in, without a browser."""

from typing import Any

import pytest
from prefect import Flow
from prefect.blocks.core import Block
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools.validation import is_valid

import prefect_modeldeploy.flows as flows
from prefect_modeldeploy.providers.base import ServingCredentials
from tests.test_package import BLOCKS

FLOWS: dict[str, dict[str, Any]] = {
    name: flow.parameters.model_dump() for name, flow in vars(flows).items() if isinstance(flow, Flow)
}
FORMS = FLOWS | {block.__name__: block.model_json_schema(ref_template="#/definitions/{model}") for block in BLOCKS}
CANARY = FLOWS["canary_rollout"]
TARGET = {"target": "production"}
CHANGE = TARGET | {"candidate": "fraud-2"}
FLEET = {"targets": ["production", "fraud"]}


@pytest.mark.parametrize("name", FORMS)
def test_every_field_at_any_depth_has_a_title_and_a_description(name: str) -> None:
    """The UI shows a field without a title as "Field", or as the name of a Python class."""
    definitions = FORMS[name].get("definitions") or FORMS[name].get("$defs", {})
    for form in (FORMS[name], *definitions.values()):
        for key, field in form.get("properties", {}).items():
            assert field.get("title"), f"{form['title']}.{key}"
            referred = definitions.get(str(field.get("$ref")).rpartition("/")[2], {})
            assert field.get("description") or referred.get("description"), f"{form['title']}.{key}"


@pytest.mark.parametrize("name", FLOWS)
def test_a_parameter_is_described_in_plain_text_on_one_line(name: str) -> None:
    """The UI shows a description as it is."""
    for title, form in {"": FLOWS[name], **FLOWS[name].get("definitions", {})}.items():
        for key, field in form.get("properties", {}).items():
            of_others = title in ("DockerHost", "DockerRegistryCredentials")
            assert of_others or not set("`\n") & set(field.get("description", "")), f"{title}.{key}"


@pytest.mark.parametrize("name", FLOWS)
def test_a_choice_between_a_text_and_something_else_says_what_the_text_is(name: str) -> None:
    """The UI shows a text without a title as "str"."""
    for key, field in FLOWS[name]["properties"].items():
        lists = [each["items"] for each in (field, *field.get("anyOf", [])) if "items" in each]
        options = [option for each in (field, *lists) for option in each.get("anyOf", [])]
        texts = [option.get("title") for option in options if option.get("type") == "string"]
        expected = {"target": ["Name of a block"], "targets": ["Name of a block"], "candidate": ["Id"], "to": ["Id"]}
        assert texts == expected.get(key, []), key
    if "candidate" in FLOWS[name]["properties"]:
        assert FLOWS[name]["definitions"]["DeploymentSpec"]["title"] == "New deployment"


def test_a_block_that_others_hold_is_titled_like_its_class() -> None:
    """Prefect's server files the schema of a held block under its title, and looks for it under its class's name."""
    held = [block for block in BLOCKS if issubclass(block, Block) and issubclass(block, ServingCredentials)]
    assert held
    assert all(FORMS[block.__name__]["title"] == block.__name__ for block in held)


@pytest.mark.parametrize("share", [0.01, 0.29, 1.1, 33.33, 99.99])
def test_the_server_accepts_every_share_that_the_plan_accepts(share: float) -> None:
    assert is_valid({"target": "production", "candidate": "fraud-2", "plan": {"steps": [share]}}, CANARY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan": {"steps": [500]}},
        {"plan": {"step_seconds": -1}},
        {"plan": {"on_undecided": "panic"}},
        {"plan": {"judge": {"alpha": 2}}},
        {"candidate": {"name": "No Good", "model": "fraud"}},
        {"approval": {"timeout_seconds": 0}},
    ],
    ids=str,
)
def test_the_server_refuses_wrong_input_before_a_run_exists(wrong: dict[str, Any]) -> None:
    assert not is_valid({"target": "production", "candidate": "fraud-2"} | wrong, CANARY)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("canary_rollout", CHANGE, {"plan": {"bake_seconds": -1}}),
        ("plan_rollout", CHANGE, {"plan": {"steps": [0]}}),
        ("promote_to_production", CHANGE | {"bake_seconds": 0}, {"bake_seconds": -1}),
        ("roll_back", TARGET, {"target": 5}),
        ("reconcile_rollouts", {}, {"targets": []}),
        ("scale_to_zero", FLEET | {"only_if_idle_seconds": None}, {"only_if_idle_seconds": -5}),
        ("scale_to_zero", FLEET, {"targets": []}),
        ("wake_up", FLEET | {"timeout_seconds": 0.5}, {"timeout_seconds": -1}),
        ("fleet_report", FLEET, {"targets": []}),
        ("clean_up_orphans", FLEET | {"older_than_seconds": 0}, {"older_than_seconds": -1}),
    ],
)
def test_every_flow_refuses_wrong_input_in_its_form_and_from_python(
    name: str, right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    assert is_valid(right, FLOWS[name])
    assert not is_valid(right | wrong, FLOWS[name])
    flow: Flow[..., Any] = vars(flows)[name]
    with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
        flow.validate_parameters(right | wrong)


def test_a_time_that_cannot_be_is_refused_with_its_value() -> None:
    flow: Flow[..., Any] = flows.scale_to_zero
    for seconds in (-5, float("nan")):
        with pytest.raises(ParameterTypeError, match=f"only_if_idle_seconds.*{seconds:g} cannot be"):
            flow.validate_parameters(FLEET | {"only_if_idle_seconds": seconds})


@pytest.mark.parametrize("block", BLOCKS)
def test_the_reference_that_is_computed_once_is_prefects_own(block: type[Block]) -> None:
    own = Block._to_block_schema_reference_dict.__func__(block)  # type: ignore[attr-defined]
    assert block._to_block_schema_reference_dict() == own
    assert block._to_block_schema_reference_dict() is not block._to_block_schema_reference_dict(), "no one's to change"
