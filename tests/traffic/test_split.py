"""Who gets which share: at random, by a sticky header, by force; and while the weights move."""

import asyncio
import math
from collections import Counter

import httpx
import pytest

from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, endpoint, upstream
from tests.traffic.load import load

USERS = {0: "user-2210", 1: "user-11203", 9998: "user-4913", 9999: "user-2103"}
"""Who has which number of 0..9999: xxh32 of the name, modulo 10,000. The canary has the numbers below its share."""


async def arms_of(
    client: httpx.AsyncClient, gateway: Gateway, count: int, headers: dict[str, str] | None = None
) -> Counter[str]:
    answers = [await ask(client, gateway, headers=headers or {}) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()["name"] == answer.headers["x-modeldeploy-arm"] for answer in answers)
    return Counter(answer.headers["x-modeldeploy-arm"] for answer in answers)


def assert_share(count: int, total: int, percent: float) -> None:
    """Within 4.9 standard deviations of the binomial: wrong once in a million runs."""
    share = percent / 100
    assert abs(count - total * share) <= 4.9 * math.sqrt(total * share * (1 - share)), (count, total, percent)


@pytest.mark.parametrize("percent", [5, 33.33, 50])
async def test_the_split_is_the_weight(start_gateway: StartGateway, models: Models, percent: float) -> None:
    gateway = await start_gateway(models.split(percent))
    async with load(gateway.url + "/prod/x", rate=2000, connections=16) as answers:
        await eventually(lambda: answers.count >= 2000)
    assert answers.failures == []
    assert_share(answers.by_arm["canary"], answers.count, percent)


async def test_the_smallest_step_is_one_of_ten_thousand(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0, sticky_header="X-User"))
    for percent, on_canary in {0.01: {0}, 0.02: {0, 1}, 99.98: {0, 1}, 99.99: {0, 1, 9998}}.items():
        await gateway.apply(models.split(percent, sticky_header="X-User"))
        for number, user in USERS.items():
            expected = "canary" if number in on_canary else "stable"
            assert await arms_of(client, gateway, 1, {"X-User": user}) == {expected: 1}, (percent, number)


@pytest.mark.parametrize(("percent", "arm"), [(0, "stable"), (100, "canary")])
async def test_all_is_all_and_nothing_is_nothing(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, percent: float, arm: str
) -> None:
    gateway = await start_gateway(models.split(percent))
    assert await arms_of(client, gateway, 150) == {arm: 150}


async def test_three_arms_share(start_gateway: StartGateway, models: Models, client: httpx.AsyncClient) -> None:
    upstreams = [upstream("stable", models.stable), upstream("canary", models.canary), upstream("third", models.stable)]
    state = DataPlane((endpoint({"stable": 50, "canary": 20, "third": 30}),), tuple(upstreams))
    gateway = await start_gateway(state)
    async with load(gateway.url + "/prod/x", rate=2000, connections=16) as answers:
        await eventually(lambda: answers.count >= 1500)
    for arm, percent in {"stable": 50, "canary": 20, "third": 30}.items():
        assert_share(answers.by_arm[arm], answers.count, percent)


async def test_a_sticky_header_keeps_its_arm_and_a_growing_canary_only_gains(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(10, sticky_header="X-User"))
    users = [{"X-User": f"user-{number}"} for number in range(100)]
    former: set[str] = set()
    for percent in (10, 30, 80, 100):
        await gateway.apply(models.split(percent, sticky_header="X-User"))
        on_canary = set()
        for user in users:
            (arm,) = await arms_of(client, gateway, 2, user)  # both requests at the same arm
            if arm == "canary":
                on_canary.add(user["X-User"])
        assert former <= on_canary, "nobody flips back while the weight grows"
        assert_share(len(on_canary), len(users), percent)
        former = on_canary
    await gateway.apply(models.split(50, sticky_header="X-User"))
    assert len(await arms_of(client, gateway, 60)) == 2, "without the header the choice is random"


async def test_a_header_forces_an_arm(start_gateway: StartGateway, models: Models, client: httpx.AsyncClient) -> None:
    gateway = await start_gateway(models.split(0, sticky_header="X-User"))
    forced = {"X-Modeldeploy-Arm": "canary", "X-User": "a"}
    assert await arms_of(client, gateway, 20, forced) == {"canary": 20}
    unknown = await ask(client, gateway, headers={"X-Modeldeploy-Arm": "nobody"})
    assert (unknown.status_code, unknown.json()) == (400, {"error": "no such arm"})
    assert (await ask(client, gateway, "/nowhere/x", headers=forced)).status_code == 404


@pytest.mark.slow
async def test_a_thousand_weight_changes_under_load_fail_no_request(
    start_gateway: StartGateway, models: Models
) -> None:
    gateway = await start_gateway(models.split(0))
    async with load(gateway.url + "/prod/x", rate=500) as answers:
        for number in range(1000):
            await gateway.apply(models.split((number * 37) % 101))
            await asyncio.sleep(0)
        await gateway.apply(models.split(100))
        before = Counter(answers.by_arm)
        await eventually(lambda: answers.count > before.total() + 100)
    assert answers.failures == []
    after = answers.by_arm - before
    assert after["stable"] <= 8, "at most those that were in flight at the last change"
