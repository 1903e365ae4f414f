"""Faults of an environment that would otherwise show as a puzzling error somewhere else."""

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from prefect_modeldeploy.errors import ModelDeployError

PINNED_BY_PREFECT = Version("3.9")
"""From this version on, Prefect itself asks for a FastAPI that its server works with."""


def check_prefect_server() -> None:
    """Raise ModelDeployError if the Prefect server of this environment cannot start.

    Prefect 3.8 with FastAPI 0.151 to 0.154 answers 422 to every null filter; with 0.155 and later it fails at import.
    """
    try:
        prefect, fastapi = Version(version("prefect")), Version(version("fastapi"))
    except PackageNotFoundError:
        return
    if prefect < PINNED_BY_PREFECT and fastapi >= Version("0.151"):
        raise ModelDeployError(
            f"fastapi={fastapi} breaks the server of prefect={prefect}: install 'fastapi<0.151' in this environment"
        )
