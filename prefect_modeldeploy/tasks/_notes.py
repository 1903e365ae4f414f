"""What has to be remembered of single deployments from one flow run to the next, each in a Prefect variable of its own.

A variable holds 5,000 characters and cannot be compared before it is set. With one for each deployment there is room
for any number of them, and two runs that note different deployments never undo each other's work. A note with a mark
has a variable of its own even so: who forgets what it has read never forgets what another run has noted meanwhile.
"""

import hashlib
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from prefect.client.orchestration import get_client
from prefect.variables import Variable
from pydantic import BaseModel, ConfigDict, Field

from prefect_modeldeploy.deployments import Autoscaling
from prefect_modeldeploy.tasks import _variables

_PAGE = 200


class Note(BaseModel):
    """About one deployment behind one endpoint."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: ClassVar[str]

    deployment: str
    mark: str = Field("", description="What tells it from others about the same deployment: the later, the greater.")


class LetGo(Note):
    """What a deployment was like before it was scaled to zero or stopped."""

    kind: ClassVar[str] = "let_go"

    at: datetime
    replicas: int = Field(0, description="How many ran, or had to; 0 when nobody knows.")
    price: float | None = Field(None, description="Of one replica hour; None when nobody knows.")
    autoscaling: Autoscaling | None = Field(None, description="Its settings, for the wake-up.")
    served: bool = Field(False, description="Whether an endpoint sent requests to it.")


class Former(Note):
    """When to let go of a version that a rollout has replaced."""

    kind: ClassVar[str] = "former"

    rollout: str
    zero_at: datetime | None = Field(None, description="When to scale it to zero; None: it is at zero, or never will.")
    delete_at: datetime | None = Field(None, description="When to delete it; None: never.")


N = TypeVar("N", bound=Note)


class Notes(Generic[N]):
    """The notes of one kind about the deployments behind one endpoint."""

    def __init__(self, kind: type[N], endpoint: str) -> None:
        self._kind, self._prefix = kind, f"modeldeploy_{kind.kind}__{endpoint}__"

    async def all(self) -> dict[str, N]:
        """All of them, by deployment; the latest of those about the same one."""
        notes = [self._kind.model_validate(value) for value in (await variables(self._prefix)).values()]
        return {note.deployment: note for note in notes}

    async def of(self, deployment_id: str) -> N | None:
        """The latest about a deployment."""
        *_, latest = None, *(await variables(self._name(deployment_id))).values()
        return None if latest is None else self._kind.model_validate(latest)

    async def put(self, note: N) -> None:
        """Write one down, in place of the one about the same deployment with the same mark."""
        value = note.model_dump(mode="json", exclude_none=True)
        await _variables.put(self._name(note.deployment, note.mark), value)

    async def drop(self, deployment_id: str, until: str | None = None) -> None:
        """Forget what is noted about a deployment; if nothing is, that is no error.

        Args:
            deployment_id: Which one.
            until: Mark of the last note that is to be forgotten: later ones stay. None: all are.
        """
        for name in await variables(self._name(deployment_id)):
            if until is None or name <= self._name(deployment_id, until):
                await Variable.aunset(name)

    def _name(self, deployment_id: str, mark: str = "") -> str:
        return f"{self._prefix}{hashlib.sha256(deployment_id.encode()).hexdigest()[:12]}{mark and f'__{mark}'}"


async def formers_everywhere() -> dict[str, Former]:
    """The versions that rollouts of any endpoint have replaced, by deployment."""
    saved = await variables(f"modeldeploy_{Former.kind}__")
    notes = [Former.model_validate(value) for value in saved.values()]
    return {note.deployment: note for note in notes}


async def variables(prefix: str) -> dict[str, Any]:
    """The values of all Prefect variables whose names begin so, in the order of their names."""
    found = dict[str, Any]()
    async with get_client() as client:
        while True:
            body = {"variables": {"name": {"like_": prefix}}, "sort": "NAME_ASC", "limit": _PAGE, "offset": len(found)}
            page = (await client.request("POST", "/variables/filter", json=body)).json()
            found |= {item["name"]: item["value"] for item in page}
            if len(page) < _PAGE:  # the server's filter knows wildcards, and looks anywhere in a name
                return {name: value for name, value in found.items() if name.startswith(prefix)}
