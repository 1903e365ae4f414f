"""Faults of an environment that would otherwise show as a puzzling error somewhere else."""

import warnings
from importlib.metadata import version

from packaging.version import Version
from prefect.settings import get_current_settings

from prefect_modeldeploy.errors import ModelDeployError

PINNED_BY_PREFECT = Version("3.9")
"""From this version on, Prefect itself asks for a FastAPI that its server works with."""


def check_prefect_server() -> None:
    """Raise ModelDeployError if Prefect would start a server of its own here, and that cannot work.

    Prefect 3.8 with FastAPI 0.151 to 0.154 answers 422 to every null filter; with 0.155 and later it fails at import.
    A remote server is in somebody else's environment.
    """
    if get_current_settings().api.url:
        return
    prefect, fastapi = Version(version("prefect")), Version(version("fastapi"))
    if prefect < PINNED_BY_PREFECT and fastapi >= Version("0.151"):
        raise ModelDeployError(
            f"fastapi={fastapi} breaks the server of prefect={prefect}: install 'fastapi<0.151' in this environment"
        )


def warn_if_server_cannot_start() -> None:
    """As `check_prefect_server`, but only a warning: importing must not fail."""
    try:
        check_prefect_server()
    except ModelDeployError as error:
        warnings.warn(str(error), stacklevel=2)
