"""A worker on another machine drives the gateway of this one, over TLS with a token; nothing else reaches it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy import DeploymentTarget, Gateway, LocalServing
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.home import Home, NodeInfo
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.target import client_of
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from tests.flows.conftest import QUICK, Site
from tests.prefect_server import started_server, wait_for
from tests.remote.namespace import Namespace, network_namespace
from tests.requests_log import RequestsLog
from tests.traffic.conftest import make_certificate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Namespace]:
    with network_namespace() as space:
        yield space


@dataclass
class Node:
    """A node that takes calls from elsewhere."""

    info: NodeInfo
    token: str
    ca_file: Path

    def reached_from_elsewhere(self) -> DeploymentTarget:
        reach = {"url": self.info.remote_url, "token": self.token, "ca_file": str(self.ca_file)}
        credentials, gateway = LocalServing.model_validate(reach), Gateway.model_validate(reach)
        return DeploymentTarget(credentials=credentials, gateway=gateway, model="far", endpoint="far", sample=[1.0])


@pytest_asyncio.fixture(scope="module")
async def node(elsewhere: Namespace, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    directory = tmp_path_factory.mktemp("remote")
    certificate, home = make_certificate(directory, f"IP:{elsewhere.here}"), Home(directory / "home")
    info = await ensure_node(home, remote=f"{elsewhere.here}:{free_port()}", certificate=certificate)
    yield Node(info, home.token().get_secret_value(), directory / "chain.pem")
    await stop_node(home)


@pytest_asyncio.fixture(scope="module")
async def site(node: Node, api: str) -> Site:
    """Version 1 in production."""
    site = Site(node.reached_from_elsewhere())
    async with client_of(site.target) as client:
        first = await client.create(site.spec("1", "good"))
        async for _ in client.wait([first.id], lambda deployment: deployment.ready):
            pass
        stable = EndpointArm(name="stable", upstream=first.id, weight=100)
        await client.router().put_endpoint(Endpoint(name="far", arms=(stable,)))
    await site.target.save("far", overwrite=True)
    return site


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "access.log"


@pytest.fixture(scope="module")
def api(elsewhere: Namespace, log: Path) -> Iterator[str]:
    """A Prefect server that both machines reach."""
    with started_server("--no-ui", host=elsewhere.here, access_log=log) as url:
        wait_for(url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


@pytest.fixture(scope="module")
def worker(elsewhere: Namespace, api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process worker there, with homes of its own, and the deployment that it runs."""
    home = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(home), "MODELDEPLOY_HOME": str(home)}

    def prefect(*arguments: str) -> None:
        done = subprocess.run([*PREFECT, *arguments], env=environment, cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    prefect("work-pool", "create", "modeldeploy", "--type", "process")
    prefect("--no-prompt", "deploy", "--prefect-file", str(ROOT / "flows" / "prefect.yaml"), "-n", "canary-rollout")
    start = elsewhere.command(*PREFECT, "worker", "start", "--pool", "modeldeploy")
    running = subprocess.Popen(start, env=environment, cwd=home)
    yield
    running.terminate()
    running.wait(90)


def test_from_there_only_tls_reaches_the_node(elsewhere: Namespace, node: Node) -> None:
    local = node.info.control_url.rpartition(":")[2]
    assert not _connects(elsewhere, "127.0.0.1", local)
    assert not _connects(elsewhere, elsewhere.here, local)
    assert not _connects(elsewhere, elsewhere.here, node.info.gateway_url.rpartition(":")[2])
    assert node.info.remote_url is not None
    assert _connects(elsewhere, elsewhere.here, node.info.remote_url.rpartition(":")[2])
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(node.info.remote_url.replace("https", "http"), trust_env=False)
    with pytest.raises(ValueError, match="plain http would send secrets in clear"):
        Gateway(url=node.info.remote_url.replace("https", "http"), token=node.token)  # type: ignore[arg-type]


def _connects(space: Namespace, host: str, port: str) -> bool:
    program = f"import socket; socket.create_connection(({host!r}, {port}), timeout=5)"
    return subprocess.run(space.command(sys.executable, "-c", program), capture_output=True).returncode == 0


@pytest.mark.usefixtures("worker")
async def test_a_worker_elsewhere_rolls_out_and_no_request_is_lost(
    site: Site, elsewhere: Namespace, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = RequestsLog(log, elsewhere.there)
    candidate = json.loads(site.spec("2", "good").model_dump_json())
    parameters = {"target": "far", "candidate": candidate, "plan": QUICK.model_dump(mode="json"), "note": "from afar"}
    async with await site.load() as answers:
        await site.history(answers)
        run = await run_deployment("canary-rollout/canary-rollout", parameters=parameters, timeout=240, poll_interval=1)
    assert run.state is not None
    assert run.state.name == "Promoted", run.state
    assert [failure for failure in answers.failures if failure != "status 500"] == []  # the models' own
    assert answers.by_arm["canary"] > 0
    assert await site.arms() == {"stable": ("far-2", 100.0)}

    counted = await requests.take_when_quiet()
    assert counted["POST /work_pools/{name}/get_scheduled_flow_runs"] > 0, "the run was not made there"
    assert counted["GET /variables/name/{name}"] > 0
    with capsys.disabled():
        print(f"\nthe worker elsewhere: {counted.total()} requests; {answers.count} of the clients, none lost")
        for route, count in counted.most_common():
            print(f"    {count:5d}  {route}")
