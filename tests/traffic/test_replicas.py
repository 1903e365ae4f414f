"""A replica that dies or leaves costs no client an error."""

import asyncio
from contextlib import AsyncExitStack

import httpx

from prefect_modeldeploy.traffic.activator import Activator
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, endpoint, replica, upstream
from tests.traffic.load import load


async def answered_by(client: httpx.AsyncClient, gateway: Gateway, name: str) -> bool:
    return (await ask(client, gateway)).json()["name"] == name


async def test_a_killed_replica_is_ejected_and_taken_back_without_an_error(
    start_gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    async with replica("a") as first, replica("b") as second:
        both = upstream("stable", first.port, second.port, health_path="/health")
        gateway = await start_gateway(DataPlane((endpoint(),), (both,)))
        async with AsyncExitStack() as later, load(gateway.url + "/prod/x", rate=300) as answers:
            await eventually(lambda: answers.count > 100)
            await second.kill()
            seen = answers.count
            await eventually(lambda: answers.count > seen + 200)
            await later.enter_async_context(replica("b", second.port))
            await eventually(lambda: answered_by(client, gateway, "b"))
            await first.kill()
            seen = answers.count
            await eventually(lambda: answers.count > seen + 200)
        assert answers.failures == []


async def test_requests_that_a_dying_replica_had_are_sent_again_unless_that_is_switched_off(
    start_gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    for retry_sent, expected in ((True, 200), (False, 502)):
        async with replica("a") as first, replica("b") as second:
            both = upstream("stable", first.port, health_path="/health", retry_sent=retry_sent)
            gateway = await start_gateway(DataPlane((endpoint(),), (both,)))
            slow = asyncio.create_task(ask(client, gateway, "/prod/slow/0.5"))

            async def in_flight(gateway=gateway) -> bool:
                return await gateway.in_flight("stable") == 1

            await eventually(in_flight)
            more = upstream("stable", first.port, second.port, health_path="/health", retry_sent=retry_sent)
            await gateway.apply(DataPlane((endpoint(),), (more,)))
            await first.kill()
            assert (await slow).status_code == expected
            await gateway.stop(grace=0)


async def test_without_any_server_the_answer_is_503_in_json(
    start_gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(DataPlane((endpoint(),), (upstream("stable"),)))
    answer = await ask(client, gateway)
    assert answer.status_code == 503
    assert "no replica" in answer.json()["error"]
    assert answer.headers["retry-after"] == "1"


async def test_a_drained_server_gets_nothing_new_also_after_a_reload(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    state = DataPlane((endpoint(),), (upstream("stable", models.stable, models.canary),))
    gateway = await start_gateway(state)
    assert gateway.sends_to("stable", "r1")
    assert await gateway.drain("stable", "r1", 5)
    assert not gateway.sends_to("stable", "r1")
    assert {(await ask(client, gateway)).json()["name"] for _ in range(10)} == {"canary"}
    await gateway.apply(DataPlane(state.endpoints, (*state.upstreams, upstream("extra", models.stable))))
    assert {(await ask(client, gateway)).json()["name"] for _ in range(10)} == {"canary"}
    assert (gateway.sends_to("stable", "r1"), gateway.sends_to("stable", "r2")) == (False, True)
    only_r2 = state.upstreams[0].model_copy(update={"servers": state.upstreams[0].servers[1:]})
    await gateway.apply(DataPlane((endpoint(),), (only_r2,)))
    await gateway.apply(state)
    assert gateway.sends_to("stable", "r1")
    names = {(await ask(client, gateway)).json()["name"] for _ in range(10)}
    assert names == {"stable", "canary"}, "removed and named again, it is an ordinary server"


async def test_draining_the_last_server_sends_requests_to_the_activator_never_503(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    woken: list[str] = []

    async def wake(name: str) -> tuple[str, int]:
        woken.append(name)
        return "127.0.0.1", models.canary

    activator = Activator(wake)
    state = DataPlane((endpoint(),), (upstream("stable", models.stable, wakes=True, health_path="/health"),))
    gateway = await start_gateway(state, activator=await activator.start())
    async with load(gateway.url + "/prod/x", rate=200) as answers:
        await eventually(lambda: answers.count > 50)
        assert not woken
        assert await gateway.drain("stable", "r1", 5)
        seen = answers.count
        await eventually(lambda: answers.count > seen + 50)
        assert (await ask(client, gateway)).json()["name"] == "canary", "through the activator"
        await gateway.apply(DataPlane((endpoint(),), (upstream("stable", wakes=True, health_path="/health"),)))
        seen = answers.count
        await eventually(lambda: answers.count > seen + 50)
        await gateway.apply(state)
        assert (await ask(client, gateway)).json()["name"] == "stable"
        seen = answers.count
        await eventually(lambda: answers.count > seen + 50)
    assert answers.failures == []
    await activator.stop()
