"""Promotion and roll-back in the providers' own ways, and zero and wake, on emulators of the hosted APIs."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from prefect import flow

from prefect_modeldeploy import (
    CanaryPlan,
    DeploymentSpec,
    DeploymentTarget,
    canary_rollout,
    orders,
    promote_to_production,
    reconcile_rollouts,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.deployments import Capability, DeploymentStatus
from prefect_modeldeploy.errors import InvalidInput, RolloutError, UnsupportedOperation
from prefect_modeldeploy.flows._letting_go import retire
from prefect_modeldeploy.flows._start import run_rollout
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.sandbox.journal import Request
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.conftest import eventually
from tests.flows.conftest import has_served, has_told
from tests.flows.hosted import MAKERS, PROMOTED_BY, Hosted, hosted, up

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_a_native_promotion_serves_the_new_version_and_can_be_undone(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        before = await site.served()
        record = await promote_to_production(site.target, site.candidate, mode="native", note="new")
        assert await site.served() != before
        assert (record.outcome, record.mode, record.why) == ("promoted", "native", "new")
        async with client_of(site.target) as client:
            assert (await client.get(str(record.serving))).ready
        back = await roll_back(site.target, note="not good")
        assert (back.kind, back.outcome) == ("roll_back", "promoted")
        async with client_of(site.target) as client:
            assert (await client.get(str(back.serving))).ready
        assert await site.served() == before
        await eventually(lambda: has_served(site.target, record.serving, back.serving), 60, every=0.2)


@contextmanager
def dying_at(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every run dies after an effect, before the record at this phase is saved."""
    save = _journal.save

    async def die(record: RolloutRecord) -> RolloutRecord:
        if record.phase is phase:
            raise KeyboardInterrupt("killed before the record was saved")
        return await save(record)

    with monkeypatch.context() as patch:
        patch.setattr(_journal, "save", die)
        yield


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_a_roll_back_that_died_after_its_effect_goes_back_by_one_and_no_more(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(provider, tmp_path) as site:
        await promote_to_production(site.target, site.newer[0], mode="native")
        before = await site.served()
        await promote_to_production(site.target, site.newer[1], mode="native")
        assert await site.served() != before
        with dying_at(Phase.PROMOTED, monkeypatch), pytest.raises(KeyboardInterrupt):
            await roll_back(site.target)
        assert await site.served() == before
        await roll_back(site.target)
        assert await site.served() == before


@pytest.mark.timeout(300)
async def test_a_roll_back_to_a_named_version_that_died_goes_on_to_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes it up does not ask the provider what served before, which is something else."""
    async with hosted("scale", tmp_path) as site:
        good = await promote_to_production(site.target, site.newer[0], mode="native")
        before = await site.served()
        bad = await promote_to_production(site.target, site.newer[1], mode="native")
        for again in (partial(reconcile_rollouts, [site.target]), partial(roll_back, site.target)):
            with dying_at(Phase.FULL, monkeypatch), pytest.raises(KeyboardInterrupt):
                await roll_back(site.target, to=good.canary)
            assert await site.served() != before
            await again()
            back = await _journal.latest(site.target.endpoint)
            assert back is not None
            assert (back.kind, back.outcome, back.canary) == ("roll_back", "promoted", good.canary)
            assert await site.served() == before
            await promote_to_production(site.target, bad.canary, mode="native")


async def test_a_roll_back_to_a_named_version_turns_back_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted("scale", tmp_path) as site:
        good = await promote_to_production(site.target, site.newer[0], mode="native")
        before = await site.served()
        with dying_at(Phase.READY, monkeypatch), pytest.raises(KeyboardInterrupt):
            await promote_to_production(site.target, site.newer[1], mode="native")
        turned = await roll_back(site.target, to=good.canary, note="not this one")
        assert (turned.kind, turned.outcome, turned.decided_by) == ("promotion", "rolled_back", "person")
        assert "not this one" in turned.reason
        assert turned.told is not None
        assert turned.told.why == "not this one"
        assert await site.served() == before


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_a_promotion_that_died_after_its_effect_can_be_rolled_back(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(provider, tmp_path) as site:
        before = await site.served()
        with dying_at(Phase.PROMOTED, monkeypatch), pytest.raises(KeyboardInterrupt):
            await promote_to_production(site.target, site.candidate, mode="native")
        assert await site.served() != before
        await roll_back(site.target)
        assert await site.served() == before


async def test_a_promotion_that_died_before_its_effect_is_turned_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted("scale", tmp_path) as site:
        before = await site.served()
        with dying_at(Phase.READY, monkeypatch), pytest.raises(KeyboardInterrupt):
            await promote_to_production(site.target, site.candidate, mode="native")
        back = await roll_back(site.target)
        assert (back.kind, back.outcome) == ("promotion", "rolled_back")
        assert await site.served() == before


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_somebody_else_has_promoted_meanwhile_is_not_taken_back(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours may have been asked for, as far as the record can tell, and was not."""
    async with hosted("baseten", tmp_path) as site:
        candidate = await up(site)
        with dying_at(Phase.BAKED, monkeypatch), pytest.raises(KeyboardInterrupt):
            await promote_to_production(site.target, candidate, mode="native")
        hotfix = await up(site, site.newer[1])
        async with client_of(site.target) as client:
            await client.promote(hotfix, environment="production")
            if not is_there:
                await client.delete(candidate)
        after = await site.served()
        assert hotfix in str(after)
        back = await roll_back(site.target)
        assert (back.kind, back.outcome) == ("promotion", "rolled_back")
        assert await site.served() == after


async def test_while_somebody_elses_promotion_is_under_way_ours_is_refused_and_theirs_goes_on(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=20) as site, client_of(site.target) as client:
        ours, hotfix = await up(site), await up(site, site.newer[1])
        theirs = asyncio.create_task(client.promote(hotfix, environment="production"))
        path = PROMOTED_BY["baseten"][1]
        await eventually(lambda: site.control.requests(method="POST", path=path))
        record = await promote_to_production(site.target, ours, mode="native")
        assert (record.outcome, record.decided_by) == ("rolled_back", "error"), record.reason
        assert not theirs.done(), "else nothing was tried here"
        await theirs
        assert hotfix in str(await site.served())


@pytest.mark.parametrize("kind", ["delay", "lost_answer"])
@pytest.mark.parametrize("provider", sorted(PROMOTED_BY))
async def test_a_promotion_cancelled_while_the_vendor_is_at_it_tells_the_truth(
    provider: str, kind: str, tmp_path: Path
) -> None:
    """The effect comes after the cancellation; or before it, and no answer comes."""
    async with hosted(provider, tmp_path) as site:
        candidate, before = await up(site), await site.served()
        method, path = PROMOTED_BY[provider]
        await site.control.forget_requests()
        await site.control.fault(method=method, path=path, kind=kind, seconds=1.0)
        running = asyncio.create_task(promote_to_production(site.target, candidate, mode="native"))
        await eventually(lambda: site.control.requests(method=method, path=path))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        [first, *_] = await eventually(lambda: answered(site, method, path))
        assert first.fault is not None
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        assert record.phase is Phase.ENDED
        assert record.outcome == ("rolled_back" if await site.served() == before else "promoted"), record.reason
        assert record.outcome == "promoted" or site.target.credentials.client_class.rolls_back == "to"
        if record.outcome == "promoted":
            await roll_back(site.target)
            assert await site.served() == before


async def test_an_abort_calls_off_what_the_vendor_is_at(tmp_path: Path) -> None:
    """Baseten can; elsewhere the answer is waited for."""
    async with hosted("baseten", tmp_path) as site:
        candidate, before = await up(site), await site.served()
        method, path = PROMOTED_BY["baseten"]
        await site.control.forget_requests()
        await site.control.fault(method=method, path=path, kind="delay", seconds=5.0)
        running = asyncio.create_task(promote_to_production(site.target, candidate, mode="native"))
        await eventually(lambda: site.control.requests(method=method, path=path))
        await orders.order(site.target.endpoint, "abort", "not now")
        record = await asyncio.wait_for(running, 60)
        assert (record.outcome, record.decided_by) == ("rolled_back", "event"), record.reason
        assert await site.served() == before


async def test_what_the_vendor_serves_from_is_kept_and_ends_no_rollout(tmp_path: Path) -> None:
    """Scale's own model server sends its requests to a bundle that our gateway has left behind."""
    async with hosted("scale", tmp_path) as site:
        [former] = await site.production()
        await retire(site.target, former.id, "delete")
        assert [one.id for one in await site.production()] == [former.id]


async def test_what_a_provider_cannot_delete_is_let_go_of_as_far_as_it_can(tmp_path: Path) -> None:
    async with hosted("foundry", tmp_path) as site:
        [former] = await site.production()
        await retire(site.target, former.id, "delete")
        [still] = await site.production()
        assert (still.id, still.autoscaling and still.autoscaling.min_replicas) == (former.id, 0)


async def test_what_must_not_be_deleted_is_stopped_and_what_is_gone_is_let_go_of(tmp_path: Path) -> None:
    """Nobody but us takes back a deletion that was refused before it was asked for: the GPU would run on."""
    async with hosted("fiddler", tmp_path) as site:
        [seeded] = await site.production()
        await retire(site.target, seeded.id, "delete")
        [still] = await site.production()
        assert (still.id, still.status) == (seeded.id, DeploymentStatus.STOPPED)
        for how in ("delete", "scale_to_zero"):
            await retire(site.target, "00000000-0000-4000-8000-000000000000", how)


@pytest.mark.parametrize("provider", sorted(PROMOTED_BY))
async def test_a_promotion_that_the_vendor_refuses_is_rolled_back_and_changes_nothing(
    provider: str, tmp_path: Path
) -> None:
    async with hosted(provider, tmp_path) as site:
        candidate, before = await up(site), await site.served()
        method, path = PROMOTED_BY[provider]
        await site.control.fault(method=method, path=path, kind="status", status=403, times=None)
        record = await promote_to_production(site.target, candidate, mode="native")
        assert (record.outcome, record.decided_by, "403" in record.reason) == ("rolled_back", "error", True)
        assert await site.served() == before


async def answered(site: Hosted, method: str, path: str) -> list[Request]:
    """The requests, once the vendor is done with the first."""
    found = await site.control.requests(method=method, path=path)
    return found if found and found[0].seconds is not None else []


@pytest.mark.parametrize("provider", sorted(set(MAKERS) - {"baseten"}))  # which has one of its own
async def test_without_a_router_a_swap_is_refused_before_anything_changes(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        async with client_of(site.target) as client:
            before = await client.find(model=site.target.model)
        with pytest.raises(UnsupportedOperation, match="mode='native'"):
            await promote_to_production(site.target, site.candidate)
        with pytest.raises(InvalidInput, match="bake_seconds"):
            await promote_to_production(site.target, site.candidate, mode="native", bake_seconds=60)
        async with client_of(site.target) as client:
            assert len(await client.find(model=site.target.model)) == len(before)


async def test_a_canary_without_proof_is_turned_back_by_calling_the_vendors_promotion_off(tmp_path: Path) -> None:
    """The vendor's metrics come minutes later, so nothing is proven here."""
    async with hosted("baseten", tmp_path, speed=40) as site:
        before = await site.served()
        plan = CanaryPlan(steps=(50,), step_seconds=1, deadline_seconds=10, poll_seconds=0.5)
        record = await canary_rollout(site.target, site.candidate, plan)
        assert (record.outcome, record.decided_by) == ("rolled_back", "deadline"), record.reason
        assert [step.weight for step in record.steps] == [50]
        assert await site.served() == before
        async with client_of(site.target) as client:
            assert record.canary not in {one.id for one in await client.find(model=site.target.model)}


async def test_a_rolling_promotion_goes_to_its_end_and_back_as_any_swap_does(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=200) as site:
        before = await site.served()
        record = await promote_to_production(site.target, site.candidate)
        assert (record.outcome, record.mode) == ("promoted", "swap"), record.reason
        assert {id for id, _ in await site.served()} == {record.canary}
        await roll_back(site.target)
        assert await site.served() == before


@flow
async def rollout(target: DeploymentTarget, candidate: DeploymentSpec, plan: CanaryPlan) -> RolloutRecord:
    """A rollout without steps: its end alone."""
    return await run_rollout(target, candidate, plan, kind="promotion")


HANDS_OVER = CanaryPlan(steps=(), promote="native", smoke_request={"x": 1}, failed_canary="keep")


async def test_a_rollout_ends_in_what_the_provider_promoted_once_that_answers(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path, speed=200) as site:
        record = await rollout(site.target, site.candidate, HANDS_OVER)
        assert (record.outcome, record.serving) == ("promoted", record.canary), record.reason
        handed = {"approved", "full", "baked", "cleared", "handed-over", "promoted", "ended"}
        await eventually(lambda: has_told(site.target, handed), 60, every=0.2)
        assert {id for id, _ in await site.served()} == {record.serving}


async def test_what_does_not_answer_after_the_providers_promotion_leaves_the_traffic_and_is_rolled_back_by_hand(
    tmp_path: Path,
) -> None:
    async with hosted("baseten", tmp_path, speed=200) as site:
        before = await site.served()
        await site.control.behave(callable="math:sqrt")
        with pytest.raises(RolloutError, match="open at CLEARED"):
            await rollout(site.target, site.candidate, HANDS_OVER)
        assert (await site.served()) != before
        back = await roll_back(site.target)
        assert (back.kind, back.outcome) == ("roll_back", "promoted")
        assert await site.served() == before


async def test_steps_that_the_vendor_does_not_have_are_refused_before_anything_changes(tmp_path: Path) -> None:
    async with hosted("baseten", tmp_path) as site:
        with pytest.raises(InvalidInput, match=r"plan\.steps=\[5\.0\].*25\.0, 50\.0, 75\.0"):
            await canary_rollout(site.target, site.candidate)
        async with client_of(site.target) as client:
            assert len(await client.find(model=site.target.model)) == 1


@pytest.mark.parametrize("provider", sorted(MAKERS))
async def test_zero_and_wake_as_far_as_the_provider_can(provider: str, tmp_path: Path) -> None:
    async with hosted(provider, tmp_path) as site:
        await promote_to_production(site.target, site.candidate, mode="native")
        if not site.target.credentials.can(Capability.SCALE_TO_ZERO):
            with pytest.raises(UnsupportedOperation, match="on_no_wake='stop'"):
                await scale_to_zero([site.target], only_if_idle_seconds=None)
        dry = await scale_to_zero([site.target], only_if_idle_seconds=None, on_no_wake="stop", dry_run=True)
        assert all(row.dry_run or row.action == "kept" for row in dry)
        rows = await scale_to_zero([site.target], only_if_idle_seconds=None, on_no_wake="stop")
        assert {row.action for row in rows} & {"scaled_to_zero", "stopped"}, rows
        assert not [row for row in rows if row.action == "failed"]
        await wake_up([site.target], timeout_seconds=30)
        assert [d for d in await site.production() if d.ready]
