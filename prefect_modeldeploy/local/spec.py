"""What a DeploymentSpec means on the local node, and which parts of it would have no effect here."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec, DeploymentUpdate, Resources
from prefect_modeldeploy.errors import InvalidInput

_CALLABLE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_RESTARTING = ("version", "source", "env", "options", "resources")
"""Fields whose change takes new replicas."""


class LocalOptions(BaseModel):
    """`DeploymentSpec.options` on the local node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str = Field(sys.executable, description="Interpreter of the replicas; it needs uvicorn. Absolute path.")
    concurrency: int = Field(4, ge=1, le=256, description="Threads per replica that call the model.")
    start_timeout_seconds: float = Field(120.0, gt=0, description="A replica that is not ready by then has failed.")
    working_directory: str | None = Field(None, description="Of the replicas; the node's home by default. Absolute.")
    python_path: tuple[str, ...] = Field((), description="Folders put first on the replicas' import path. Absolute.")
    labels: dict[str, str] = Field({}, description="Tags of the deployment, for people and for `scale_to_zero`.")


def options_of(spec: DeploymentSpec) -> LocalOptions:
    """The checked options of a spec; raise InvalidInput that names the option."""
    try:
        options = LocalOptions(**spec.options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        hint = f"{first['msg']}; the local options are {', '.join(LocalOptions.model_fields)}"
        raise InvalidInput(f"options.{name}", first["input"], hint) from None
    paths = {"python": options.python, "working_directory": options.working_directory}
    paths |= {f"python_path.{i}": path for i, path in enumerate(options.python_path)}
    for name, path in paths.items():
        if path is not None and not Path(path).is_absolute():
            raise InvalidInput(f"options.{name}", path, "the node needs an absolute path")
    return options


def check_spec(spec: DeploymentSpec) -> None:
    """Raise InvalidInput, naming the field, for what cannot work on this node."""
    options_of(spec)
    source = spec.source
    if not source:
        raise InvalidInput("source", source, "the local node needs a .joblib file or `package.module:callable`")
    if source.endswith(".joblib"):
        if not Path(source).is_absolute():
            raise InvalidInput("source", source, "the node needs an absolute path")
    elif not _CALLABLE.match(source):
        raise InvalidInput("source", source, "must be a .joblib file or `package.module:callable`")
    for name in spec.env:
        if not _ENV_NAME.match(name):
            raise InvalidInput("env", name, "names of variables are letters, digits and underscores")
    _check_resources(spec.resources)
    for name in ("target_concurrency", "window_seconds"):
        if spec.autoscaling is not None and (value := getattr(spec.autoscaling, name)) is not None:
            hint = "the local node does not scale by load; leave it out and scale by hand"
            raise InvalidInput(f"autoscaling.{name}", value, hint)


def _check_resources(resources: Resources | None) -> None:
    for name, value in (resources or Resources()).model_dump(exclude_none=True).items():
        if name != "cpu_millicores":
            hint = "the local node cannot limit this; leave it out (cpu_millicores sets threads)"
            raise InvalidInput(f"resources.{name}", value, hint)


def first_replicas(autoscaling: Autoscaling | None) -> int:
    """Replicas that a deployment starts with. One that may go to zero starts too: so a broken model is found now."""
    return max(1, (autoscaling or Autoscaling()).min_replicas or 0)


def idle_seconds(autoscaling: Autoscaling | None) -> float | None:
    """Seconds without a request after which it goes to zero; None: never."""
    if autoscaling is None or autoscaling.min_replicas != 0:
        return None
    delay = autoscaling.scale_down_delay_seconds
    return 300.0 if delay is None else delay


def compute_threads(resources: Resources | None) -> int:
    """Threads for BLAS and OpenMP: one, unless the spec gives a replica more than a core."""
    return max(1, ((resources and resources.cpu_millicores) or 0) // 1000)


def changed(spec: DeploymentSpec, update: DeploymentUpdate) -> tuple[DeploymentSpec, bool]:
    """The updated spec, checked, and whether running replicas have to be replaced."""
    fields: Mapping[str, Any] = {
        name: getattr(update, name) for name in update.model_fields_set if getattr(update, name) is not None
    }
    new = spec.model_copy(update=dict(fields))
    check_spec(new)
    return new, any(getattr(new, name) != getattr(spec, name) for name in _RESTARTING)
