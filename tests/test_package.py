"""The package from outside: its names, its weight, its block types."""

import subprocess
import sys
from typing import get_args

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite

import prefect_modeldeploy
from prefect_modeldeploy import DeploymentTarget, FreezeCalendar, Gateway
from prefect_modeldeploy.providers import Credentials
from prefect_modeldeploy.sources import Metrics

BLOCKS = (*get_args(Credentials), *get_args(Metrics), FreezeCalendar, Gateway, DeploymentTarget)


def test_every_public_name_can_be_imported() -> None:
    for name in prefect_modeldeploy.__all__:
        assert getattr(prefect_modeldeploy, name) is not None
    assert set(prefect_modeldeploy.__all__) <= set(dir(prefect_modeldeploy))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"prefect_modeldeploy.*nothing"):
        prefect_modeldeploy.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["prefect_modeldeploy", "prefect_modeldeploy.local.node", "prefect_modeldeploy.cli"])
def test_the_node_and_the_command_line_start_without_prefect(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('prefect', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("block", BLOCKS)
class TestBlocks(BlockStandardTestSuite):
    """Prefect's own standard for blocks."""

    @pytest.fixture
    def block(self, block: type) -> type:
        return block

    def test_has_a_valid_image(self, block: type) -> None:
        """Prefect's test downloads the logo; tests of ours need no network."""
        assert str(block._logo_url).startswith("https://")  # type: ignore[attr-defined]
