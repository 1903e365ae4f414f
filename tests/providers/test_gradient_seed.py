"""The document that this provider was created from: its five operations, their parameters and its examples.

The examples are copied as they stand. Those that break the vendor's own rules are told in the table of
`docs/providers/gradient.md`; each row of it is a test here.
"""

import inspect
from typing import Any

import pytest

from prefect_modeldeploy.deployments import DeploymentStatus
from prefect_modeldeploy.errors import InvalidInput, NotFound, ProviderError
from prefect_modeldeploy.providers.gradient import (
    Changed,
    DeploymentNode,
    GradientClient,
    GradientCredentials,
    GradientGraphClient,
)
from prefect_modeldeploy.providers.gradient.checks import checked_id
from tests.providers.gradient_kit import block, gradient, graph

ID = "d4e74a9c-b125-4bd7-b143-8f5c386df8a9"

CHANGED_EXAMPLE = {"id": ID}

GET_EXAMPLE: dict[str, Any] = {
    "id": "d4e74a9c-b125-4bd7-b143-8f5c386df8a9",
    "name": "Test Deployment",
    "deploymentSpecs": {
        "nodes": [
            {
                "id": "8f5c4a9c-4bd7-b143-b125-8f5c386df8a9",
                "data": {
                    "image": "tensorflow/serving",
                    "port": 8501,
                    "resources": {"instanceType": "A100", "replicas": 1},
                },
                "endpointUrl": "https://model-endpoint.example.com",
                "actor": {"fullName": "John Smith"},
            }
        ]
    },
}

LIST_EXAMPLE = [GET_EXAMPLE]

PARAMETERS = {
    "create_deployment": {"name", "project_id", "spec", "cluster_id"},
    "update_deployment": {"name", "project_id", "spec", "cluster_id"},
    "delete_deployment": {"id"},
    "list_deployments": {"name", "project_id", "cluster_id", "first"},
    "get_deployment": {"id"},
}

SPEC = {"image": "tensorflow/serving", "port": 8501, "resources": {"instanceType": "A100", "replicas": 1}}


@pytest.mark.parametrize("kind", [GradientClient, GradientGraphClient])
@pytest.mark.parametrize("operation", PARAMETERS)
def test_each_operation_exists_with_its_parameters_and_says_what_it_does(kind: type, operation: str) -> None:
    method = getattr(kind, operation)
    assert PARAMETERS[operation] <= set(inspect.signature(method).parameters)
    assert inspect.getdoc(method)


def test_the_examples_of_answers_are_read() -> None:
    assert Changed.model_validate(CHANGED_EXAMPLE).id == ID
    for node in (DeploymentNode.model_validate(GET_EXAMPLE), DeploymentNode.model_validate(LIST_EXAMPLE[0])):
        [spec] = node.deployment_specs.nodes
        assert (node.id, node.name) == (ID, "Test Deployment")
        assert spec.id == "8f5c4a9c-4bd7-b143-b125-8f5c386df8a9"
        assert spec.data is not None
        assert spec.data.resources is not None
        assert (spec.data.image, spec.data.port) == ("tensorflow/serving", 8501)
        assert (spec.data.resources.instance_type, spec.data.resources.replicas) == ("A100", 1)
        assert spec.endpoint_url == "https://model-endpoint.example.com"
        assert spec.actor is not None
        assert spec.actor.full_name == "John Smith"


@pytest.mark.parametrize("make", [gradient, graph])
async def test_the_five_operations_on_either_api(make: Any) -> None:
    async with make() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        made = await client.create_deployment(name="Test Deployment", project_id=project, spec=SPEC, cluster_id=None)
        [listed] = await client.list_deployments(name="Test Deployment", project_id=project, cluster_id=None, first=100)
        node = await client.get_deployment(id=made.id)
        for seen in (listed, node):
            assert (seen.id, seen.name) == (made.id, "Test Deployment")
            [version] = seen.deployment_specs.nodes
            assert version.data is not None
            assert version.data.resources is not None
            assert (version.data.image, version.data.port) == ("tensorflow/serving", 8501)
            assert (version.data.resources.instance_type, version.data.resources.replicas) == ("A100", 1)
            assert version.endpoint_url
        scaled = {**SPEC, "resources": {"instanceType": "A100", "replicas": 2}}
        assert (await client.update_deployment(made.id, spec=scaled)).id == made.id
        assert (await client.update_deployment(made.id, name="renamed")).id == made.id
        node = await client.get_deployment(made.id)
        newest = node.deployment_specs.nodes[0]
        assert node.name == "renamed"
        assert newest.data is not None
        assert newest.data.resources is not None
        assert newest.data.resources.replicas == 2, "spec versions come newest first"
        assert (await client.get(made.id)).status is DeploymentStatus.READY
        assert (await client.delete_deployment(id=made.id)).id == made.id
        with pytest.raises(NotFound):
            await client.get_deployment(made.id)
        with pytest.raises(NotFound):
            await client.delete_deployment(made.id)
        assert await client.list_deployments() == []


@pytest.mark.parametrize("make", [gradient, graph])
async def test_first_bounds_the_list(make: Any) -> None:
    async with make() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        for number in range(3):
            await client.create_deployment(f"d-{number}", project, SPEC)
        assert len(await client.list_deployments(first=2)) == 2
        assert len(await client.list_deployments(first=None)) == 3
        assert await client.list_deployments(name="none") == []
        for first in (0, -1, True):
            with pytest.raises(InvalidInput, match="first"):
                await client.list_deployments(first=first)


async def test_a_name_that_is_taken_is_not_taken_over_by_the_graphql_create() -> None:
    async with graph() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        await client.create_deployment("one", project, SPEC)
        with pytest.raises(ProviderError, match="exists in this project"):
            await client.create_deployment("one", project, SPEC)


# --- a parameter that an API lacks ------------------------------------------------------------------------------------


async def test_rest_refuses_clusters_and_moves_by_name() -> None:
    async with gradient() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        made = await client.create_deployment("one", project, SPEC)
        await sandbox.control.forget_requests()
        for call in (
            client.create_deployment("two", project, SPEC, cluster_id="clg1"),
            client.update_deployment(made.id, cluster_id="clg1"),
            client.list_deployments(cluster_id="clg1"),
        ):
            with pytest.raises(InvalidInput, match="cluster_id='clg1': REST v1 has no clusters"):
                await call
        assert await sandbox.control.requests() == []
        with pytest.raises(InvalidInput, match="project_id='other': REST v1 cannot move"):
            await client.update_deployment(made.id, project_id="other")


async def test_graphql_takes_clusters() -> None:
    async with graph() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        made = await client.create_deployment("one", project, SPEC, cluster_id="clg1")
        [here] = await client.list_deployments(cluster_id="clg1")
        assert (here.id, len(here.deployment_specs.nodes)) == (made.id, 1)
        [elsewhere] = await client.list_deployments(cluster_id="clg2")
        assert elsewhere.deployment_specs.nodes == ()
        await client.update_deployment(made.id, cluster_id="clg2")
        deployments = await sandbox.control.table("gradient", "deployments")
        assert deployments[made.id]["clusterId"] == "clg2"


async def test_graphql_refuses_what_only_rest_specs_have() -> None:
    async with graph() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        with pytest.raises(InvalidInput, match=r"spec\.region"):
            await client.create_deployment("one", project, {**SPEC, "region": "ny2"})


# --- rows of the table in the docs ------------------------------------------------------------------------------------


async def test_the_placeholder_spec_is_refused_before_it_is_sent() -> None:
    async with gradient() as (sandbox, client):
        with pytest.raises(InvalidInput, match=r"spec\.key"):
            await client.create_deployment(name="string", project_id="string", spec={**SPEC, "key": "value"})
        with pytest.raises(InvalidInput, match=r"spec\.image"):
            await client.create_deployment(name="string", project_id="string", spec={"key": "value"})
        assert await sandbox.control.requests() == []


@pytest.mark.parametrize("make", [gradient, graph])
async def test_update_without_an_id_finds_the_deployment_by_its_name(make: Any) -> None:
    async with make() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        made = await client.create_deployment("one", project, SPEC)
        spec = {**SPEC, "image": "nginx"}
        assert (await client.update_deployment(name="one", project_id=project, spec=spec)).id == made.id
        newest = (await client.get_deployment(made.id)).deployment_specs.nodes[0]
        assert newest.data is not None
        assert newest.data.image == "nginx"
        with pytest.raises(InvalidInput, match="id=None"):
            await client.update_deployment(spec=spec)
        with pytest.raises(NotFound, match="'two'"):
            await client.update_deployment(name="two", spec=spec)


def test_an_id_of_no_known_uuid_version_is_taken() -> None:
    assert checked_id("8f5c4a9c-4bd7-b143-b125-8f5c386df8a9")


async def test_a_spec_without_api_version_is_v1_or_v0_by_its_machine() -> None:
    async with gradient() as (sandbox, client):
        project = sandbox["gradient"]["seed"]["project_id"]
        newer = {"image": "nginx", "resources": {"machineType": "C4", "ports": [80]}}
        versions = {}
        for name, spec in (("old", SPEC), ("new", newer)):
            made = await client.create_deployment(name, project, spec)
            data = (await client.history(made.id))[0].data
            assert data is not None
            versions[name] = data["apiVersion"]
        assert versions == {"old": "v0alpha0", "new": "v1"}


async def test_both_apis_see_the_same_deployments() -> None:
    async with gradient() as (sandbox, rest), block(sandbox, "graphql").get_client() as other:
        made = await rest.create_deployment("one", sandbox["gradient"]["seed"]["project_id"], SPEC)
        assert isinstance(other, GradientGraphClient)
        seen = await other.get_deployment(made.id)
        assert seen.deployment_specs.nodes[0].id == (await rest.get_deployment(made.id)).deployment_specs.nodes[0].id
        ours, theirs = await rest.get(made.id), await other.get(made.id)
        same = ("id", "name", "status", "ready", "version", "autoscaling", "resources", "endpoint_url", "replicas")
        assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]


def test_the_api_is_a_choice_of_the_block() -> None:
    assert GradientCredentials.model_fields["api"].default == "rest"
