"""A deployment is waited for as long as it takes, whatever becomes of the progress that is shown meanwhile."""

import logging

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy.tasks.waiting import await_until_ready
from tests.flows.conftest import Site


async def test_it_is_waited_for_while_prefects_server_is_away(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("prefect").addHandler(caplog.handler)
    try:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            [ready] = await await_until_ready.fn(site.target, f"{site.target.model}-1")
    finally:
        logging.getLogger("prefect").removeHandler(caplog.handler)
    assert ready.ready
    assert "its progress cannot be shown" in caplog.text
