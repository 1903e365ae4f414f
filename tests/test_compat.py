"""What is said about an environment whose Prefect server cannot start."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy import compat
from prefect_modeldeploy.errors import ModelDeployError


def installed(monkeypatch: pytest.MonkeyPatch, prefect: str, fastapi: str) -> None:
    monkeypatch.setattr(compat, "version", {"prefect": prefect, "fastapi": fastapi}.__getitem__)


@pytest.mark.parametrize(("prefect", "fastapi"), [("3.8.8", "0.151.0"), ("3.8.4", "0.165.1")])
def test_a_broken_pair_of_versions_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, prefect: str, fastapi: str
) -> None:
    installed(monkeypatch, prefect, fastapi)
    with temporary_settings({PREFECT_API_URL: None}):
        with pytest.raises(ModelDeployError, match=r"install 'fastapi<0\.151'"):
            compat.check_prefect_server()
        with pytest.warns(UserWarning, match=f"fastapi={fastapi} breaks the server of prefect={prefect}"):
            compat.warn_if_server_cannot_start()


@pytest.mark.parametrize(("prefect", "fastapi"), [("3.8.8", "0.150.0"), ("3.9.1", "0.165.1")])
def test_a_good_pair_is_not_mentioned(monkeypatch: pytest.MonkeyPatch, prefect: str, fastapi: str) -> None:
    installed(monkeypatch, prefect, fastapi)
    with temporary_settings({PREFECT_API_URL: None}):
        assert compat.check_prefect_server() is None


def test_a_remote_server_has_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "3.8.8", "0.165.1")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        assert compat.check_prefect_server() is None
