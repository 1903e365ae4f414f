"""Orders to a rollout whose run has no process yet that could hear an event."""

from datetime import UTC, datetime

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Pending, Scheduled

from prefect_modeldeploy import CanaryPlan, RolloutRecord, orders
from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.rollout import Actor, Driver, Phase
from prefect_modeldeploy.tasks import _journal

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow
def rollout() -> None:
    """What a worker is to start."""


@pytest.mark.parametrize("waits", [Scheduled(), Pending()], ids=["scheduled", "pending"])
async def test_an_abort_of_a_run_that_is_about_to_start_cancels_it(waits: State) -> None:
    endpoint = f"ordered-{waits.type.value.lower()}"
    async with get_client() as client:
        run = await client.create_flow_run(rollout, state=waits)
        record = RolloutRecord(
            id=str(run.id),
            provider="local",
            model="fraud",
            endpoint=endpoint,
            stable="fraud-1",
            canary="fraud-2",
            who=Actor(name="ada"),
            plan=CanaryPlan(),
            started_at=datetime.now(UTC),
            phase=Phase.READY,
            driver=Driver(token="t", flow_run=str(run.id), name="r", host="h", pid=1),
        )
        await _journal.save(record)
        with pytest.raises(RolloutError, match="about to start again"):
            await orders.order(endpoint, "skip")
        await orders.order(endpoint, "abort", "wrong version")
        state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert state.is_cancelled() or state.is_cancelling(), state
