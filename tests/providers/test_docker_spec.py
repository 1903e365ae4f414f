"""What a Docker Serving block and its deployments refuse, before anything is sent. No engine is needed for that."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.types import SecretDict
from pydantic import ValidationError

from prefect_modeldeploy import Autoscaling, DeploymentSpec, DeploymentUpdate, DockerServing, Resources
from prefect_modeldeploy.errors import InvalidInput, UnsupportedOperation
from prefect_modeldeploy.providers.docker.spec import checked, merged

SPEC = DeploymentSpec(name="fraud-1", model="fraud", source="fraud:1")
SCRIPT = Path(__file__).parents[2] / "blocks" / "create_docker.py"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("source", {"source": None}),
        ("options.port", {"options": {"port": 0}}),
        ("options.health_path", {"options": {"health_path": "no/slash"}}),
        ("options.ports", {"options": {"ports": [1]}}),
        ("options.labels", {"options": {"labels": {"modeldeploy.spec": "{}"}}}),
        ("options.host_port", {"options": {"host_port": 80}, "autoscaling": Autoscaling(min_replicas=2)}),
        ("autoscaling.min_replicas", {"autoscaling": Autoscaling(min_replicas=0)}),
        ("autoscaling.max_replicas", {"autoscaling": Autoscaling(min_replicas=1, max_replicas=3)}),
        ("autoscaling.target_concurrency", {"autoscaling": Autoscaling(target_concurrency=3)}),
        ("resources.gpu_type", {"resources": Resources(gpu_type="A100")}),
        ("resources.instance_type", {"resources": Resources(instance_type="C4")}),
    ],
)
def test_what_docker_cannot_do_is_refused_by_its_name(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        checked(DeploymentSpec(**{**dict(SPEC), **given}))
    assert refusal.value.field == field


def test_an_update_changes_what_it_names() -> None:
    before = checked(SPEC.model_copy(update={"options": {"port": 9000, "health_path": "/up"}, "env": {"A": "1"}}))
    after = merged(before, DeploymentUpdate(source="fraud:2", options={"port": None, "health_path": None}), 3)
    assert (after.source, after.env) == ("fraud:2", {"A": "1"})
    assert after.options == {"health_path": None}, "None is a value of this one: no health check"
    assert after.autoscaling == Autoscaling(min_replicas=3, max_replicas=3), "as many as there are"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bind_address": "0.0.0.0"}, "address=None"),
        ({"bind_address": "docker.example"}, "must be an IPv4 address"),
        ({"lowest_port": 30_000}, "highest_port=29999"),
    ],
)
def test_a_block_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DockerServing(**fields)


@pytest.mark.usefixtures("prefect_server")
async def test_a_saved_block_shows_no_secret_and_has_it_all_the_same() -> None:
    await DockerServing(secret_env=SecretDict({"API_KEY": "planted-key"})).save("secretive", overwrite=True)
    async with get_client() as client:
        shown = await client.read_block_document_by_name("secretive", "docker-serving", include_secrets=False)
    assert "planted-key" not in str(shown.model_dump(mode="json"))
    loaded = await DockerServing.aload("secretive")
    assert "planted-key" not in repr(loaded)
    assert loaded.secret_env.get_secret_value() == {"API_KEY": "planted-key"}


async def test_no_request_wakes_a_container_so_there_is_no_zero() -> None:
    async with DockerServing().get_client() as client:
        for cannot in (client.scale_to_zero, client.wake):
            with pytest.raises(UnsupportedOperation):
                await cannot("fraud-1")
        with pytest.raises(UnsupportedOperation, match="set the target's gateway"):
            client.router()


def test_the_script_says_in_one_line_which_variable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("create_docker", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setenv("MODELDEPLOY_DOCKER_REGISTRY", "registry.example")
    with pytest.raises(SystemExit, match="MODELDEPLOY_DOCKER_REGISTRY_USER is not set"):
        script.from_environment()
