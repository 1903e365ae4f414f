"""A rollout that compares the answers of both versions on copies of the clients' requests."""

import pytest

from prefect_modeldeploy import canary_rollout
from prefect_modeldeploy.rollout import ShadowPlan
from tests.flows.conftest import QUICK, Site

pytestmark = pytest.mark.usefixtures("prefect_server")

# Both versions fail for 4 % of the requests, each for others, and a failed copy is no agreement.
PLAN = QUICK.model_copy(update={"shadow": ShadowPlan(share=30, disagreement=0.15)})


@pytest.mark.slow
async def test_a_version_that_answers_something_else_is_rolled_back(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        record = await canary_rollout(site.target, site.spec("2", "differs"), PLAN)
    assert (record.outcome, record.decided_by) == ("rolled_back", "agreement"), record.reason
    quality = record.steps[-1].canary_quality
    assert quality is not None
    assert quality.compared > 5
    assert quality.agreed == 0
    assert (await site.endpoint()).shadow is None
    assert await site.arms() == {"stable": (f"{site.target.model}-1", 100.0)}


@pytest.mark.slow
async def test_a_version_that_answers_the_same_is_promoted(site: Site) -> None:
    async with await site.load() as answers:
        await site.history(answers)
        record = await canary_rollout(site.target, site.spec("2"), PLAN)
    assert record.outcome == "promoted", record.reason
    assert "agreement" in record.steps[-1].safe
    assert (await site.endpoint()).shadow is None
    assert not [failure for failure in answers.failures if failure != "status 500"]
