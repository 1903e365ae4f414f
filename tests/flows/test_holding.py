"""A rollout that waited, or waits, does not lose its time to what happens next."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from prefect.variables import Variable

from prefect_modeldeploy import DeploymentSpec, DeploymentTarget, LocalServing
from prefect_modeldeploy.errors import Problem, ProviderUnavailable, RolloutError, StaleEpoch
from prefect_modeldeploy.flows import _driver, _ownership
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._signals import Signals
from prefect_modeldeploy.local.autostart import stop_node
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord, waited, waiting
from prefect_modeldeploy.tasks import _journal
from tests.rollout.test_machine import record

pytestmark = pytest.mark.usefixtures("prefect_server")


class Away(Effects):
    """A provider that is away at the first call, while something happens elsewhere."""

    def __init__(self, home: Path, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(DeploymentTarget(credentials=LocalServing(home=home), model="m", endpoint="e"))
        self._meanwhile, self.calls = meanwhile, 0

    async def let_through(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        return record

    async def __call__(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        self.calls += 1
        if self.calls == 1:
            await self._meanwhile()
            raise ProviderUnavailable("acme", "DELETE /", Problem("no"))
        return record


class Thawed(Effects):
    """A target that was frozen since a weekend, up to now; then its provider is away for a moment."""

    def __init__(self, target: DeploymentTarget) -> None:
        super().__init__(target)
        self._answers: Iterator[Exception | None] = iter([ProviderUnavailable("acme", "POST /", Problem("no")), None])

    async def let_through(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        return waited(record, datetime.now(UTC))

    async def __call__(self, effect: Effect, record: RolloutRecord) -> RolloutRecord:
        if error := next(self._answers):
            raise error
        return record


async def test_a_provider_that_is_away_after_a_weekend_of_waiting_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_driver, "_AGAIN_SECONDS", 0.1)
    began = datetime.now(UTC) - timedelta(days=2)
    frozen = waiting(record(phase=Phase.ATTACHED, started_at=began), began)
    effects = Thawed(DeploymentTarget(credentials=LocalServing(home=tmp_path), model="m", endpoint="e"))
    after = await _driver._holding(Effect.SHIFT, frozen, effects)
    assert after.held_since is None
    assert after.held_seconds == pytest.approx(2 * 86400, abs=60)


async def test_an_effect_that_goes_well_for_long_is_waited_for_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_driver, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(_driver, "_ANSWERED_SECONDS", 0.5)
    monkeypatch.setattr(_driver, "PATIENCE_SECONDS", 1.0)
    observed = record(phase=Phase.SHIFTED, endpoint="long", started_at=datetime.now(UTC))
    effects = Away(tmp_path, partial(asyncio.sleep, 1.5))
    assert await _driver._holding(Effect.OBSERVE, observed, effects) == observed
    assert effects.calls == 2


async def test_a_record_that_cannot_be_read_holds_up_what_goes_forward_and_no_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell whose it is: forward nothing is done; backward the gateway refuses who is not the owner."""
    await Variable.aset(_journal.variable_name("unread"), "damaged", overwrite=True)
    shifted = record(phase=Phase.SHIFTED, endpoint="unread", started_at=datetime.now(UTC))
    effects = Away(tmp_path, asyncio.Event().wait)
    with pytest.raises(RolloutError, match=r"holds no record .* stays open at SHIFTED"):
        await _driver._save(shifted, effects, "shift")
    back = shifted.model_copy(update={"phase": Phase.ROLLING_BACK})
    try:
        assert await _driver._save(back, effects, "start") == back
    finally:
        await stop_node(tmp_path)  # which keeps the audit


async def test_who_was_replaced_while_the_provider_was_away_does_not_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roll-back may want the former version again: nobody else lets go of it then."""
    monkeypatch.setattr(_driver, "_AGAIN_SECONDS", 0.1)
    retiring = await _journal.save(_ownership.taken(record(phase=Phase.PROMOTED, endpoint="away", epoch=3)))
    newer = _ownership.taken(retiring.model_copy(update={"epoch": 4}))
    effects = Away(tmp_path, lambda: _journal.save(newer))
    with pytest.raises(StaleEpoch):
        await _driver._holding(Effect.RETIRE_FORMER, retiring, effects)
    assert effects.calls == 1


async def test_who_cannot_know_whether_the_rollout_is_still_its_own_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no gateway refuses what a replaced driver does, its way back could undo another's promotion."""

    async def away(record: RolloutRecord) -> None:
        raise httpx.ConnectError("no route to Prefect's server")

    monkeypatch.setattr(_ownership, "check", away)
    monkeypatch.setattr(_driver, "PATIENCE_SECONDS", 0.1)
    for phase, effect in ((Phase.BAKED, Effect.PROMOTE), (Phase.ROLLING_BACK, Effect.RESTORE)):
        native = record(phase=phase, mode="native", started_at=datetime.now(UTC))
        effects = Away(tmp_path, asyncio.Event().wait)
        with pytest.raises(RolloutError, match=rf"does not answer.* the record stays open at {phase}"):
            await _driver._step(native, effect, effects, Signals(effects.target, native))
        assert effects.calls == 0


async def test_what_would_not_fit_with_all_that_comes_of_it_does_not_begin() -> None:
    spec = DeploymentSpec(name="m-2", model="m", env={f"NAME_{number}": "x" * 50 for number in range(40)})
    with pytest.raises(RolloutError, match="shorten the note, the spec or the plan"):
        await _journal.save(record(phase=Phase.PLANNED, spec=spec))


async def test_evidence_that_makes_a_record_too_long_keeps_no_way_back_from_being_saved() -> None:
    judged = record(phase=Phase.JUDGED, endpoint="wordy", judge_state={"evidence": "y" * 6000})
    with pytest.raises(RolloutError, match="characters of 5000"):
        await _journal.put(judged)
    for phase in (Phase.ROLLING_BACK, Phase.RETIRED, Phase.ENDED):
        await _journal.put(judged.model_copy(update={"phase": phase, "outcome": "rolled_back"}))
        saved = await _journal.load("wordy")
        assert saved is not None
        assert (saved.phase, saved.judge_state) == (phase, None)
