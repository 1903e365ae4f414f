"""Replicas that are forked from a preloaded process: the same as fresh ones, only sooner."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from sklearn.linear_model import LogisticRegression

from prefect_modeldeploy.deployments import Autoscaling, DeploymentStatus, Resources
from tests.conftest import eventually
from tests.local.conftest import RunningNode, no_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="zygotes exist on Linux only; elsewhere nothing forks")


async def zygote_of(node: RunningNode) -> int:
    """The zygote, as soon as it has learned from a replica."""

    async def look() -> Any:
        return (await node.client.status())["zygotes"]

    (pid,) = await eventually(look)  # type: ignore[misc]
    return int(pid)


def is_forked(pid: int) -> bool:
    return "zygote" in psutil.Process(pid).cmdline()


async def sleep_and_wake(node: RunningNode, name: str) -> int:
    """Pid of the replica that a request has woken."""
    await node.client.scale_deployment(name, replicas=0)
    await node.until(name, DeploymentStatus.SCALED_TO_ZERO)
    await node.client.wake_deployment(name)
    await node.until(name, DeploymentStatus.READY)
    return (await node.replica_pids(name))[0]


async def forked_replica(node: RunningNode, name: str) -> int:
    """Wake it until its replica is a fork: the zygote may still have been importing."""

    async def wake() -> int | None:
        pid = await sleep_and_wake(node, name)
        return pid if is_forked(pid) else None

    pid = await eventually(wake)
    assert isinstance(pid, int)
    return pid


async def test_what_a_first_replica_imported_is_preloaded_for_the_next(node: RunningNode, tmp_path: Path) -> None:
    file = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), file)
    ready = await node.deploy("z-sklearn", str(file))
    await zygote_of(node)
    pid = await forked_replica(node, "z-sklearn")
    assert (await node.predict(ready.endpoint_url or "", [[0.0], [1.0]])).json() == {"predictions": [0, 1]}
    assert psutil.Process(pid).ppid() != node.info.pid
    assert os.getsid(pid) == pid, "it has a session of its own"


async def test_a_fork_sees_what_a_fresh_process_sees(node: RunningNode, tmp_path: Path) -> None:
    fields = {"env": {"FLAVOUR": "mint"}, "options": {"working_directory": str(tmp_path)}}
    ready = await node.deploy("z-env", "toy_models:environment", **fields)
    await zygote_of(node)
    await forked_replica(node, "z-env")
    seen = (await node.predict(ready.endpoint_url or "", 1)).json()
    assert (seen["environ"]["FLAVOUR"], seen["cwd"], seen["stdin"]) == ("mint", str(tmp_path), "/dev/null")
    assert seen["environ"]["OMP_NUM_THREADS"] == "1"


async def test_forks_do_not_draw_the_same_random_numbers(node: RunningNode) -> None:
    ready = await node.deploy("z-random", "toy_models:random_number")
    await node.predict(ready.endpoint_url or "", 1)  # now numpy.random is imported
    await zygote_of(node)
    drawn = set()
    for _ in range(3):
        await forked_replica(node, "z-random")
        drawn.add((await node.predict(ready.endpoint_url or "", 1)).json())
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("z-threads", {"resources": Resources(cpu_millicores=2000)}),
        ("z-early", {"env": {"OPENBLAS_CORETYPE": "generic"}}),
    ],
)
async def test_what_must_be_set_before_the_first_import_starts_afresh(
    node: RunningNode, name: str, fields: dict[str, Any]
) -> None:
    await node.deploy(name, "toy_models:pid", **fields)
    await zygote_of(node)
    assert not is_forked(await sleep_and_wake(node, name))


async def test_replicas_outlive_a_zygote_that_is_killed_and_the_next_starts_without_it(own_node: RunningNode) -> None:
    node = own_node
    ready = await node.deploy("a", "toy_models:pid")
    zygote = await zygote_of(node)
    pid = await forked_replica(node, "a")
    os.kill(zygote, signal.SIGKILL)
    await no_process(zygote)
    assert (await node.predict(ready.endpoint_url or "", 1)).json() == pid
    assert not is_forked(await sleep_and_wake(node, "a"))
    assert (await node.predict(ready.endpoint_url or "", 1)).status_code == 200
    await forked_replica(node, "a")


async def test_a_forked_replica_that_dies_is_replaced(own_node: RunningNode) -> None:
    node = own_node
    await node.deploy("a", "toy_models:pid", autoscaling=Autoscaling(min_replicas=1))
    await zygote_of(node)
    pid = await forked_replica(node, "a")
    os.kill(pid, signal.SIGKILL)

    async def another() -> bool:
        return pid not in (pids := await node.replica_pids("a")) and len(pids) == 1

    await eventually(another)


async def test_a_zygote_ends_with_its_node_and_the_next_node_knows_what_to_preload(own_node: RunningNode) -> None:
    from tests.local.test_killed_node import kill, revive

    node = own_node
    await node.deploy("a", "toy_models:pid")
    zygote = await zygote_of(node)
    pid = await forked_replica(node, "a")
    await kill(node)
    await no_process(zygote)
    await revive(node)
    assert await node.replica_pids("a") == [pid], "a forked replica is adopted as any other"
    assert await zygote_of(node) != zygote
