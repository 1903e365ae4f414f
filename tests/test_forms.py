"""What Prefect makes of our parameters and blocks: the forms that a person fills in, without a browser."""

from typing import Any

import pytest
from prefect import Flow
from prefect.blocks.core import Block
from prefect.utilities.schema_tools.validation import is_valid

import prefect_modeldeploy.flows as flows
from prefect_modeldeploy.providers.base import ServingCredentials
from tests.test_package import BLOCKS

FORMS: dict[str, dict[str, Any]] = {
    **{block.__name__: block.model_json_schema(ref_template="#/definitions/{model}") for block in BLOCKS},
    **{name: flow.parameters.model_dump() for name, flow in vars(flows).items() if isinstance(flow, Flow)},
}
CANARY = FORMS["canary_rollout"]


@pytest.mark.parametrize("name", FORMS)
def test_every_field_at_any_depth_has_a_title_and_a_description(name: str) -> None:
    """The UI shows a field without a title as "Field", or as the name of a Python class."""
    definitions = FORMS[name].get("definitions") or FORMS[name].get("$defs", {})
    for form in (FORMS[name], *definitions.values()):
        for key, field in form.get("properties", {}).items():
            assert field.get("title"), f"{form['title']}.{key}"
            referred = definitions.get(str(field.get("$ref")).rpartition("/")[2], {})
            assert field.get("description") or referred.get("description"), f"{form['title']}.{key}"


def test_a_choice_between_a_text_and_something_else_says_what_the_text_is() -> None:
    assert [option.get("title") for option in CANARY["properties"]["target"]["anyOf"]] == [None, "Name of a block"]
    assert [option.get("title") for option in CANARY["properties"]["candidate"]["anyOf"]] == ["Id", None]
    assert CANARY["definitions"]["DeploymentSpec"]["title"] == "New deployment"


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
