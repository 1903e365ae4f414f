"""Who may call a gateway that others can reach."""

import ssl
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.traffic.admin import AdminSocket
from prefect_modeldeploy.traffic.gateway import Gateway
from tests.traffic.conftest import Models, StartGateway, make_certificate

KEY = "k3y-for-the-clients-0123456789"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "IP:127.0.0.1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
@pytest.mark.parametrize("given", [{}, {"client_key": SecretStr(KEY)}, {"certificate": Path("cert.pem")}])
def test_an_open_address_needs_a_certificate_and_a_key(tmp_path: Path, host: str, given: dict[str, object]) -> None:
    with pytest.raises(GatewayError, match="certificate and a client_key"):
        Gateway(tmp_path / "gateway", host=host, port=free_port(), **given)  # type: ignore[arg-type]
    assert not (tmp_path / "gateway").exists()


@pytest.mark.parametrize("key", ["short", "has a space in its middle", "line\nbreak-0123456789", "ümlaut-0123456789-0"])
def test_a_malformed_key_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(GatewayError) as caught:
        Gateway(tmp_path, port=1, client_key=SecretStr(key))
    assert key not in str(caught.value)


async def test_only_the_key_opens_and_no_arm_sees_it(
    start_gateway: StartGateway, models: Models, certificate: Path
) -> None:
    gateway = await start_gateway(models.split(0), host="0.0.0.0", certificate=certificate, client_key=SecretStr(KEY))
    url = f"https://127.0.0.1:{gateway.url.rpartition(':')[2]}"
    trust = ssl.create_default_context(cafile=certificate)
    async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
        wrong = [
            {},
            {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": f"Basic {KEY}"},
        ]
        for headers in (*wrong, {"Authorization": f"Bearer {KEY[:-1]}"}):
            for path in ("/prod/x", "/-/stable/x", "/unknown"):
                refused = await client.get(url + path, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
        answer = await client.get(url + "/prod/x", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200
        assert KEY not in answer.text
        assert (await client.get(url + "/-/health")).status_code == 200
    await gateway.apply(models.split(50))
    for file in gateway.directory.iterdir():
        if file.is_file():
            assert KEY not in file.read_text()
            assert file.stat().st_mode & 0o077 == 0 or file.suffix == ".log", file
    workers = await AdminSocket(gateway.directory).workers()
    assert workers
    for pid in (workers.master, *workers.all):
        assert KEY not in " ".join([*psutil.Process(pid).cmdline(), *psutil.Process(pid).environ().values()])
