"""A Deployment Target as users save and load it, with any provider's credentials in it."""

from typing import Any, get_args

import pytest
from prefect.blocks.core import Block
from prefect.types import SecretDict
from prefect_docker import DockerHost, DockerRegistryCredentials
from pydantic import SecretStr, ValidationError

from prefect_modeldeploy import (
    BasetenCredentials,
    BasetenMetrics,
    DeploymentTarget,
    DockerServing,
    FiddlerCredentials,
    FoundryCredentials,
    Gateway,
    GradientCredentials,
    LocalServing,
    PrometheusMetrics,
    ScaleCredentials,
)
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers import Credentials

pytestmark = pytest.mark.usefixtures("prefect_server")

KEY = SecretStr("planted-key")
BLOCKS: list[Block] = [
    BasetenCredentials(api_key=KEY),
    DockerServing(
        host=DockerHost(base_url="tcp://docker.example:2376"),
        registry=DockerRegistryCredentials(username="u", password=KEY, registry_url="registry.example"),
        secret_env=SecretDict({"API_KEY": "planted-key"}),
    ),
    FiddlerCredentials(base_url="https://acme.fiddler.ai", token=KEY),
    FoundryCredentials(base_url="https://acme.palantirfoundry.com", token=KEY),
    GradientCredentials(api_key=KEY, project_id="p1"),
    LocalServing(),
    ScaleCredentials(api_key=KEY),
]


def test_every_provider_is_here() -> None:
    assert {type(block) for block in BLOCKS} == set(get_args(Credentials))


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
async def test_a_saved_target_comes_back_with_the_same_credentials(block: Block) -> None:
    name = type(block).__name__.lower()
    await block.save(name, overwrite=True)
    await _comes_back(await type(block).aload(name))


async def test_credentials_that_were_never_saved_by_themselves_are_saved_with_the_target() -> None:
    await _comes_back(ScaleCredentials(api_key=KEY, account_id="inline"))


async def _comes_back(credentials: Block) -> None:
    await DeploymentTarget(credentials=credentials, model="m", endpoint="e").save("back", overwrite=True)
    loaded = await DeploymentTarget.aload("back")
    assert type(loaded.credentials) is type(credentials)
    assert loaded.credentials.model_dump() == credentials.model_dump()


@pytest.mark.slow
@pytest.mark.parametrize("saved_before", [True, False], ids=["by reference", "inline"])
@pytest.mark.parametrize(
    "metrics",
    [
        PrometheusMetrics(url="https://prometheus.example", requests="x", failures="y", token=KEY),
        BasetenMetrics(credentials=BasetenCredentials(api_key=KEY)),
    ],
    ids=["prometheus", "baseten"],
)
async def test_a_saved_target_comes_back_with_what_it_is_measured_by(metrics: Any, saved_before: bool) -> None:
    if saved_before:
        await metrics.save("watched", overwrite=True)
        metrics = await type(metrics).aload("watched")
    target = DeploymentTarget(credentials=LocalServing(), model="m", endpoint="e", metrics=metrics)
    assert KEY.get_secret_value() not in repr(target)
    await target.save("watched", overwrite=True)
    loaded = await DeploymentTarget.aload("watched")
    assert type(loaded.metrics) is type(metrics)
    assert loaded.metrics.model_dump() == metrics.model_dump()


def test_a_foreign_field_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="project_id is no field of Scale"):
        ScaleCredentials(api_key=KEY, project_id="p1")  # type: ignore[call-arg]


async def test_a_target_that_was_never_saved_is_named() -> None:
    with pytest.raises(InvalidInput, match="target='nowhere'"):
        await DeploymentTarget.resolve("nowhere")


@pytest.mark.slow
async def test_a_target_with_a_gateway_and_a_second_provider_comes_back_whole() -> None:
    gateway = Gateway(url="https://gateway.example", token=KEY, arms_ca_file="/etc/ssl/private-ca.pem")
    target = DeploymentTarget(
        credentials=BasetenCredentials(api_key=KEY),
        other_credentials=GradientCredentials(api_key=KEY),
        gateway=gateway,
        model="m",
        endpoint="e",
        sample={"x": [1]},
    )
    await target.save("moving", overwrite=True)
    loaded = await DeploymentTarget.aload("moving")
    assert isinstance(loaded.other_credentials, GradientCredentials)
    assert isinstance(loaded.gateway, Gateway)
    assert loaded.gateway.model_dump() == gateway.model_dump()
    assert loaded.sample == {"x": [1]}
    assert "planted-key" not in repr(loaded)
