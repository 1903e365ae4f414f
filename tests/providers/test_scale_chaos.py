"""Scale at 20 % faults: rate limits, outages, resets, lost requests and answers. All comes out right, nothing twice."""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from prefect_modeldeploy.deployments import Autoscaling
from prefect_modeldeploy.errors import InvalidInput
from tests.providers.scale_kit import Account, account, scale_sandbox
from tests.sandbox.storm import all_done, storm, struck

__all__ = ["account", "scale_sandbox"]

pytestmark = pytest.mark.usefixtures("without_waits")


async def life(account: Account, number: int) -> None:
    """One deployment's life: ten operations, each of which may be repeated by the storm's helper."""
    client, name = account.client, f"d-{number}"
    spec = account.spec(name, version=str(number), autoscaling=Autoscaling(min_replicas=1, max_replicas=4))

    async def read_all() -> None:
        assert any(one.name == name for one in await client.find(model=account.model_id))

    steps: list[Callable[[], Awaitable[object]]] = []
    made = (await all_done([partial(client.create, spec)]))[0]
    steps += [
        partial(client.create, spec),
        partial(client.get, made.id),
        partial(client.scale, made.id, Autoscaling(max_replicas=5 + number % 3)),
        partial(client.scale_to_zero, made.id),
        partial(client.wake, made.id),
        read_all,
        partial(client.promote, made.id, environment=f"env-{number}"),
        partial(client.promote, made.id, environment=f"env-{number}"),
    ]
    for step in steps:
        await all_done([step])
    if number % 2:
        # What serves is not deleted; the odd ones let the seeded deployment serve in their place.
        seeded = await all_done([account.seeded])
        await all_done([partial(client.promote, seeded[0].id, environment=f"fraud-env-{number}")])
        await all_done([partial(client.delete, made.id)])


async def weather(account: Account, lives: int) -> None:
    await account.seeded()
    await storm(account.control, "scale")
    await all_done([partial(life, account, number) for number in range(lives)], at_once=8)
    print(f"\n{lives} lives of 10 operations; struck: {await struck(account.control)}")
    assert all(count > 0 for count in (await struck(account.control)).values())
    await account.control.clear_faults()
    names = Counter(record["name"] for record in await account.records())
    assert names == Counter(["fraud-v1", *(f"d-{number}" for number in range(0, lives, 2))])
    for record in await account.records():
        if record["name"] != "fraud-v1":
            number = int(record["name"][2:])
            workers = record["vendor_configuration"]
            assert (workers["min_workers"], workers["max_workers"]) == (1, 5 + number % 3)
    servers = list((await account.control.table("scale", "servers")).values())
    assert Counter(one["alias"] for one in servers) == Counter(f"fraud-env-{number}" for number in range(lives))
    alive = {record["id"] for record in await account.records()}
    assert {one["model_deployment_id"] for one in servers} <= alive


async def test_a_short_storm(account: Account) -> None:
    await weather(account, 6)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_a_thousand_operations_in_a_storm(account: Account) -> None:
    await weather(account, 100)


async def test_a_storm_hides_no_mistake_of_the_user(account: Account) -> None:
    await storm(account.control, "scale")
    with pytest.raises(InvalidInput):
        await all_done([partial(account.deploy, "x", source="image:1")])
