"""What a deployment goes through, and what it says about it."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from prefect_modeldeploy.deployments import Autoscaling, Deployment, DeploymentStatus, DeploymentUpdate
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound
from prefect_modeldeploy.traffic.admin import AdminSocket
from tests.conftest import eventually
from tests.local.conftest import MODELS, RunningNode, no_process

Status = DeploymentStatus


async def failed(node: RunningNode, name: str, seconds: float = 30.0) -> Deployment:
    async def look() -> Deployment | None:
        seen = await node.client.get_deployment(name)
        return seen if seen.status is Status.FAILED else None

    found = await eventually(look, seconds)
    assert isinstance(found, Deployment)
    return found


async def gone(node: RunningNode, name: str) -> None:
    async def look() -> bool:
        try:
            await node.client.get_deployment(name)
        except NotFound:
            return True
        return False

    await eventually(look)


async def test_a_new_deployment_becomes_ready_and_answers(node: RunningNode) -> None:
    created = await node.deploy("s-new", "toy_models:echo", wait=False, options={"labels": {"team": "risk"}})
    assert created.tags == ("team=risk",)
    assert created.status in (Status.PENDING, Status.STARTING)
    assert not created.ready
    ready = await node.until("s-new", Status.READY)
    assert (ready.provider, ready.model_id, ready.version, ready.replicas.ready) == ("local", "toy", "1", 1)
    assert (await node.predict(ready.endpoint_url or "", "hello")).json() == "hello"


async def test_it_is_stopped_and_started(node: RunningNode) -> None:
    ready = await node.deploy("s-stop", "toy_models:echo")
    (pid,) = await node.replica_pids("s-stop")
    assert (await node.client.stop_deployment("s-stop")).status in (Status.STOPPING, Status.STOPPED)
    stopped = await node.until("s-stop", Status.STOPPED)
    await no_process(pid)
    assert (stopped.ready, stopped.replicas.running, stopped.replicas.desired) == (False, 0, 0)
    assert (await node.predict(ready.endpoint_url or "", 1)).status_code == 503
    assert (await node.client.get_deployment("s-stop")).status is Status.STOPPED, "a request must not start it"
    with pytest.raises(Conflict, match="start it"):
        await node.client.wake_deployment("s-stop")
    with pytest.raises(Conflict, match="start it"):
        await node.client.scale_deployment("s-stop", replicas=0)
    await node.client.start_deployment("s-stop")
    await node.until("s-stop", Status.READY)
    assert (await node.predict(ready.endpoint_url or "", 1)).json() == 1


async def test_it_is_scaled_up_and_down(node: RunningNode) -> None:
    ready = await node.deploy("s-scale", "toy_models:pid")
    await node.client.scale_deployment("s-scale", replicas=3)
    three = await node.until("s-scale", Status.READY)
    assert (three.replicas.ready, three.replicas.desired) == (3, 3)
    pids = set(await node.replica_pids("s-scale"))
    seen = {(await node.predict(ready.endpoint_url or "", 1)).json() for _ in range(60)}
    assert seen == pids, "all replicas get requests"
    await node.client.scale_deployment("s-scale", replicas=1)

    async def one() -> bool:
        return (await node.client.get_deployment("s-scale")).replicas.running == 1

    await eventually(one)
    (left,) = await node.replica_pids("s-scale")
    assert left in pids
    for pid in pids - {left}:
        await no_process(pid)


async def test_bounds_are_kept(node: RunningNode) -> None:
    await node.deploy("s-bounds", "toy_models:echo", autoscaling=Autoscaling(min_replicas=2, max_replicas=3))
    assert (await node.client.get_deployment("s-bounds")).replicas.ready == 2
    with pytest.raises(InvalidInput, match="max_replicas=3"):
        await node.client.scale_deployment("s-bounds", replicas=4)
    with pytest.raises(InvalidInput, match="min_replicas"):
        await node.client.scale_deployment("s-bounds", autoscaling=Autoscaling(min_replicas=5))
    await node.client.scale_deployment("s-bounds", autoscaling=Autoscaling(min_replicas=3))
    assert (await node.until("s-bounds", Status.READY)).replicas.ready == 3
    with pytest.raises(InvalidInput, match="does not scale by load"):
        await node.client.scale_deployment("s-bounds", autoscaling=Autoscaling(target_concurrency=5))
    await node.client.scale_deployment("s-bounds", autoscaling=Autoscaling(min_replicas=1))

    async def one() -> bool:
        return (await node.client.get_deployment("s-bounds")).replicas.running == 1

    await eventually(one)


async def test_zero_holds_the_next_request_and_wakes(node: RunningNode) -> None:
    ready = await node.deploy("s-zero", "toy_models:echo")
    (pid,) = await node.replica_pids("s-zero")
    await node.client.scale_deployment("s-zero", replicas=0)
    zero = await node.until("s-zero", Status.SCALED_TO_ZERO)
    assert (zero.ready, zero.replicas.running) == (False, 0)
    await no_process(pid)
    answers = await asyncio.gather(*(node.predict(ready.endpoint_url or "", n) for n in range(32)))
    assert [answer.json() for answer in answers] == list(range(32))
    assert (await node.until("s-zero", Status.READY)).replicas.running == 1


async def test_it_is_woken_without_a_request(node: RunningNode) -> None:
    await node.deploy("s-wake", "toy_models:echo")
    await node.client.scale_deployment("s-wake", replicas=0)
    await node.until("s-wake", Status.SCALED_TO_ZERO)
    assert (await node.client.wake_deployment("s-wake")).status is Status.WAKING
    await node.until("s-wake", Status.READY)
    assert (await node.client.wake_deployment("s-wake")).status is Status.READY, "waking twice changes nothing"


async def test_it_goes_to_zero_when_idle_and_only_then(node: RunningNode) -> None:
    autoscaling = Autoscaling(min_replicas=0, scale_down_delay_seconds=0.6)
    ready = await node.deploy("s-idle", "toy_models:blocking", autoscaling=autoscaling)
    url = ready.endpoint_url or ""
    for _ in range(3):
        assert (await node.predict(url, {"seconds": 0.3})).status_code == 200
        assert (await node.client.get_deployment("s-idle")).status is Status.READY
    assert (await node.predict(url, {"seconds": 1.2})).status_code == 200, "a request in flight is not idleness"
    await node.until("s-idle", Status.SCALED_TO_ZERO)
    assert (await node.predict(url, {"seconds": 0})).status_code == 200
    await node.until("s-idle", Status.SCALED_TO_ZERO)


async def test_requests_that_come_while_the_last_replica_drains_are_held_and_answered(node: RunningNode) -> None:
    ready = await node.deploy("s-race", "toy_models:blocking")
    url = ready.endpoint_url or ""
    slow = asyncio.create_task(node.predict(url, {"seconds": 1.5}))
    await eventually(lambda: _in_flight(node, "s-race"))
    await node.client.scale_deployment("s-race", replicas=0)
    await eventually(lambda: _is_drained(node, "s-race"))
    late = await asyncio.gather(*(node.predict(url, {"seconds": 0}) for _ in range(8)))
    assert [answer.status_code for answer in late] == [200] * 8
    first = await slow
    assert first.status_code == 200
    assert first.json() not in {answer.json() for answer in late}, "a new replica answered those that came late"


async def _is_drained(node: RunningNode, name: str) -> bool:
    """Whether the proxy sends the replica nothing new."""
    admin = AdminSocket(node.home.gateway)
    workers = await admin.workers()
    assert workers
    assert workers.current
    return any("DRAIN" in row["status"] for row in await admin.statistics(workers.current, name))


async def _in_flight(node: RunningNode, name: str) -> bool:
    return await node.client.idle_seconds(name) == 0.0


async def test_a_slow_request_in_flight_survives_scale_down_stop_and_delete(node: RunningNode) -> None:
    actions = {
        "s-slow-scale": lambda name: node.client.scale_deployment(name, replicas=0),
        "s-slow-stop": node.client.stop_deployment,
        "s-slow-delete": node.client.delete_deployment,
    }
    for name, action in actions.items():
        ready = await node.deploy(name, "toy_models:blocking")
        slow = asyncio.create_task(node.predict(ready.endpoint_url or "", {"seconds": 1.0}))
        await eventually(lambda name=name: _in_flight(node, name))
        await action(name)
        assert (await slow).status_code == 200, name


async def test_an_update_brings_new_replicas_first_and_loses_no_request(node: RunningNode) -> None:
    ready = await node.deploy("s-update", "toy_models:pid")
    old = set(await node.replica_pids("s-update"))
    statuses, over = [], asyncio.Event()

    async def call() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            while not over.is_set():
                statuses.append((await http.post(f"{ready.endpoint_url}/predict", json=1)).status_code)

    callers = [asyncio.create_task(call()) for _ in range(4)]
    updated = await node.client.update_deployment("s-update", DeploymentUpdate(version="2"))
    assert (updated.status, updated.ready, updated.version) == (Status.UPDATING, True, "2")
    await node.until("s-update", Status.READY)
    for pid in old:
        await no_process(pid)
    over.set()
    await asyncio.gather(*callers)
    assert set(statuses) == {200}
    answer = await node.predict(ready.endpoint_url or "", 1)
    assert answer.headers["x-model-version"] == "2"


async def test_an_update_that_cannot_load_fails_and_the_old_version_serves_on(node: RunningNode) -> None:
    ready = await node.deploy("s-bad-update", "toy_models:echo")
    update = DeploymentUpdate(version="2", source="raises_on_import:f")
    await node.client.update_deployment("s-bad-update", update)
    broken = await failed(node, "s-bad-update")
    assert "the weights are corrupt" in (broken.reason or "")
    assert broken.ready
    assert (await node.predict(ready.endpoint_url or "", 1)).headers["x-model-version"] == "1"
    await node.client.update_deployment("s-bad-update", DeploymentUpdate(version="3", source="toy_models:echo"))
    await node.until("s-bad-update", Status.READY)
    assert (await node.predict(ready.endpoint_url or "", 1)).headers["x-model-version"] == "3"


async def test_a_deleted_deployment_is_gone_and_its_name_is_free(node: RunningNode) -> None:
    await node.deploy("s-delete", "toy_models:echo")
    (pid,) = await node.replica_pids("s-delete")
    await node.client.delete_deployment("s-delete")
    await gone(node, "s-delete")
    await no_process(pid)
    await node.deploy("s-delete", "toy_models:double")


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("f-file", "/nowhere/model.joblib", "no such file: /nowhere/model.joblib"),
        ("f-module", "no_such_module:f", "no module 'no_such_module'"),
        ("f-raises", "raises_on_import:f", "RuntimeError: the weights are corrupt"),
    ],
)
async def test_what_cannot_be_loaded_fails_at_once_with_the_reason(
    node: RunningNode, name: str, source: str, said: str
) -> None:
    await node.deploy(name, source, wait=False)
    seen = await failed(node, name)
    assert said in (seen.reason or "")
    assert "the end of its log" in (seen.reason or "")
    assert (seen.ready, seen.replicas.running, seen.raw["failures"]) == (False, 0, 1)
    answer = await node.predict(seen.endpoint_url or "", 1)
    assert answer.status_code == 503
    assert "Traceback" not in answer.text
    with pytest.raises(Conflict, match="FAILED"):
        await node.client.wake_deployment(name)


async def test_a_crash_loop_fails_with_the_tail_of_the_log(node: RunningNode) -> None:
    await node.deploy("f-loop", "dies_on_import:f", wait=False)
    seen = await failed(node, "f-loop")
    assert "5 times in a row" in (seen.reason or "")
    assert "about to die" in (seen.reason or "")


async def test_a_model_that_never_gets_ready_fails_after_its_time(node: RunningNode) -> None:
    await node.deploy("f-hangs", "hangs_on_import:f", wait=False, options={"start_timeout_seconds": 0.5})
    seen = await failed(node, "f-hangs")
    assert "not ready within 0.5 s" in (seen.reason or "")
    assert seen.replicas.running == 0


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("f-python", {"python": "/nowhere/python"}, "/nowhere/python"),
        ("f-folder", {"working_directory": "/nowhere"}, "/nowhere"),
    ],
)
async def test_an_interpreter_or_folder_that_is_missing_fails_with_its_path(
    node: RunningNode, name: str, options: dict[str, str], said: str
) -> None:
    await node.deploy(name, "toy_models:echo", wait=False, options=options)
    assert said in ((await failed(node, name)).reason or "")


async def test_a_failed_deployment_is_repaired_and_started_again(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "repaired_module.py").write_text("1 / 0")
    await node.deploy("f-repair", "repaired_module:f", wait=False, options={"python_path": [str(tmp_path)]})
    assert "ZeroDivisionError" in ((await failed(node, "f-repair")).reason or "")
    (tmp_path / "repaired_module.py").write_text("def f(value): return value")
    await node.client.start_deployment("f-repair")
    await node.until("f-repair", Status.READY)


async def test_requests_that_wait_for_a_model_that_cannot_load_are_told_so(node: RunningNode, tmp_path: Path) -> None:
    module = tmp_path / "vanishing_module.py"
    module.write_text("def f(value): return value")
    ready = await node.deploy("f-vanish", "vanishing_module:f", options={"python_path": [str(tmp_path)]})
    await node.client.scale_deployment("f-vanish", replicas=0)
    await node.until("f-vanish", Status.SCALED_TO_ZERO)
    module.unlink()
    answer = await node.predict(ready.endpoint_url or "", 1)
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert (await failed(node, "f-vanish")).replicas.running == 0


async def test_a_replica_that_dies_is_replaced(node: RunningNode) -> None:
    await node.deploy("f-dies", "toy_models:dying")
    (pid,) = await node.replica_pids("f-dies")
    os.kill(pid, signal.SIGKILL)

    async def another() -> bool:
        pids = await node.replica_pids("f-dies")
        return len(pids) == 1 and pids != [pid]

    await eventually(another)
    assert (await node.until("f-dies", Status.READY)).replicas.running == 1


async def test_a_replica_that_dies_under_load_costs_no_client_an_error(node: RunningNode) -> None:
    ready = await node.deploy("f-load", "toy_models:pid", autoscaling=Autoscaling(min_replicas=2))
    statuses, over = [], asyncio.Event()

    async def call() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            while not over.is_set():
                statuses.append((await http.post(f"{ready.endpoint_url}/predict", json=1)).status_code)

    callers = [asyncio.create_task(call()) for _ in range(8)]
    for _ in range(3):
        pids = await node.replica_pids("f-load")
        os.kill(pids[0], signal.SIGKILL)

        async def replaced(dead: int = pids[0]) -> bool:
            now = await node.replica_pids("f-load")
            return len(now) == 2 and dead not in now

        await eventually(replaced)
    over.set()
    await asyncio.gather(*callers)
    assert set(statuses) == {200}
    assert len(statuses) > 100


async def test_two_deaths_in_a_row_cost_no_client_an_error(node: RunningNode) -> None:
    """The requests that the first one had go to the second, which dies with them as well."""
    ready = await node.deploy("f-both", "toy_models:pid", autoscaling=Autoscaling(min_replicas=2))
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:

        async def many() -> list[int]:
            answers = await asyncio.gather(*(http.post(f"{ready.endpoint_url}/predict", json=1) for _ in range(32)))
            return [answer.status_code for answer in answers]

        assert await many() == [200] * 32  # every connection has had its first request
        pids = await node.replica_pids("f-both")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        held = asyncio.create_task(many())
        await eventually(lambda: _in_flight(node, "f-both"))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.03)  # so that requests of the first reach the second
        assert await held == [200] * 32


async def test_replicas_see_their_environment_and_no_secret_of_the_node(node: RunningNode) -> None:
    ready = await node.deploy(
        "e-env", "toy_models:environment", env={"FLAVOUR": "mint"}, options={"working_directory": str(MODELS)}
    )
    seen = (await node.predict(ready.endpoint_url or "", 1)).json()
    assert seen["environ"]["FLAVOUR"] == "mint"
    assert seen["environ"]["OMP_NUM_THREADS"] == "1"
    assert [name for name in seen["environ"] if name.startswith(("PREFECT_", "MODELDEPLOY_"))] == []
    assert (seen["cwd"], seen["stdin"]) == (str(MODELS), "/dev/null")
