"""Paperspace Gradient Deployments: the block, the client, and what it answers.

`states.py` has the normative table of the vendor's signs, `config.py` how our words become its spec, `spec.py` what a
spec may hold, `operations.py` the SDK's five operations, `rest.py` and `graph.py` the two APIs.
"""

from prefect_modeldeploy.providers.gradient.answers import Activity, Instance, LogRow, Run, Sample, SpecVersion
from prefect_modeldeploy.providers.gradient.block import GradientCredentials
from prefect_modeldeploy.providers.gradient.client import GradientClient, GradientGraphClient
from prefect_modeldeploy.providers.gradient.operations import Changed, DeploymentNode

__all__ = [
    "Activity",
    "Changed",
    "DeploymentNode",
    "GradientClient",
    "GradientCredentials",
    "GradientGraphClient",
    "Instance",
    "LogRow",
    "Run",
    "Sample",
    "SpecVersion",
]
