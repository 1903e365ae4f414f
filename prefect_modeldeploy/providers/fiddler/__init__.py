"""Fiddler (fiddler.ai) as a provider: one deployment per model version.

credentials.py   the block                      conditions.py   the normative table of states
client.py        our vocabulary                 creation.py     create, never twice
promotion.py     roles, kept in notes           notes.py        what Fiddler does not keep
api.py           what v2 and v3 share           api3.py, api2.py   the two generations
wire.py          the vendor's objects           views.py, specs.py   from and to our words
"""

from prefect_modeldeploy.providers.fiddler.api2 import Api2
from prefect_modeldeploy.providers.fiddler.api3 import Api3
from prefect_modeldeploy.providers.fiddler.client import FiddlerClient
from prefect_modeldeploy.providers.fiddler.credentials import FiddlerCredentials
from prefect_modeldeploy.providers.fiddler.wire import (
    ArtifactType,
    Dataset,
    DeploymentParams,
    DeploymentType,
    File,
    Job,
    JobStatus,
    Model,
    ModelDeployment,
    Project,
    ServerInfo,
    UserCompact,
)

__all__ = [
    "Api2",
    "Api3",
    "ArtifactType",
    "Dataset",
    "DeploymentParams",
    "DeploymentType",
    "FiddlerClient",
    "FiddlerCredentials",
    "File",
    "Job",
    "JobStatus",
    "Model",
    "ModelDeployment",
    "Project",
    "ServerInfo",
    "UserCompact",
]
