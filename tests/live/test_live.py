"""Against real accounts: `pytest -n 0 -m live tests/live`, with the variables of accounts.py."""

import os

import pytest

from prefect_modeldeploy.deployments import Autoscaling, Capability, Deployment, DeploymentStatus
from tests.live.accounts import ACCOUNTS, Live, live

pytestmark = [pytest.mark.live, pytest.mark.parametrize("provider", sorted(ACCOUNTS))]


async def test_a_deployment_is_read_and_is_among_its_models(provider: str) -> None:
    async with live(provider) as there:
        seen = await there.client.get(there.deployment)
        assert (seen.id, seen.provider) == (there.deployment, provider)
        assert seen.status is not DeploymentStatus.UNKNOWN, f"an unknown word: {seen.provider_status}"
        listed = await there.client.find(model=seen.model_id)
        assert [one.id for one in listed].count(seen.id) == 1


async def test_it_answers(provider: str) -> None:
    async with live(provider) as there:
        assert there.client.can(Capability.PREDICT)
        assert await there.client.predict(there.deployment, there.payload) is not None


async def test_it_is_scaled_by_one_and_back(provider: str) -> None:
    async with live(provider) as there:
        if os.environ.get("MODELDEPLOY_LIVE_CHANGE") != "1":
            pytest.skip(f"NOT CHANGED: {there.deployment}; MODELDEPLOY_LIVE_CHANGE=1 allows to scale it, and back")
        before = _scaled(await there.client.get(there.deployment), there)
        try:
            await there.client.scale(there.deployment, Autoscaling(**{there.scaled: before + 1}))
            assert _scaled(await there.client.get(there.deployment), there) == before + 1
        finally:
            await there.client.scale(there.deployment, Autoscaling(**{there.scaled: before}))
        assert _scaled(await there.client.get(there.deployment), there) == before


def _scaled(deployment: Deployment, there: Live) -> int:
    assert deployment.autoscaling is not None, "the provider does not tell how it scales"
    value = getattr(deployment.autoscaling, there.scaled)
    assert isinstance(value, int), f"the provider does not tell its {there.scaled}"
    return value
