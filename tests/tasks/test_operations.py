"""Every operation as a user runs it, in both colours: against a real node, with what each of them changes."""

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from prefect_modeldeploy import DeploymentTarget, LocalServing, tasks
from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentStatus, DeploymentUpdate
from prefect_modeldeploy.errors import Conflict, ModelDeployError, NotFound
from prefect_modeldeploy.local.autostart import stop_node
from tests.flows.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("prefect_server")]

Step = tuple[str, tuple[Any, ...]]
Story = Generator[Step, Any, None]
"""Yields the name of a task and its arguments, and gets what the task returns."""

THE_ISSUES = {
    *("create_deployment", "wait_until_ready", "get_deployment", "list_deployments", "predict", "get_logs"),
    *("update_deployment", "scale_deployment", "stop_deployment", "start_deployment", "wake_deployment"),
    *("set_traffic", "get_traffic", "delete_deployment"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("operations")
    yield directory
    asyncio.run(stop_node(directory))


@pytest.fixture
def site(home: Path) -> Site:
    name = f"m{uuid4().hex[:8]}"
    return Site(DeploymentTarget(credentials=LocalServing(home=home), model=name, endpoint=name))


def until(condition: Callable[[Any], object], name: str, *arguments: Any) -> Story:
    deadline = time.monotonic() + 60
    while not condition(found := (yield name, arguments)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def is_running(replicas: int) -> Callable[[Deployment], bool]:
    return lambda deployment: deployment.ready and deployment.replicas.ready == deployment.replicas.running == replicas


def has(status: DeploymentStatus) -> Callable[[Deployment], bool]:
    return lambda deployment: deployment.status is status and deployment.replicas.running == 0


def story(site: Site) -> Story:
    target = site.target

    one = (yield "create_deployment", (target, site.spec("1", "differs"))).id
    assert (yield "create_deployment", (target, site.spec("1", "differs"))).id == one, "the same spec makes no second"
    two = (yield "create_deployment", (target, site.spec("2", "differs"))).id
    ready = yield "wait_until_ready", (target, [two, one])
    assert [(deployment.id, deployment.ready) for deployment in ready] == [(two, True), (one, True)]
    found = yield "get_deployment", (target, one)
    assert (found.id, found.version, found.status) == (one, "1", DeploymentStatus.READY)
    assert {deployment.id for deployment in (yield "list_deployments", (target,))} == {one, two}
    assert (yield "predict", (target, one, [2.0])) == [3.0]
    assert "loading versions:differs" in "\n".join((yield "get_logs", (target, one)))

    update = DeploymentUpdate(version="1b", source="versions:wrong_now_and_then")
    assert (yield "update_deployment", (target, one, update)).version == "1b"
    yield from until(lambda answer: answer == [2.0], "predict", target, one, [2.0])  # the new source's answer
    two_of_it = Autoscaling(min_replicas=2, max_replicas=2)
    assert (yield "scale_deployment", (target, one, two_of_it)).autoscaling == two_of_it
    yield from until(is_running(2), "get_deployment", target, one)

    yield "stop_deployment", (target, one)
    yield from until(has(DeploymentStatus.STOPPED), "get_deployment", target, one)
    yield "start_deployment", (target, one)
    yield from until(is_running(2), "get_deployment", target, one)
    yield "scale_deployment_to_zero", (target, one)
    yield from until(has(DeploymentStatus.SCALED_TO_ZERO), "get_deployment", target, one)
    yield "wake_deployment", (target, one)
    yield from until(is_running(2), "get_deployment", target, one)

    yield "set_arms", (target, {"stable": (one, 100), "canary": (two, 0)})
    yield "set_traffic", (target, {"stable": 75, "canary": 25})
    shared = yield "get_traffic", (target,)
    assert {arm.upstream: arm.weight for arm in shared.arms} == {one: 75, two: 25}

    with pytest.raises(Conflict):
        yield "delete_deployment", (target, two)
    yield "set_arms", (target, {"stable": (one, 100)})
    yield "delete_deployment", (target, two)
    with pytest.raises(NotFound):
        yield from until(lambda _: False, "get_deployment", target, two)
    assert [deployment.id for deployment in (yield "list_deployments", (target,))] == [one]


def go_on(story: Story, answer: Any = None, error: Exception | None = None) -> Step | None:
    """Tell a story how its last step ended; returns the next one."""
    try:
        return story.throw(error) if error else story.send(answer)
    except StopIteration:
        return None


async def assert_progress_was_shown(target: DeploymentTarget) -> None:
    async with get_client() as client:
        key = ArtifactFilterKey(any_=[f"{target.endpoint}-ready"])
        [artifact] = await client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    assert (artifact.type, artifact.data) == ("progress", 100.0)
    assert "Waiting for" in str(artifact.description)


def test_every_operation_in_a_synchronous_flow(site: Site) -> None:
    used = set[str]()

    @flow
    def tell() -> None:
        telling = story(site)
        step = go_on(telling)
        while step:
            name, arguments = step
            used.add(name)
            try:
                step = go_on(telling, getattr(tasks, name)(*arguments))
            except ModelDeployError as error:
                step = go_on(telling, error=error)

    tell()
    assert used >= THE_ISSUES
    asyncio.run(assert_progress_was_shown(site.target))


async def test_every_operation_in_an_asynchronous_flow(site: Site) -> None:
    used = set[str]()

    @flow
    async def tell() -> None:
        telling = story(site)
        step = go_on(telling)
        while step:
            name, arguments = step
            used.add(name)
            try:
                step = go_on(telling, await getattr(tasks, f"a{name}")(*arguments))
            except ModelDeployError as error:
                step = go_on(telling, error=error)

    await tell()
    assert used >= THE_ISSUES
    await assert_progress_was_shown(site.target)
