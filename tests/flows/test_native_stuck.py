"""A provider's own promotion of what then never gets ready: whatever waits for it, `roll_back` takes it up."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from prefect_modeldeploy import promote_to_production, roll_back
from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.flows import _native
from prefect_modeldeploy.rollout import Phase
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.tasks import _journal
from tests.conftest import eventually
from tests.flows.hosted import Hosted, hosted, up

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


async def _foundry(site: Hosted, candidate: str) -> None:
    """The deployment never goes over to the version that came to its branch."""
    await site.control.fate(timeline="upgrade", outcome="stuck")


async def _gradient(site: Hosted, candidate: str) -> None:
    """The pods of the stable deployment's new spec never get healthy."""
    [stable] = await site.production()
    await site.control.fate(timeline="rollout", match=stable.id, outcome="stuck")


async def _scale(site: Hosted, candidate: str) -> None:
    """The new backend has answered once, and never again."""
    path = f"*/{candidate.rpartition('/')[2]}/execute"
    await site.control.fault(method="POST", path=path, kind="status", status=500, skip=1, times=None)


async def _baseten(site: Hosted, candidate: str) -> None:
    """The vendor's promotion never ends."""
    await site.control.fate(timeline="promotion", outcome="stuck")


async def _fiddler(site: Hosted, candidate: str) -> None:
    """It is stopped, and never comes up: the role is for what is up, so this one waits before the hand-over."""
    async with client_of(site.target) as client:
        await client.stop(candidate)
    await site.control.fate(timeline="update", outcome="stuck")


HANDED_OVER: dict[str, Callable[[Hosted, str], Awaitable[None]]] = {
    "foundry": _foundry,
    "gradient": _gradient,
    "scale": _scale,
}
"""What the provider is given at once, and is not ready then."""

HELD = {
    "baseten": (_baseten, Phase.BAKED, ("POST", "*/environments/production/promote")),
    "fiddler": (_fiddler, Phase.DEPLOYED, ("PATCH", "/v3/models/*/deployment")),
    "foundry": (_foundry, Phase.CLEARED, ("POST", "*/promoteVersion")),
    "gradient": (_gradient, Phase.CLEARED, ("POST", "/v1/deployments")),
    "scale": (_scale, Phase.CLEARED, ("PUT", "/v4/serving/*/backend")),
}
"""How it is held, where a promotion waits then, and the vendor's request that was answered before."""


@pytest.mark.parametrize("provider", HANDED_OVER)
async def test_a_promotion_that_gave_up_waiting_stays_open_and_is_rolled_back_by_hand(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native, "PLAN", _native.PLAN.model_copy(update={"ready_timeout_seconds": 2.0}))
    async with hosted(provider, tmp_path) as site:
        candidate, before = await up(site), await site.served()
        await HANDED_OVER[provider](site, candidate)
        with pytest.raises(RolloutError, match="open at CLEARED"):
            await promote_to_production(site.target, candidate, mode="native")
        monkeypatch.undo()
        back = await roll_back(site.target, note="it does not come up")
        assert (back.kind, back.outcome) == ("roll_back", "promoted")
        assert await site.served() == before
        assert all(one.ready for one in await site.production())


@pytest.mark.parametrize("provider", HELD)
async def test_a_roll_back_by_hand_waits_for_nothing_that_the_promotion_waits_for(
    provider: str, tmp_path: Path
) -> None:
    async with hosted(provider, tmp_path) as site:
        candidate, before = await up(site), await site.served()
        hold, waits_at, (method, path) = HELD[provider]
        await hold(site, candidate)
        await site.control.forget_requests()
        promoting = asyncio.create_task(promote_to_production(site.target, candidate, mode="native"))

        async def waiting() -> bool:
            record, sent = (
                await _journal.load(site.target.endpoint),
                await site.control.requests(method=method, path=path),
            )
            return record is not None and record.phase is waits_at and any(one.status is not None for one in sent)

        await eventually(waiting)
        assert not promoting.done()
        back = await asyncio.wait_for(roll_back(site.target, note="it does not come up"), 60)
        assert back.outcome == ("promoted" if waits_at is Phase.CLEARED else "rolled_back"), back.reason
        assert await site.served() == before
        assert all(one.ready for one in await site.production())

        promoting.cancel()
        await asyncio.gather(promoting, return_exceptions=True)
        assert await site.served() == before, "who was replaced changes nothing on the way out"
        record = await _journal.load(site.target.endpoint)
        assert record == back
