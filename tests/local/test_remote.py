"""The control API for other machines: over TLS, with the same token, and remembered over restarts."""

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from prefect_modeldeploy import Gateway, LocalServing
from prefect_modeldeploy.errors import AuthenticationFailed, InvalidInput, NodeError, ProviderUnavailable
from prefect_modeldeploy.local.autostart import ensure_node, stop_node
from prefect_modeldeploy.local.home import Home
from prefect_modeldeploy.local.ports import free_port
from prefect_modeldeploy.local.remote import Remote
from prefect_modeldeploy.local.store import Store
from tests.traffic.conftest import make_certificate


@pytest.mark.slow
async def test_others_come_in_over_tls_with_the_token_and_no_other_way(tmp_path: Path) -> None:
    certificate, home, port = make_certificate(tmp_path, "IP:127.0.0.1"), Home(tmp_path / "home"), free_port()
    ca_file, token, url = str(tmp_path / "chain.pem"), home.token(), f"https://127.0.0.1:{port}"
    try:
        info = await ensure_node(home, remote=f"127.0.0.1:{port}", certificate=certificate)
        assert info.remote_url == url
        async with LocalServing(url=url, token=token, ca_file=ca_file).get_client() as serving:
            assert await serving.find() == []
        async with Gateway(url=url, token=token, ca_file=ca_file).get_client() as client:
            assert await client.list_endpoints() == []

        async with Gateway(url=url, token=token).get_client() as client:
            with pytest.raises(ProviderUnavailable, match="certificate"):
                await client.status()
        async with Gateway(url=url, token=SecretStr("wrong"), ca_file=ca_file).get_client() as client:
            with pytest.raises(AuthenticationFailed):
                await client.status()
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"), trust_env=False)

        await stop_node(home)
        assert (await ensure_node(home)).remote_url == url, "the next one is there again"
        await stop_node(home)
        assert (await ensure_node(home, remote="none")).remote_url is None
    finally:
        await stop_node(home)


@pytest.mark.parametrize(
    ("remote", "certificate", "message"),
    [
        ("127.0.0.1:1", None, "in clear; give a --certificate"),
        ("127.0.0.1:1", "chain.pem", "cannot be read as PEM with certificate and private key"),
        ("127.0.0.1", "both.pem", "such as 10.0.0.5:8443"),
        ("127.0.0.1:http", "both.pem", "such as 10.0.0.5:8443"),
        ("192.0.2.1:8443", "both.pem", "cannot listen there"),
    ],
)
def test_what_cannot_be_is_refused_and_not_remembered(
    tmp_path: Path, remote: str, certificate: str | None, message: str
) -> None:
    make_certificate(tmp_path, "IP:127.0.0.1")
    store = Store(tmp_path / "node.sqlite")

    def listen() -> None:
        found = Remote.of(store, remote, str(tmp_path / certificate) if certificate else None)
        assert found is not None
        found.listen(store)

    with pytest.raises(NodeError, match=message):
        listen()
    assert Remote.of(store, None, None) is None
    store.close()


async def test_authorities_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    block = LocalServing(url="https://127.0.0.1:1", token=SecretStr("t"), ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(InvalidInput, match="ca_file"):
        async with block.get_client():
            raise AssertionError("it opened")
