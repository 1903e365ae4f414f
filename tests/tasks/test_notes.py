"""What is remembered of deployments between runs."""

import asyncio
from datetime import UTC, datetime

import pytest
from prefect.variables import Variable

from prefect_modeldeploy.deployments import Autoscaling
from prefect_modeldeploy.tasks import _notes
from prefect_modeldeploy.tasks._notes import Former, LetGo, Notes, variables

pytestmark = pytest.mark.usefixtures("prefect_server")

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def let_go(deployment: str) -> LetGo:
    settings = Autoscaling(min_replicas=2, max_replicas=5, scale_down_delay_seconds=900)
    return LetGo(deployment=deployment, at=NOW, replicas=2, price=1.5, autoscaling=settings, served=True)


async def test_any_number_of_deployments_is_remembered_each_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are listed at once."""
    monkeypatch.setattr(_notes, "_PAGE", 3)
    notes = Notes(LetGo, "many")
    ids = [f"ri.foundry-ml-live.main.live-deployment.{n:040d}/{n}" for n in range(7)]
    await asyncio.gather(*(notes.put(let_go(id)) for id in ids))
    assert await notes.all() == {id: let_go(id) for id in ids}


async def test_notes_of_other_kinds_and_endpoints_are_apart() -> None:
    await Notes(LetGo, "fraud").put(let_go("a/b"))
    await Notes(LetGo, "fraud-2").put(let_go("c"))
    await Notes(LetGo, "my-fraud").put(let_go("d"))
    former = Former(deployment="a/b", rollout="r", delete_at=NOW)
    await Notes(Former, "fraud").put(former)
    assert set(await Notes(LetGo, "fraud").all()) == {"a/b"}
    await Notes(LetGo, "fraud").drop("a/b")
    await Notes(LetGo, "fraud").drop("never-there")
    assert await Notes(LetGo, "fraud").all() == {}
    assert await Notes(Former, "fraud").all() == {"a/b": former}


async def test_the_underscore_of_a_name_is_no_wildcard() -> None:
    await Variable.aset("wild_cards__x", 1, overwrite=True)
    await Variable.aset("wildxcards__x", 2, overwrite=True)
    await Variable.aset("not_wild_cards__x", 3, overwrite=True)
    assert await variables("wild_cards__") == {"wild_cards__x": 1}


async def test_who_forgets_what_it_has_read_forgets_nothing_later() -> None:
    notes, first, second = Notes(LetGo, "marked"), let_go("a/b"), let_go("a/b").model_copy(update={"mark": "2"})
    assert await notes.of("a/b") is None
    await notes.put(second)
    await notes.put(first)
    assert await notes.all() == {"a/b": second}
    assert await notes.of("a/b") == second
    await notes.drop("a/b", until=first.mark)
    assert await notes.of("a/b") == second
    await notes.put(let_go("a/b").model_copy(update={"mark": "3"}))
    await notes.drop("a/b")
    assert await notes.all() == {}
