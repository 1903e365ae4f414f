"""A rollout that waited, or waits, does not lose its time to what happens next."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_modeldeploy import DeploymentSpec, DeploymentTarget, LocalServing
from prefect_modeldeploy.errors import Problem, ProviderUnavailable, RolloutError
from prefect_modeldeploy.flows import _driver
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.rollout import Effect, Phase, RolloutRecord, waited, waiting
from prefect_modeldeploy.tasks import _journal
from tests.rollout.test_machine import record


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


async def test_what_would_not_fit_with_all_that_comes_of_it_does_not_begin() -> None:
    spec = DeploymentSpec(name="m-2", model="m", env={f"NAME_{number}": "x" * 50 for number in range(40)})
    with pytest.raises(RolloutError, match="shorten the note, the spec or the plan"):
        await _journal.save(record(phase=Phase.PLANNED, spec=spec))
