"""The sandbox's parts by themselves: the clock, life cycles, replicas, worlds, and what the journal keeps."""

import asyncio
import math
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.sandbox.behaviours import Behaviours, ModelFailed, echo, find_callable
from prefect_modeldeploy.sandbox.clock import Clock
from prefect_modeldeploy.sandbox.lifecycle import Fate, Fates, Timeline
from prefect_modeldeploy.sandbox.pool import Pool, Scaling
from prefect_modeldeploy.sandbox.world import World
from tests.sandbox.kit import RunningSandbox, running_sandbox
from tests.sandbox.toy import ToyEmulator

BUILD = Timeline((("QUEUED", 5), ("BUILDING", 20)), "READY", failed="BROKEN")
SCALING = Scaling(0, 4, target=2, start_seconds=5, scale_down_seconds=60, window_seconds=10)


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_stands_nearly_still_and_jumps() -> None:
    clock = Clock(speed=1e-6, now=1000.0)
    assert round(clock.now(), 3) == 1000.0
    clock.advance(60)
    assert round(clock.elapsed(1000.0), 3) == 60.0
    assert clock.stamp(0) == "1970-01-01T00:00:00.000000Z"


def test_at_speed_0_life_cycles_are_over_and_idleness_is_not() -> None:
    clock = Clock(speed=0, now=1000.0)
    assert clock.elapsed(clock.now()) == math.inf
    assert clock.lasting(600) == 0
    assert clock.now() - 1000.0 < 60


def test_a_change_of_speed_moves_no_time() -> None:
    clock = Clock(speed=1e-6, now=1000.0)
    clock.speed = 0
    assert round(clock.now()) == 1000
    assert clock.speed == 0


@pytest.mark.parametrize("speed", [-1, math.inf, math.nan])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(InvalidInput, match="speed"):
        Clock(speed)


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
def test_time_does_not_run_backwards(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="advance_seconds"):
        Clock(1).advance(seconds)


async def test_who_sleeps_wakes_when_the_clock_jumps() -> None:
    clock = Clock(speed=1)
    sleeping = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    clock.advance(3600)
    await asyncio.wait_for(sleeping, 10)


# --- life cycles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "word"), [(0, "QUEUED"), (4.9, "QUEUED"), (5, "BUILDING"), (25, "READY"), (math.inf, "READY")]
)
def test_a_word_follows_from_elapsed_time(elapsed: float, word: str) -> None:
    assert BUILD.word(elapsed) == word


@pytest.mark.parametrize(
    ("outcome", "stage", "elapsed", "word"),
    [
        ("fail", "BUILDING", 10, "BUILDING"),
        ("fail", "BUILDING", 25, "BROKEN"),
        ("fail", "QUEUED", 5, "BROKEN"),
        ("stuck", "QUEUED", math.inf, "QUEUED"),
        ("stuck", "BUILDING", 3, "QUEUED"),
        ("slow", "BUILDING", 100, "BUILDING"),
        ("slow", "BUILDING", 205, "READY"),
    ],
)
def test_a_fate_bends_a_life_cycle_at_its_stage(outcome: str, stage: str, elapsed: float, word: str) -> None:
    fate = Fate.model_validate({"outcome": outcome, "stage": stage})
    assert BUILD.word(elapsed, fate) == word


def test_a_fate_strikes_as_often_as_it_says_and_only_what_it_names() -> None:
    fates = Fates()
    fates.add(Fate(outcome="fail", provider="toy", timeline="create", match="bad*", times=2))
    stages = ["QUEUED", "BUILDING"]
    assert fates.draw("other", "create", ["bad"], stages) is None
    assert fates.draw("toy", "delete", ["bad"], stages) is None
    assert fates.draw("toy", "create", ["good"], stages) is None
    first, second = fates.draw("toy", "create", ["x", "bad-1"], stages), fates.draw("toy", "create", ["bad"], stages)
    assert first is not None
    assert second is not None
    assert first.stage == "BUILDING"
    assert fates.draw("toy", "create", ["bad"], stages) is None
    assert fates.all() == []


def test_a_fate_of_an_unknown_stage_waits_for_one_that_has_it() -> None:
    fates = Fates()
    fates.add(Fate(outcome="stuck", stage="PULLING"))
    assert fates.draw("toy", "create", ["x"], ["QUEUED"]) is None
    assert fates.draw("toy", "create", ["x"], ["QUEUED", "PULLING"]) is not None


# --- replicas ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock(speed=1e-6, now=1000.0)


def counts(pool: Pool, scaling: Scaling = SCALING) -> tuple[int, int]:
    replicas = pool.settle(scaling)
    return replicas.ready, replicas.running


async def test_replicas_start_under_load_and_go_when_it_is_over(clock: Clock) -> None:
    pool = Pool(clock, {})
    assert counts(pool) == (0, 0)
    async with pool.request(SCALING), pool.request(SCALING), pool.request(SCALING):
        assert (pool.in_flight, counts(pool)) == (3, (0, 2))
        clock.advance(5)
        assert counts(pool) == (2, 2)
        assert pool.idle_seconds == 0
    clock.advance(59)
    assert counts(pool)[1] == 2
    clock.advance(20)
    assert counts(pool) == (0, 0)


async def test_replicas_stay_within_their_bounds(clock: Clock) -> None:
    pool = Pool(clock, {})
    bounded = Scaling(1, 2, target=1, start_seconds=0, scale_down_seconds=10, window_seconds=1)
    assert counts(pool, bounded) == (1, 1)
    async with pool.request(bounded), pool.request(bounded), pool.request(bounded):
        assert counts(pool, bounded) == (2, 2)
    clock.advance(100)
    assert counts(pool, bounded) == (1, 1)


async def test_few_requests_do_not_keep_many_replicas(clock: Clock) -> None:
    pool = Pool(clock, {})
    one = Scaling(0, 4, target=1, start_seconds=0, scale_down_seconds=30, window_seconds=5)
    async with pool.request(one), pool.request(one), pool.request(one):
        assert counts(pool, one)[1] == 3
    for _ in range(8):
        clock.advance(6)
        async with pool.request(one):
            pass
    assert counts(pool, one)[1] == 1


async def test_a_replica_that_does_not_come_is_not_waited_for_without_end(clock: Clock) -> None:
    pool = Pool(clock, {})
    assert not await pool.woken(SCALING, timeout_seconds=0.05)
    assert not await pool.woken(Scaling(0, 0), timeout_seconds=10)


def test_restarted_replicas_are_not_ready_at_once(clock: Clock) -> None:
    pool = Pool(clock, {})
    pool.restart(2)
    assert counts(pool) == (0, 2)
    pool.restart(0)
    assert counts(pool) == (0, 0)


# --- what deployments answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "total"),
    [({"a": [1, {"b": 2.5}], "c": "7", "d": True, "e": None}, 3.5), (4, 4), ("x", 0), (10**400, 0), ([], 0)],
)
def test_the_default_model_adds_what_numbers_it_finds(payload: object, total: float) -> None:
    assert echo(payload) == {"sum": total, "echo": payload}


@pytest.mark.parametrize("name", ["math", "math:", "math:nothing", ":sqrt", "no_module:x", "math:pi", "..:x"])
def test_what_is_no_callable_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="callable"):
        find_callable(name)


async def test_a_model_that_raises_fails_and_nothing_else() -> None:
    behaviours = Behaviours()
    from prefect_modeldeploy.sandbox.behaviours import Behaviour

    behaviours.add(Behaviour(callable="math:sqrt", match="m"))
    assert await behaviours.answer("toy", ["m"], 16) == 4
    with pytest.raises(ModelFailed, match="TypeError"):
        await behaviours.answer("toy", ["m"], "x")
    assert await behaviours.answer("toy", ["other"], 16) == {"sum": 16, "echo": 16}


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_ids_are_the_same_in_every_fresh_world_and_never_twice() -> None:
    one, two = World("toy"), World("toy")
    ids = [one.new_id("thing") for _ in range(50)] + [one.new_uuid("thing") for _ in range(50)]
    assert ids == [two.new_id("thing") for _ in range(50)] + [two.new_uuid("thing") for _ in range(50)]
    assert len(set(ids)) == 100
    assert World("other").new_uuid("thing") != World("toy").new_uuid("thing")


class SmallToy(ToyEmulator):
    longest_body = 1000


@pytest_asyncio.fixture
async def small() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(SmallToy) as sandbox:
        yield sandbox


async def test_a_body_may_be_too_long(small: RunningSandbox) -> None:
    toy = small["toy"]
    async with httpx.AsyncClient(base_url=toy["base_url"], trust_env=False) as http:
        answer = await http.post("/things", content=b"x" * 5000, headers={"x-api-key": toy["api_key"]})
    assert (answer.status_code, list(answer.json())) == (413, ["oops"])


async def test_a_slow_start_is_slow_and_a_fault_can_be_late(small: RunningSandbox) -> None:
    toy, control = small["toy"], small.control
    await control.set_speed(0.001)
    await control.fate(outcome="slow", stage="BUILDING", factor=10)
    async with httpx.AsyncClient(
        base_url=toy["base_url"], headers={"x-api-key": toy["api_key"]}, trust_env=False
    ) as http:
        thing = (await http.post("/things", json={"name": "slow"})).json()
        await control.advance(100)
        assert (await http.get(f"/things/{thing['id']}")).json()["status"] == "BUILDING"
        assert await control.release(thing["id"], provider="toy") == 1
        await control.advance(20)
        assert (await http.get(f"/things/{thing['id']}")).json()["status"] == "READY"
        await control.fault(kind="delay", seconds=30)
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/things", timeout=0.2)
    assert [fault.fired for fault in await control.faults()] == [1]
    await control.forget_requests()
    assert await control.requests() == []
