"""The red button turns every rollout back, wherever it stands, and lets no new one begin."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.settings import get_current_settings
from prefect.variables import Variable

from prefect_modeldeploy import canary_rollout, roll_back
from prefect_modeldeploy.errors import RolloutsHalted
from prefect_modeldeploy.flows import _driver, _ownership, promote_to_production
from prefect_modeldeploy.rollout import Actor, Approval, Effect, Phase, finish, next_effect
from prefect_modeldeploy.tasks import _journal, _red_button
from prefect_modeldeploy.tasks._identity import this_user
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.flows.hosted import hosted
from tests.flows.test_holding import Away
from tests.prefect_server import running_server
from tests.rollout.test_machine import record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A server of its own: the button is pressed for all who share one."""
    with running_server():
        yield


def modeldeploy(*arguments: str) -> str:
    environment = {**os.environ, "PREFECT_API_URL": get_current_settings().api.url or ""}
    command = [sys.executable, "-m", "prefect_modeldeploy.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@contextmanager
def halted(why: str) -> Iterator[None]:
    assert "halted" in modeldeploy("halt", why)
    try:
        yield
    finally:
        assert "may begin again" in modeldeploy("allow")
    assert "nothing was halted" in modeldeploy("allow")


async def test_a_rollout_under_way_gives_the_traffic_back_and_takes_its_canary_down(site: Site) -> None:
    plan = QUICK.model_copy(update={"step_seconds": 25.0})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(site.target, site.spec("2"), plan))
        await eventually(lambda: answers.by_arm["canary"] > 20)
        with halted("incident 12"):
            record = await running
    assert (record.outcome, record.decided_by) == ("rolled_back", "red button")
    assert "incident 12" in record.reason
    assert record.told is not None
    assert (record.told.order, record.told.who, record.told.why) == ("abort", Actor(name=this_user()), "incident 12")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    assert f"{site.target.model}-2" not in await site.deployments()
    assert not [failure for failure in answers.failures if failure != "status 500"]


async def test_it_is_looked_at_before_every_step_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressed while the provider is away, and released after: nobody who looks now and then has seen it."""
    monkeypatch.setattr(_driver, "_AGAIN_SECONDS", 0.1)
    at = datetime.now(UTC)
    ready = await _journal.save(_ownership.taken(record(phase=Phase.APPROVED, endpoint="halted", started_at=at)))
    effects = Away(tmp_path, lambda: _red_button.press("incident 13"))
    try:
        after = await _driver._holding(Effect.FILL, ready, effects)
        promoted = finish(ready, Effect.PROMOTE, at)
        still = await _driver._holding(Effect.RETIRE_FORMER, promoted, effects)
    finally:
        await _red_button.release()
    assert (after.phase, after.decided_by) == (Phase.ROLLING_BACK, "red button")
    assert "incident 13" in after.reason
    assert still is promoted, "it is too late for that one"
    assert effects.calls == 2


async def test_it_wins_over_a_person_who_is_asked(site: Site) -> None:
    approval, plan = Approval(before=("step",), timeout_seconds=120), QUICK.model_copy(update={"step_seconds": 0.3})
    async with await site.load() as answers:
        await site.history(answers)
        running = asyncio.create_task(canary_rollout(site.target, site.spec("2"), plan, approval=approval))
        await eventually(lambda: _asks(site))
        with halted("incident 14"):
            record = await running
    assert (record.outcome, record.decided_by) == ("rolled_back", "red button")
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


async def _asks(site: Site) -> bool:
    record = await _journal.load(site.target.endpoint)
    return record is not None and next_effect(record) is Effect.ASK


async def test_a_deployment_that_never_gets_ready_is_not_waited_for(site: Site) -> None:
    spec = site.spec("2").model_copy(update={"source": "takes_for_ever:predict"})
    running = asyncio.create_task(canary_rollout(site.target, spec, QUICK))

    async def is_starting() -> bool:
        return f"{site.target.model}-2" in await site.deployments()

    await eventually(is_starting)
    with halted("wrong model"):
        record = await running
    assert (record.outcome, record.decided_by) == ("rolled_back", "red button")


async def test_nothing_new_begins_but_roll_backs(site: Site) -> None:
    await promote_to_production(site.target, site.spec("2"))
    before = await site.deployments()
    with halted("freeze"):
        for start in (canary_rollout, promote_to_production):
            with pytest.raises(RolloutsHalted, match="freeze"):
                await start(site.target, site.spec("3"))
        assert set(await site.deployments()) == set(before)
        await roll_back(site.target)
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("provider", ["baseten", "scale"])  # one can call its promotions off, one cannot
async def test_nothing_halts_a_roll_back_to_a_named_version_in_the_providers_own_way(
    provider: str, tmp_path: Path
) -> None:
    async with hosted(provider, tmp_path) as hosting:
        target = hosting.target
        good = await promote_to_production(target, hosting.newer[0], mode="native")
        before = await hosting.served()
        await promote_to_production(target, hosting.newer[1], mode="native")
        assert await hosting.served() != before
        await _red_button.press("incident 15")
        try:
            with pytest.raises(RolloutsHalted, match="incident 15"):
                await promote_to_production(target, good.canary, mode="native")
            back = await roll_back(target, to=good.canary)
        finally:
            await _red_button.release()
        assert (back.kind, back.outcome, back.canary) == ("roll_back", "promoted", good.canary)
        assert await hosting.served() == before


async def test_a_text_that_somebody_has_set_in_the_ui_presses_it_too() -> None:
    assert await _red_button.pressed() is None
    await Variable.aset(_red_button.VARIABLE, "incident 16")
    try:
        assert str(await _red_button.pressed()) == "by somebody: incident 16"
    finally:
        await _red_button.release()
    assert await _red_button.pressed() is None
