"""blocks/create_docker.py, with a real engine and a real Prefect server."""

import asyncio
import os

import docker
import pytest
from prefect.types import SecretDict

from prefect_modeldeploy import DockerServing
from prefect_modeldeploy.block_scripts import run
from tests.test_top_level import ROOT, imported, variables

SCRIPT = imported(ROOT / "blocks" / "create_docker.py")
BLOCK = "docker-of-a-test"

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def address(engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine's, in the script's own variable; none of its others but the name of the block."""
    for name in variables(SCRIPT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELDEPLOY_DOCKER_BLOCK", BLOCK)
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    monkeypatch.setenv("MODELDEPLOY_DOCKER_HOST", address)
    return address


async def test_the_script_saves_the_block_again_and_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDEPLOY_DOCKER_SECRETS", "API_KEY")
    monkeypatch.setenv("API_KEY", "planted-key")
    said = await SCRIPT.main()
    assert said.startswith(f"created docker-serving/{BLOCK}; engine ")
    assert "planted-key" not in said
    saved = await DockerServing.aload(BLOCK)
    saved.lowest_port = 25_000  # as a person does it in the UI
    await saved.save(BLOCK, overwrite=True)

    monkeypatch.delenv("MODELDEPLOY_DOCKER_SECRETS")
    monkeypatch.delenv("MODELDEPLOY_DOCKER_HOST")
    monkeypatch.setenv("MODELDEPLOY_DOCKER_BIND", "127.0.0.2")
    assert (await SCRIPT.main()).startswith(f"updated docker-serving/{BLOCK}; engine ")
    saved = await DockerServing.aload(BLOCK)
    assert saved.host is not None
    assert (saved.host.base_url, saved.bind_address, saved.lowest_port) == (address, "127.0.0.2", 25_000)
    assert saved.secret_env == SecretDict({"API_KEY": "planted-key"})
    async with saved.get_client() as client:
        assert await client.engine.version()


async def test_an_engine_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDEPLOY_DOCKER_BLOCK", "never")
    for wrong in ("unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"):
        monkeypatch.setenv("MODELDEPLOY_DOCKER_HOST", wrong)
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(run, SCRIPT.main, SCRIPT.VARIABLES)
        said = str(ended.value)
        assert "\n" not in said
        assert "docker" in said.lower()
    with pytest.raises(ValueError, match="Unable to find block document named never"):
        await DockerServing.aload("never")
