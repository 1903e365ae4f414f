"""Planted keys are found nowhere: not in what Prefect stores, nor in what is logged, printed, raised or reported."""

import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_LOGGING_LEVEL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
from pydantic import SecretStr

from prefect_modeldeploy import DeploymentTarget, promote_to_production, roll_back
from prefect_modeldeploy.errors import ModelDeployError
from prefect_modeldeploy.providers.base import ServingCredentials
from prefect_modeldeploy.tasks import aget_deployment, alist_deployments, apredict
from tests.flows.hosted import MAKERS, hosted
from tests.prefect_server import running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    """The folder of a Prefect server's database, and of nothing else."""
    with temporary_settings({PREFECT_LOGGING_LEVEL: "DEBUG"}), running_server():
        yield Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().partition("///")[2]).parent


def secrets_of(credentials: ServingCredentials) -> list[str]:
    values = [getattr(credentials, name) for name in type(credentials).model_fields]
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr) and value]


@flow
async def everything(target: DeploymentTarget, candidate: object) -> None:
    """Work and refusals, with the target as a parameter."""
    await promote_to_production(target, candidate, mode="native", note="with planted keys")
    found = await alist_deployments(target)
    await apredict(target, found[0].id, {"x": 1}, return_state=True)
    await roll_back(target)
    await aget_deployment(target, "no-such-deployment", return_state=True)


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_a_planted_key_is_found_nowhere(
    provider: str,
    database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODELDEPLOY_HOME", str(tmp_path / "home"))
    caplog.set_level(logging.DEBUG)
    async with hosted(provider, tmp_path / "site") as site:
        credentials = site.target.credentials
        planted = secrets_of(credentials)
        assert planted
        await credentials.save(f"{provider}-planted", overwrite=True)
        await site.target.save(f"{provider}-planted", overwrite=True)
        saved = await DeploymentTarget.aload(f"{provider}-planted")
        await everything(saved, site.candidate)
        said = [repr(saved), str(saved), saved.model_dump_json(), *await _refusals(site.target)]
    output = capfd.readouterr()
    said += [caplog.text, output.out, output.err]
    stored = [path.read_bytes() for folder in (database, tmp_path / "home") for path in _files(folder)]
    assert re.search(rb"promote-to-production", b"".join(stored)), "the runs are in there"
    for secret in planted:
        assert not [text for text in said if secret in text]
        assert not [content for content in stored if secret.encode() in content]


async def _refusals(target: DeploymentTarget) -> list[str]:
    """What a wrong key and an unreachable vendor say, to the last traceback."""
    wrong = {
        name: SecretStr(f"{value.get_secret_value()}-wrong")
        for name in type(target.credentials).model_fields
        if isinstance(value := getattr(target.credentials, name), SecretStr) and value
    }
    said = []
    for changes in (wrong, {"base_url": "http://127.0.0.1:9"}):
        credentials = target.credentials.model_copy(update=changes)
        try:
            async with credentials.get_client() as client:
                await client.find(model=target.model)
        except ModelDeployError as error:
            said += ["".join(traceback.format_exception(error)), repr(error), str(error)]
        else:
            pytest.fail(f"{changes}: was not refused")
    return said


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
