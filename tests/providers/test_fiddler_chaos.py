"""A fifth of all requests to Fiddler goes wrong, in every way there is; the world must come out right."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from prefect_modeldeploy.deployments import Autoscaling, Deployment
from prefect_modeldeploy.errors import NotFound
from tests.providers.fiddler_kit import Account, account, artifact, fiddler_sandbox, spec
from tests.sandbox.storm import all_done, storm, struck, until_done

__all__ = ["account", "fiddler_sandbox"]

pytestmark = pytest.mark.usefixtures("without_waits")

SCHEMA = {"schema": {"schema_version": 1, "columns": []}, "spec": {"inputs": ["x"], "outputs": ["y"]}}
OPERATIONS = 12
"""Of one life: two versions are created, scaled, stopped, started, promoted; one is rolled back, one deleted."""


async def one_life(account: Account, directory: Path, number: int, done: list[str]) -> str:
    """Two versions of a model, the second one promoted, rolled back and deleted. Returns the id of the first."""
    client, made = account.client, list[Deployment]()

    async def do(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        result = await until_done(operation)
        done.append(name)
        return result

    for version in ("v1", "v2"):
        wanted = spec(directory, version, model=f"m{number}", name=f"m{number}-{version}", options=SCHEMA)
        one = await do("create", lambda wanted=wanted: client.create(wanted))  # type: ignore[misc]
        made.append(one)
        await do("scale", lambda id=one.id: client.scale(id, Autoscaling(min_replicas=number % 10 + 1)))  # type: ignore[misc]
        await do("stop", lambda id=one.id: client.stop(id))  # type: ignore[misc]
        await do("start", lambda id=one.id: client.start(id))  # type: ignore[misc]
        await do("promote", lambda id=one.id: client.promote(id, environment="production"))  # type: ignore[misc]
    first, second = (one.id for one in made)
    back = await do("roll back", lambda: client.roll_back(second, environment="production"))
    assert back.id == first
    await do("delete", lambda: client.delete(second))
    return first


async def weather(account: Account, tmp_path: Path, lives: int) -> None:
    directory, done = artifact(tmp_path), list[str]()
    await account.client.v3.project_id()
    await storm(account.control, "fiddler")
    started = time.monotonic()
    kept = await all_done(
        [lambda n=n: one_life(account, directory, n, done) for n in range(lives)],  # type: ignore[misc]
        at_once=8,
    )
    counts = await struck(account.control)
    await account.control.clear_faults()
    print(f"\n{len(done)} operations in {time.monotonic() - started:.1f} s; faults: {counts}")
    assert len(done) == lives * OPERATIONS
    assert all(count > 0 for count in counts.values())
    await the_world_is_right(account, kept)


async def the_world_is_right(account: Account, kept: list[str]) -> None:
    found = await account.client.find()
    assert {one.id for one in found} == {account.seeded, *kept}, "no duplicate, and nothing that was deleted"
    models = await account.client.v3.models()
    assert len(models) == len(found), "no version without a deployment is left over"
    assert len({(one.name, one.version) for one in models}) == len(models)
    for number, id in enumerate(kept):
        one = next(d for d in found if d.id == id)
        assert (one.ready, one.environment, one.version) == (True, "production", "v1")
        assert one.replicas.ready == number % 10 + 1
    stored = await account.control.table("fiddler", "deployments")
    assert len(stored) == len(found)
    with pytest.raises(NotFound):
        await account.client.get("00000000-0000-0000-0000-0000000003e7")


async def test_a_hundred_operations_come_out_right(account: Account, tmp_path: Path) -> None:
    await weather(account, tmp_path, 8)


@pytest.mark.chaos
@pytest.mark.timeout(580)
async def test_a_thousand_operations_come_out_right(account: Account, tmp_path: Path) -> None:
    await weather(account, tmp_path, 84)
