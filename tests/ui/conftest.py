"""A real browser, a real Prefect server with its UI, the served flow, and a node with live models."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy import DeploymentTarget
from tests import prefect_server as prefect_server_process
from tests.flows.conftest import home as home
from tests.flows.conftest import new_site as new_site
from tests.ui.pages import Pages

ROOT = Path(__file__).parents[2]
PICTURES = "MODELDEPLOY_TESTS_SCREENSHOTS"
"""Environment variable with the directory that screenshots are kept in; else pytest's temporary one."""

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-proxy-server")
EMPTY_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="48" height="48"/>'


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("LOUD: no Chromium on the PATH, so nobody looks at the UI: apt install chromium")
    return found


@pytest.fixture(scope="session")
def prefect_server(chromium: str) -> Iterator[str]:
    """A server of our own that knows our blocks, since the one of the other tests has no UI."""
    with prefect_server_process.started_server() as url:
        prefect_server_process.wait_for(url)
        with temporary_settings({PREFECT_API_URL: url}):
            DeploymentTarget.register_type_and_schema()
            yield url


@pytest.fixture(scope="module")
def served(prefect_server: str, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The canary flow as its script serves it; yields the name of the deployment."""
    more = {"PREFECT_API_URL": prefect_server, "MODELDEPLOY_HOME": str(home)}
    serving = subprocess.Popen([sys.executable, str(ROOT / "flows" / "canary.py")], env={**os.environ, **more})
    yield "canary-rollout/canary"
    serving.terminate()
    try:
        serving.wait(10)
    except subprocess.TimeoutExpired:  # a run that a failed test left behind
        serving.kill()
        serving.wait()


@pytest_asyncio.fixture
async def pages(
    chromium: str, prefect_server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Pages]:
    """A window of the browser, at the UI that a user gets who has chosen none."""
    api = pytest.importorskip("playwright.async_api", reason="LOUD: pip install 'prefect-modeldeploy[ui]'")
    pictures = Path(os.environ.get(PICTURES) or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(90_000)
        # Logos of blocks come from Prefect's site; the tests need no network.
        await page.route("https://**", lambda route: route.fulfill(content_type="image/svg+xml", body=EMPTY_PICTURE))
        pages = Pages(page, prefect_server.removesuffix("/api"), pictures)
        try:
            yield pages
        finally:
            await pages.picture(f"end-of-{request.node.name}")
            await browser.close()
