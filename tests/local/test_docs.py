"""The node's page names every option, word and status that there is."""

from pathlib import Path

import pytest

import prefect_modeldeploy
from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.local import views
from prefect_modeldeploy.local.spec import LocalOptions
from prefect_modeldeploy.local.store import Mode

PAGE = (Path(prefect_modeldeploy.__file__).parent / "docs" / "serving-node.md").read_text()


@pytest.mark.parametrize("word", [*LocalOptions.model_fields, *Mode, "draining", "failed"])
def test_every_option_and_word_is_on_the_page(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_every_status_that_the_node_can_say_is_on_the_page() -> None:
    said = {name for name in DeploymentStatus if name.name in views.status_of.__code__.co_names}
    assert len(said) > 5
    assert not {status for status in said if status.value not in PAGE}
