"""The live tests run: here against the sandbox, whose ready file gives the variables."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.live.accounts import ACCOUNTS, live
from tests.providers import gradient_kit
from tests.sandbox.kit import RunningSandbox, running_sandbox

ROOT = Path(__file__).parents[2]


async def variables(sandbox: RunningSandbox) -> dict[str, str]:
    """What a user of this sandbox would set."""
    baseten, scale, foundry, fiddler, gradient = (
        sandbox[name] for name in ("baseten", "scale", "foundry", "fiddler", "gradient")
    )
    async with gradient_kit.block(sandbox).get_client() as client:
        [deployed] = [await client.create(gradient_kit.a_spec())]
    async with live("scale", {**_scale(scale), "SCALE_LIVE_DEPLOYMENT": "any"}) as there:
        [first] = await there.client.find(model=scale["seed"]["model_instance_id"])
    async with live("foundry", {**_foundry(foundry), "FOUNDRY_LIVE_DEPLOYMENT": "any"}) as there:
        [second] = await there.client.find(model=foundry["seed"]["model_rid"])
    return {
        **_scale(scale),
        **_foundry(foundry),
        "SCALE_LIVE_DEPLOYMENT": first.id,
        "FOUNDRY_LIVE_DEPLOYMENT": second.id,
        "BASETEN_API_KEY": baseten["api_key"],
        "BASETEN_BASE_URL": baseten["base_url"],
        "BASETEN_INFERENCE_URL": baseten["inference_url"],
        "BASETEN_LIVE_DEPLOYMENT": f"{baseten['seed']['model_id']}/{baseten['seed']['deployment_id']}",
        "FIDDLER_URL": fiddler["base_url"],
        "FIDDLER_TOKEN": fiddler["token"],
        "FIDDLER_LIVE_DEPLOYMENT": fiddler["seed"]["model_id"],
        "FIDDLER_LIVE_PAYLOAD": '[{"age": 4}]',
        "PAPERSPACE_API_KEY": gradient["api_key"],
        "GRADIENT_PROJECT": gradient["seed"]["project_id"],
        "GRADIENT_BASE_URL": gradient["base_url"],
        "GRADIENT_LIVE_DEPLOYMENT": deployed.id,
    }


def _scale(ready: dict[str, str]) -> dict[str, str]:
    return {f"SCALE_{name.upper()}": ready[name] for name in ("api_key", "account_id", "base_url")}


def _foundry(ready: dict[str, str]) -> dict[str, str]:
    return {f"FOUNDRY_{name.upper()}": ready[name] for name in ("base_url", "token")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"), [("1", "15 passed"), pytest.param("", "10 passed, 5 skipped", marks=pytest.mark.slow)]
)
async def test_every_live_test_passes_against_the_sandbox(change: str, told: str) -> None:
    async with running_sandbox(*ACCOUNTS) as sandbox:
        given = {**os.environ, **await variables(sandbox), "MODELDEPLOY_LIVE_CHANGE": change}
        command = (sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "live", "tests/live/test_live.py")
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
    assert told in out.decode(), out.decode()[-6000:]


@pytest.mark.parametrize("provider", sorted(ACCOUNTS))
async def test_without_variables_they_are_skipped_and_say_which(provider: str) -> None:
    with pytest.raises(pytest.skip.Exception) as skipped:
        async with live(provider, {}):
            pass
    for name in (*ACCOUNTS[provider].required.values(), f"{provider.upper()}_LIVE_DEPLOYMENT"):
        assert name in str(skipped.value)
