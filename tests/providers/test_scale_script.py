"""The script that saves the Scale Credentials block, run as a user runs it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from prefect_modeldeploy import ScaleCredentials
from tests.sandbox.kit import running_sandbox

SCRIPT = Path(__file__).parents[2] / "blocks" / "create_scale.py"

pytestmark = pytest.mark.usefixtures("prefect_server")


async def run(**variables: str) -> tuple[int | None, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCALE_")}
    environment |= {"PREFECT_API_URL": get_current_settings().api.url or "", **variables}
    pipe = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), env=environment, **pipe)
    output, _ = await process.communicate()
    return process.returncode, output.decode().strip()


@pytest.mark.slow
async def test_it_checks_the_key_saves_the_block_and_can_be_run_again() -> None:
    async with running_sandbox("scale") as sandbox:
        ready = sandbox["scale"]
        variables = {"SCALE_API_KEY": ready["api_key"], "SCALE_ACCOUNT_ID": ready["account_id"]}
        for done in ("created", "updated"):
            code, said = await run(**variables, SCALE_BASE_URL=ready["base_url"], SCALE_BLOCK="from-script")
            assert (code, said) == (0, f"{done} scale-credentials/from-script; 1 deployments")
        saved = await ScaleCredentials.aload("from-script")
        assert saved.base_url == ready["base_url"]
        code, said = await run(SCALE_API_KEY="wrong", SCALE_BASE_URL=ready["base_url"], SCALE_BLOCK="never")
    assert code == 1
    assert said.startswith("scale: ")
    assert "Traceback" not in said


async def test_a_missing_key_is_one_clear_line() -> None:
    assert await run() == (1, "SCALE_API_KEY is not set: the table at the top of create_scale.py says what it is")
