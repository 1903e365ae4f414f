"""What the Baseten tests share: a client of a sandbox, and a small truss on disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SecretStr

from prefect_modeldeploy.deployments import Autoscaling, DeploymentSpec
from prefect_modeldeploy.providers.baseten import BasetenClient
from prefect_modeldeploy.sandbox.baseten import BasetenEmulator
from prefect_modeldeploy.transport import RetryPolicy
from tests.sandbox.kit import RunningSandbox, running_sandbox

MODEL_PY = "class Model:\n    def predict(self, request):\n        return request\n"


class Permissive(BasetenEmulator):
    """Lets a name have two models, so that a client which creates twice is found out."""

    unique_models: ClassVar[bool] = False


def make_truss(directory: Path, name: str = "my-model") -> Path:
    """The smallest truss."""
    (directory / "model").mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(f"model_name: {name}\nresources:\n  cpu: '1'\n  memory: 2Gi\n")
    (directory / "model" / "model.py").write_text(MODEL_PY)
    return directory


def client_of(sandbox: RunningSandbox, *, visible_seconds: float = 1.0, **options: Any) -> BasetenClient:
    """Our client, of this sandbox."""
    ready = sandbox["baseten"]
    return BasetenClient(
        SecretStr(options.pop("api_key", ready["api_key"])),
        ready["base_url"],
        ready["inference_url"],
        policy=options.pop("policy", RetryPolicy(first_seconds=0.01, longest_seconds=0.05)),
        visible_seconds=visible_seconds,
        **options,
    )


@asynccontextmanager
async def baseten(speed: float = 0.0, **options: Any) -> AsyncIterator[tuple[RunningSandbox, BasetenClient]]:
    """A sandbox and our client of it."""
    async with running_sandbox("baseten", speed=speed) as sandbox, client_of(sandbox, **options) as client:
        yield sandbox, client


def seeded(sandbox: RunningSandbox) -> str:
    """Our id of the seeded deployment."""
    seed = sandbox["baseten"]["seed"]
    return f"{seed['model_id']}/{seed['deployment_id']}"


def spec_of(truss: Path, name: str = "v2", model: str = "sandbox-model", **fields: Any) -> DeploymentSpec:
    """A spec of a deployment that stays up."""
    given: dict[str, Any] = {"autoscaling": Autoscaling(min_replicas=1, max_replicas=2), **fields}
    return DeploymentSpec(name=name, model=model, source=str(truss), **given)
