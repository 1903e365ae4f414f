"""A run that is suspended until a person answers has no process: whoever stops it is heard all the same."""

from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling, Failed

from prefect_modeldeploy import orders, reconcile_rollouts
from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.rollout import Approval, Phase
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._identity import this_user
from tests.chaos.fault_points import serving
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(300)]


async def suspended(site: Site) -> UUID:
    """A flow run that has been suspended before any traffic moves."""
    await site.target.save(site.target.model, overwrite=True)
    parameters = {
        "target": site.target.model,
        "candidate": site.spec("2").model_dump(mode="json"),
        "plan": QUICK.model_dump(mode="json"),
        "approval": Approval(before=("traffic",)).model_dump(mode="json"),
    }
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("canary-rollout/served")
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        async def is_suspended() -> bool:
            state = (await client.read_flow_run(run.id)).state
            assert state is not None
            assert not state.is_final(), state
            return state.name == "Suspended"

        await eventually(is_suspended, seconds=120)
    return run.id


async def nothing_is_left(site: Site) -> bool:
    record = await _journal.load(site.target.endpoint)
    assert record is not None
    if record.phase is not Phase.ENDED:
        return False
    assert record.outcome == "rolled_back"
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}
    assert f"{site.target.model}-2" not in await site.deployments()
    return True


async def test_once_it_is_answered_it_is_its_own_worker_that_takes_it_up(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        run = await suspended(site)
    await orders.answer(site.target.endpoint, "promote")  # nobody is there to start it again
    assert await reconcile_rollouts([site.target]) == []
    async with get_client() as client:
        state = (await client.read_flow_run(run)).state
        assert state is not None
        assert state.is_scheduled()
        with pytest.raises(RolloutError, match="about to start again"):
            await orders.order(site.target.endpoint, "promote-fully")
        await orders.order(site.target.endpoint, "abort", "it was the wrong version")  # no process would hear an event
        state = (await client.read_flow_run(run)).state
        assert state is not None
        assert state.is_cancelled()
    [record] = await reconcile_rollouts([site.target])
    assert (record.outcome, record.decided_by) == ("rolled_back", "cancellation")
    assert f"aborted by {this_user()}: it was the wrong version" in record.reason
    assert await nothing_is_left(site)


async def test_an_abort_and_a_cancellation_reach_it(site: Site, tmp_path: Path) -> None:
    async with serving(tmp_path):
        await suspended(site)
        with pytest.raises(RolloutError, match="modeldeploy approve"):
            await orders.order(site.target.endpoint, "promote-fully")
        await orders.order(site.target.endpoint, "abort", "it was the wrong version")
        await eventually(lambda: nothing_is_left(site), seconds=120)
        record = await _journal.load(site.target.endpoint)
        assert record is not None
        assert "it was the wrong version" in record.reason

        run = await suspended(site)
        async with get_client() as client:
            await client.set_flow_run_state(run, Cancelling())
        [record] = await reconcile_rollouts([site.target])
        assert (record.outcome, record.decided_by) == ("rolled_back", "cancellation")
        assert await nothing_is_left(site)


async def test_silence_is_the_answer_when_prefect_has_failed_the_run_for_it(site: Site, tmp_path: Path) -> None:
    """Some seconds after the time of a suspended run is over, Prefect's server ends it as failed."""
    async with serving(tmp_path):
        run = await suspended(site)
    async with get_client() as client:
        await client.set_flow_run_state(run, Failed(message="The flow was paused and never resumed."), force=True)
    [record] = await reconcile_rollouts([site.target])
    assert (record.outcome, record.decided_by) == ("rolled_back", "approval"), record.reason
    assert "nobody answered in time" in record.reason
    [answer] = [entry["event"]["answer"] for entry in await site.audit() if "answer" in entry["event"]]
    assert (answer["gate"], answer["decision"], answer["who"]["name"]) == ("traffic", "roll_back", "nobody")
    assert await nothing_is_left(site)
