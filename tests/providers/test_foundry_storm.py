"""A fifth of all requests goes wrong, in every way there is: the world comes out right, with nothing twice."""

from collections import Counter

import pytest

from prefect_modeldeploy.deployments import Autoscaling
from tests.providers.foundry_kit import Foundry, Permissive, foundry
from tests.sandbox.storm import all_done, storm, struck

OPERATIONS_PER_BRANCH = 8


async def weather(own: Foundry, branches: list[str]) -> None:
    """Eight operations on each branch: create, scale, zero, wake, promote, stop, start, predict."""
    client, model = own.client, own.model
    second = await own.new_version("second")
    await storm(own.control, "foundry")
    ids = [made.id for made in await all_done([lambda b=b: client.create(own.spec(b)) for b in branches])]  # type: ignore[misc]
    wide = Autoscaling(min_replicas=2, max_replicas=7)
    await all_done([lambda i=i: client.scale(i, wide) for i in ids])  # type: ignore[misc]
    await all_done([lambda i=i: client.scale_to_zero(i) for i in ids])  # type: ignore[misc]
    await all_done([lambda i=i: client.wake(i) for i in ids])  # type: ignore[misc]
    await all_done([lambda b=b: client.promote_version(model, second, b) for b in branches])  # type: ignore[misc]
    await all_done([lambda i=i: client.stop(i) for i in ids])  # type: ignore[misc]
    await all_done([lambda i=i: client.start(i) for i in ids])  # type: ignore[misc]
    sums = await all_done([lambda i=i: client.predict(i, {"x": 3}) for i in ids])  # type: ignore[misc]
    assert [answer["sum"] for answer in sums] == [3] * len(ids)
    await assert_right(own, dict(zip(branches, ids, strict=True)), second)


async def assert_right(own: Foundry, expected: dict[str, str], second: str) -> None:
    counts = await struck(own.control)
    print(f"{len(expected) * OPERATIONS_PER_BRANCH} operations, struck: {counts}")
    assert min(counts.values()) > 0, "there was no storm"
    await own.control.clear_faults()
    lives = await own.lives()
    assert Counter(one["branch"] for one in lives) == Counter([*expected, "master"]), "none twice, none too many"
    assert {one["branch"]: one["id"] for one in lives if one["branch"] != "master"} == expected
    for branch in expected:
        copies = [one["source"]["previousModelVersionRid"] for one in await own.versions_on(branch)]
        assert copies == [own.version, second]
    for found in await own.client.find(model=own.model):
        if found.environment in expected:
            assert found.ready
            assert found.autoscaling == Autoscaling(min_replicas=1, max_replicas=7)


@pytest.mark.usefixtures("without_waits")
async def test_a_small_storm() -> None:
    async with foundry(Permissive, settle_seconds=0.1) as own:
        await weather(own, [f"branch-{number}" for number in range(5)])


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("without_waits")
async def test_a_thousand_operations_in_a_storm() -> None:
    async with foundry(Permissive, settle_seconds=0.1) as own:
        await weather(own, [f"branch-{number}" for number in range(125)])
