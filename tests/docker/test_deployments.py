"""Deployments on a real Docker engine: made once, found again, replaced without a gap, gone without a trace."""

import ast
import asyncio
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio
from prefect.types import SecretDict
from prefect_docker import DockerHost, DockerRegistryCredentials

import prefect_modeldeploy
from prefect_modeldeploy import (
    Autoscaling,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentUpdate,
    DockerServing,
    Resources,
)
from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import (
    AuthenticationFailed,
    Conflict,
    DeploymentFailed,
    InvalidInput,
    NotFound,
    ProviderError,
    ProviderUnavailable,
)
from prefect_modeldeploy.providers.docker import DockerClient
from prefect_modeldeploy.providers.docker.engine import Engine
from tests.conftest import eventually
from tests.docker import image
from tests.docker.conftest import IMAGE, Host, ready
from tests.docker.registry import private_registry

PAGE = Path(prefect_modeldeploy.__file__).parent / "docs" / "providers" / "docker.md"
SECRET = "planted-5ecret-value"
TWO = Autoscaling(min_replicas=2)


@pytest_asyncio.fixture
async def with_secret(host: Host) -> AsyncIterator[DockerClient]:
    async with DockerServing(secret_env=SecretDict({"API_KEY": SECRET})).get_client() as client:
        yield client


async def test_the_life_of_a_deployment(host: Host, with_secret: DockerClient) -> None:
    client = with_secret
    resources = Resources(cpu_millicores=500, memory_mib=256)
    spec = host.spec("1", autoscaling=TWO, resources=resources, options={"labels": {"team": "risk"}})
    made = await client.create(spec)
    assert (made.ready, made.replicas.desired, made.tags) == (False, 2, ("team=risk",))
    up = await ready(client, made)
    assert (up.status, up.replicas.ready, up.autoscaling) == (
        DeploymentStatus.READY, 2, Autoscaling(min_replicas=2, max_replicas=2),
    )  # fmt: skip
    assert await client.find(model=host.model) == [await client.get(made.id)] == [up]
    assert (await client.predict(made.id, {"x": 1}))["echo"] == {"x": 1}
    assert sum("version 1 serves" in line for line in await client.logs(made.id)) == 2
    for shown in (one.attrs for one in host.containers()):
        assert (shown["HostConfig"]["NanoCpus"], shown["HostConfig"]["Memory"]) == (500_000_000, 256 << 20)
        assert shown["Config"]["Labels"]["team"] == "risk"
        assert f"API_KEY={SECRET}" in shown["Config"]["Env"]
        assert SECRET not in str(shown["Config"]["Labels"])
    assert SECRET not in repr(up.raw)

    stopped = await client.stop(made.id)
    assert (stopped.status, stopped.ready, stopped.terminal) == (DeploymentStatus.STOPPED, False, True)
    for change in (client.scale(made.id, TWO), client.update(made.id, DeploymentUpdate(version="2"))):
        with pytest.raises(Conflict, match="start it first"):
            await change
    again = await ready(client, await client.start(made.id))
    assert again.raw["addresses"] == up.raw["addresses"], "whoever knows them need not be told"

    await client.delete(made.id)
    assert host.names() == []
    await client.delete(made.id)
    with pytest.raises(NotFound):
        await client.get(made.id)


async def test_the_example_of_the_page_works(engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("DOCKER_HOST", os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    monkeypatch.setenv("IMAGE", IMAGE)
    await eval(compile(example, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    assert engine.containers.list(all=True, filters={"label": "modeldeploy.deployment=fraud-2"}) == []


async def test_many_creators_at_once_make_one_deployment(host: Host) -> None:
    blocks = [DockerServing() for _ in range(5)]

    async def create(block: DockerServing, spec: DeploymentSpec) -> Any:
        async with block.get_client() as client:
            return await client.create(spec)

    made = await asyncio.gather(*(create(block, host.spec("1", autoscaling=TWO)) for block in blocks))
    assert {one.id for one in made} == {f"{host.model}-1"}
    assert host.names() == ["g1-r0", "g1-r1"]
    assert {one.status for one in host.containers()} == {"running"}

    others = [host.spec("2", env={"SEED": str(n)}) for n in range(5)]
    answers = await asyncio.gather(*map(create, blocks, others), return_exceptions=True)
    assert [type(one) for one in answers if not isinstance(one, Deployment)] == [Conflict] * 4
    assert host.names() == ["g1-r0", "g1-r1", "g1-r0"]


async def test_what_cannot_run_has_failed_and_says_why(host: Host, with_secret: DockerClient) -> None:
    client = with_secret
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failing = {
            "crash": (host.spec("crash", env={"CRASH": "1"}), "its log ends:\nno model here"),
            "memory": (host.spec("memory", env={"EAT_MEMORY": "1"}, resources=Resources(memory_mib=64)), "of memory"),
            "command": (host.spec("command", options={"command": ["nothing"]}), '"nothing": executable file not found'),
            "gpu": (host.spec("gpu", resources=Resources(gpu_count=1)), "could not select device driver"),
            "port": (host.spec("port", options={"host_port": port}), "address already in use"),
            "late": (host.spec("late", env={"START_SECONDS": "99"}, options={"start_seconds": 0.5}), "/healthz fails"),
        }

        async def fails(spec: DeploymentSpec, why: str) -> None:
            made = await client.create(spec)
            with pytest.raises(DeploymentFailed) as failure:
                await ready(client, made)
            assert why in failure.value.reason
            assert SECRET not in failure.value.reason
            assert (await client.get(made.id)).raw["serving"], "it is there, to be looked at and to be deleted"

        await asyncio.gather(*(fails(spec, why) for spec, why in failing.values()))
    assert "the key is **********" in "\n".join(await client.logs(failing["crash"][0].name))
    up = await ready(client, await client.start(failing["port"][0].name))  # the port is free now
    assert up.endpoint_url == f"http://127.0.0.1:{port}"
    for change in (client.scale(up.id, TWO), client.update(up.id, DeploymentUpdate(version="2"))):
        with pytest.raises(InvalidInput, match="host_port"):
            await change
    await asyncio.gather(*(client.delete(spec.name) for spec, _ in failing.values()))
    assert host.names() == []


async def test_an_image_that_is_not_there_is_refused_and_nothing_is_made(host: Host, client: DockerClient) -> None:
    for pull, why in (("never", "options.pull is 'never'"), ("missing", "cannot be pulled")):
        with pytest.raises(InvalidInput, match=f"source='127.0.0.1:9/no/such:1'.*{why}"):
            await client.create(host.spec(source="127.0.0.1:9/no/such:1", options={"pull": pull}))
    with pytest.raises(ProviderError, match="Range of CPUs"):
        await client.create(host.spec(resources=Resources(cpu_millicores=9_000_000)))
    assert host.names() == []


async def test_a_private_registry_gives_its_image_to_who_shows_the_credentials_of_the_block(host: Host) -> None:
    with private_registry("ci", SECRET) as address:
        source = f"{address}/model:1"

        async def create(password: str | None) -> Deployment:
            registry = password and DockerRegistryCredentials(username="ci", password=password, registry_url=address)
            async with DockerServing(registry=registry or None).get_client() as client:
                return await ready(client, await client.create(host.spec(source=source, options={"pull": "missing"})))

        with pytest.raises(InvalidInput, match="cannot be pulled"):
            await create(None)
        with pytest.raises(AuthenticationFailed) as refused:
            await create("wrong-5ecret")
        assert "wrong-5ecret" not in str(refused.value)
        assert host.names() == []
        try:
            assert (await create(SECRET)).status is DeploymentStatus.READY
            [made] = host.containers()
            assert made.attrs["Config"]["Image"] == source
            assert SECRET not in str(made.attrs)
        finally:
            host.clear()
            host.engine.images.remove(source, force=True)


CHECKED = "modeldeploy-tests/checked:1"
ASK = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"
HEALTHCHECK = f"HEALTHCHECK --interval=500ms --timeout=5s --retries=2 CMD {json.dumps([*image.COMMAND[:2], '-c', ASK])}"


async def test_without_a_path_the_health_check_of_the_image_decides(
    engine: docker.DockerClient, host: Host, client: DockerClient
) -> None:
    image.build(engine, CHECKED, HEALTHCHECK)

    def one(version: str, source: str) -> DeploymentSpec:
        return host.spec(version, source=source, env={"START_SECONDS": "4"}, options={"health_path": None})

    try:
        checked = await client.create(one("1", CHECKED))
        assert not (await client.get(checked.id)).ready
        checked = await ready(client, checked)
        assert host.containers()[0].attrs["State"]["Health"]["Status"] == "healthy"
        await client.predict(checked.id, {"seconds": 4}, path="/unwell")

        async def is_ready(wanted: bool) -> bool:
            return (await client.get(checked.id)).ready is wanted

        await eventually(lambda: is_ready(False))
        await eventually(lambda: is_ready(True))

        unchecked = await client.create(one("2", IMAGE))
        assert (await client.get(unchecked.id)).ready, "it runs, and nothing says more"
    finally:
        host.clear()
        engine.images.remove(CHECKED, force=True)


async def test_a_replica_that_crashes_comes_back_where_it_was(host: Host, client: DockerClient) -> None:
    up = await ready(client, await client.create(host.spec()))
    with pytest.raises(ProviderUnavailable):
        await client.predict(up.id, {}, path="/crash")
    await eventually(lambda: host.containers()[0].attrs["RestartCount"] == 1)
    assert (await ready(client, up)).raw["addresses"] == up.raw["addresses"]


async def test_a_port_that_somebody_else_has_is_passed_over(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with DockerServing(lowest_port=port, highest_port=port + 1).get_client() as client:
            up = await ready(client, await client.create(host.spec()))
    assert up.endpoint_url == f"http://127.0.0.1:{port + 1}"


async def test_an_update_replaces_all_replicas_and_one_that_fails_changes_nothing(
    host: Host, client: DockerClient
) -> None:
    made = await ready(client, await client.create(host.spec(autoscaling=TWO)))
    told: list[Deployment] = []

    async def moved(deployment: Deployment) -> None:
        assert len(host.names()) == 4, "before the former ones go"
        told.append(deployment)

    client.moved = moved
    after = await client.update(made.id, DeploymentUpdate(version="2", env={"VERSION": "2"}))
    assert (after.status, after.version, host.names()) == (DeploymentStatus.READY, "2", ["g2-r0", "g2-r1"])
    assert [one.raw["addresses"] for one in told] == [after.raw["addresses"]]
    assert (await client.predict(made.id, 1))["version"] == "2"
    assert await client.update(made.id, DeploymentUpdate(version="2")) == after, "done already"

    with pytest.raises(DeploymentFailed, match="no model here"):
        await client.update(made.id, DeploymentUpdate(env={"CRASH": "1"}))
    assert await client.get(made.id) == after
    assert host.names() == ["g2-r0", "g2-r1"]
    with pytest.raises(Conflict, match="another spec"):
        await client.create(host.spec(env={"MORE": "1"}))
    assert await client.create(host.spec(autoscaling=TWO)) == after, "created by this very spec, and updated since"


class Killed(BaseException):
    """What a killed process would have done next does not happen."""


class Dying(Engine):
    """An engine that lives for so many effects."""

    def __init__(self, effects: int) -> None:
        super().__init__(DockerHost(), None, ())
        self._left = effects

    def _effect(self) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1

    async def create(self, name: str, image: str, **settings: Any) -> str:
        self._effect()
        return await super().create(name, image, **settings)

    async def start(self, container: str) -> None:
        self._effect()
        await super().start(container)

    async def stop(self, container: str, seconds: int) -> None:
        self._effect()
        await super().stop(container, seconds)

    async def remove(self, container: str) -> None:
        self._effect()
        await super().remove(container)


Change = Callable[[DockerClient, str], Awaitable[object]]


async def update(client: DockerClient, name: str) -> None:
    await client.update(name, DeploymentUpdate(version="2"))


async def scale_up(client: DockerClient, name: str) -> None:
    await client.scale(name, TWO)


async def delete(client: DockerClient, name: str) -> None:
    await client.delete(name)


@pytest.mark.parametrize(
    ("change", "effects", "left"),
    [(update, 4, ["g2-r0"]), (scale_up, 2, ["g1-r0", "g1-r1"]), (delete, 2, [])],
    ids=["update", "scale", "delete"],
)
async def test_a_change_whose_process_is_killed_at_any_effect_is_ended_by_the_next(
    engine: docker.DockerClient, client: DockerClient, change: Change, effects: int, left: list[str]
) -> None:
    async def story(survives: int) -> None:
        host = Host(engine)
        try:
            made = await ready(client, await client.create(host.spec()))
            async with dying(survives) as doomed:
                if survives < effects:
                    with pytest.raises(Killed):
                        await change(doomed, made.id)
                    assert host.names(), "found again"
                else:
                    await change(doomed, made.id)
            if left:
                assert (await client.get(made.id)).ready, "it serves on"
            await change(client, made.id)
            assert host.names() == left
            assert not left or (await client.get(made.id)).status is DeploymentStatus.READY
        finally:
            host.clear()

    await asyncio.gather(*map(story, range(effects + 1)))


async def test_a_creation_whose_process_is_killed_at_any_effect_is_ended_by_the_next(
    engine: docker.DockerClient, client: DockerClient
) -> None:
    async def story(survives: int) -> None:
        host = Host(engine)
        try:
            async with dying(survives) as doomed:
                with pytest.raises(Killed):
                    await doomed.create(host.spec(autoscaling=TWO))
            up = await ready(client, await client.create(host.spec(autoscaling=TWO)))
            assert (up.replicas.ready, host.names()) == (2, ["g1-r0", "g1-r1"])
        finally:
            host.clear()

    await asyncio.gather(*map(story, range(4)))


@asynccontextmanager
async def dying(survives: int) -> AsyncIterator[DockerClient]:
    async with DockerServing().get_client() as client:
        client.engine = Dying(survives)
        yield client
