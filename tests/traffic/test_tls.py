"""Arms that are reached over TLS: name, authority and Host are checked and set per arm."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from prefect_modeldeploy.traffic.gateway import DataPlane, Gateway
from tests.traffic.conftest import StartGateway, ask, endpoint, listening, make_certificate, upstream
from tests.traffic.model_server import model


@pytest.fixture(scope="module")
def vendor_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("vendor"), "DNS:vendor.example")


@pytest.fixture(scope="module")
async def vendor(vendor_certificate: Path) -> AsyncIterator[int]:
    """A server that talks TLS only."""
    async with listening(model("vendor"), ssl_certfile=str(vendor_certificate)) as port:
        yield port


async def test_an_arm_over_tls_is_verified_by_name(
    start_gateway: StartGateway, client: httpx.AsyncClient, vendor: int, vendor_certificate: Path
) -> None:
    options = {"tls": True, "ca_file": str(vendor_certificate), "headers": {"Authorization": "Api-Key s3cret"}}
    right = upstream("stable", vendor, host_header="vendor.example", health_path="/health", **options)
    gateway = await start_gateway(DataPlane((endpoint(),), (right,)))
    seen = (await ask(client, gateway)).json()
    assert seen["name"] == "vendor"
    assert seen["headers"]["host"] == "vendor.example"
    assert seen["headers"]["authorization"] == "Api-Key s3cret"

    wrong_name = upstream("stable", vendor, host_header="other.example", **options)
    await gateway.apply(DataPlane((endpoint(),), (wrong_name,)))
    assert (await ask_anew(gateway)).status_code == 503


async def ask_anew(gateway: Gateway) -> httpx.Response:
    """On a connection of its own: one that was open at a reload has its next request answered by the old worker."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return await ask(client, gateway)


async def test_an_unknown_authority_is_refused_unless_verification_is_off(
    start_gateway: StartGateway, vendor: int
) -> None:
    trusting_the_system = upstream("stable", vendor, tls=True, host_header="vendor.example")
    gateway = await start_gateway(DataPlane((endpoint(),), (trusting_the_system,)))
    assert (await ask_anew(gateway)).status_code == 503
    unverified = trusting_the_system.model_copy(update={"tls_verify": False})
    await gateway.apply(DataPlane((endpoint(),), (unverified,)))
    assert (await ask_anew(gateway)).json()["name"] == "vendor"
