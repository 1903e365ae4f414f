"""Faults of an environment that would otherwise show as a puzzling error somewhere else."""

import warnings
from importlib.metadata import version

from packaging.version import Version
from prefect.settings import get_current_settings

from prefect_modeldeploy.errors import ModelDeployError

MENDED = Version("3.9")
"""From this version on, Prefect asks for a FastAPI that its server works with, and takes SQLAlchemy 2.1."""

TOO_NEW = {"fastapi": ("0.151", "breaks the server"), "sqlalchemy": ("2.1", "ends every schedule on the server")}
"""Versions from which on Prefect 3.8's server has a fault, and what that is."""


def check_prefect_server() -> None:
    """Raise ModelDeployError if Prefect would start a server of its own here, and that cannot work.

    Prefect 3.8 with FastAPI 0.151 to 0.154 answers 422 to every null filter; with 0.155 and later it fails at import.
    With SQLAlchemy 2.1 its scheduler fails ("Can't evaluate bulk DML statement"), so that no schedule has a run.
    A remote server is in somebody else's environment.
    """
    prefect = Version(version("prefect"))
    if get_current_settings().api.url or prefect >= MENDED:
        return
    for name, (first, fault) in TOO_NEW.items():
        if (installed := Version(version(name))) >= Version(first):
            raise ModelDeployError(
                f"{name}={installed} {fault} of prefect={prefect}: install '{name}<{first}' in this environment"
            )


def warn_if_server_cannot_start() -> None:
    """As `check_prefect_server`, but only a warning: importing must not fail."""
    try:
        check_prefect_server()
    except ModelDeployError as error:
        warnings.warn(str(error), stacklevel=2)
