"""One file, or one small package, per serving system: its block, and its API in our words."""

from prefect_modeldeploy.providers.baseten import BasetenCredentials
from prefect_modeldeploy.providers.docker import DockerServing
from prefect_modeldeploy.providers.fiddler import FiddlerCredentials
from prefect_modeldeploy.providers.foundry import FoundryCredentials
from prefect_modeldeploy.providers.gradient import GradientCredentials
from prefect_modeldeploy.providers.local import LocalServing
from prefect_modeldeploy.providers.scale import ScaleCredentials

Credentials = (
    LocalServing
    | DockerServing
    | BasetenCredentials
    | FiddlerCredentials
    | FoundryCredentials
    | GradientCredentials
    | ScaleCredentials
)
"""Every provider's block: what a Deployment Target can hold."""

__all__ = [
    "BasetenCredentials",
    "Credentials",
    "DockerServing",
    "FiddlerCredentials",
    "FoundryCredentials",
    "GradientCredentials",
    "LocalServing",
    "ScaleCredentials",
]
