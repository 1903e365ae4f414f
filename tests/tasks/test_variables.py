"""Variables of ours: written with one request, whoever else writes them."""

import asyncio
from uuid import uuid4

import pytest
from prefect.variables import Variable

from prefect_modeldeploy.tasks import _variables

pytestmark = pytest.mark.usefixtures("prefect_server")


async def test_a_variable_is_made_and_then_replaced() -> None:
    name = f"made_{uuid4().hex}"
    for value in ({"beat": 1}, {"beat": 2}):
        await _variables.put(name, value)
        assert await Variable.aget(name) == value


async def test_writers_that_make_the_same_variable_at_once_all_come_through() -> None:
    name = f"raced_{uuid4().hex}"
    await asyncio.gather(*(_variables.put(name, number) for number in range(8)))
    assert await Variable.aget(name) in range(8)
