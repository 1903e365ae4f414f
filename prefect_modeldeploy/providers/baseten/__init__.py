"""Baseten: environments, rolling promotions, scale to zero, predictions. The words are in `words.py`, at its top."""

from prefect_modeldeploy.providers.baseten.client import BasetenClient
from prefect_modeldeploy.providers.baseten.credentials import BasetenCredentials
from prefect_modeldeploy.providers.baseten.requests import (
    AutoscalingSettings,
    EnvironmentChanges,
    LogQuery,
    MetricQuery,
    PromoteOptions,
    PromotionSettings,
    RollingDeployConfig,
)

__all__ = [
    "AutoscalingSettings",
    "BasetenClient",
    "BasetenCredentials",
    "EnvironmentChanges",
    "LogQuery",
    "MetricQuery",
    "PromoteOptions",
    "PromotionSettings",
    "RollingDeployConfig",
]
