"""Calls that are made together: in order, few at a time, and their error is that of one call."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from prefect_modeldeploy.errors import Problem, ProviderUnavailable
from prefect_modeldeploy.providers.together import all_of
from prefect_modeldeploy.target import client_of
from tests.flows.hosted import hosted


async def test_results_come_in_the_order_of_the_calls_and_few_calls_are_made_at_a_time() -> None:
    under_way, most = 0, 0

    async def call(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01 * (5 - number))
        under_way -= 1
        return number

    assert await all_of([partial(call, number) for number in range(5)], at_once=2) == list(range(5))
    assert most == 2


async def test_the_first_error_ends_the_other_calls_and_is_raised_as_it_is() -> None:
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def away() -> None:
        raise ProviderUnavailable("toy", "GET /", Problem("no answer"))

    with pytest.raises(ProviderUnavailable):
        await all_of([long, away])
    assert ended.is_set()


@pytest.mark.usefixtures("without_waits")
@pytest.mark.parametrize(
    ("provider", "path"), [("baseten", "/v1/models/*/deployments"), ("fiddler", "/v3/models/*/deployment")]
)
async def test_a_provider_that_goes_away_during_a_find_is_said_to_be_away(
    provider: str, path: str, tmp_path: Path
) -> None:
    async with hosted(provider, tmp_path) as site, client_of(site.target) as client:
        assert await client.find(model=site.target.model)
        await site.control.fault(provider=provider, method="GET", path=path, kind="status", times=None)
        with pytest.raises(ProviderUnavailable):
            await client.find(model=site.target.model)
