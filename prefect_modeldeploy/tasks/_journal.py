"""Where the record of a rollout is kept while it runs: a Prefect variable, readable by hooks and by other machines."""

import json

from prefect.events import emit_event
from prefect.variables import Variable
from pydantic import BaseModel, ValidationError

from prefect_modeldeploy.errors import RolloutError
from prefect_modeldeploy.rollout import Phase, RolloutRecord
from prefect_modeldeploy.rollout.record import SCHEMA_VERSION
from prefect_modeldeploy.tasks import _notifying, _variables

LARGEST = 5000
"""Characters of JSON that a Prefect variable can hold."""

ROOM = 2000
"""What a record may grow by while its rollout runs: evidence, reasons, answers."""


class Unreadable(RolloutError):
    """What a variable holds is no record, or one that this version cannot read."""


def variable_name(endpoint: str) -> str:
    """Name of the variable that holds the record of the endpoint's latest rollout."""
    return f"modeldeploy_rollout__{endpoint}"


def resource_id(record: RolloutRecord) -> str:
    """What Prefect's events name the endpoint of a rollout."""
    return f"modeldeploy.{record.provider}.{record.endpoint}"


async def save(record: RolloutRecord) -> RolloutRecord:
    """Save the record and tell the world where the rollout stands; returns it.

    Raises:
        RolloutError: It is too long.
    """
    if record.phase is Phase.ENDED:
        await _put(_name_of_ended(record.endpoint), record)
    await put(record)
    tell(record, record.phase.value.lower().replace("_", "-"), record.reason)
    await _notifying.follow(record)
    return record


async def put(record: RolloutRecord) -> None:
    """Save the record where everybody looks, and tell nobody. Raises as `save` does."""
    await _put(variable_name(record.endpoint), record)


async def _put(name: str, record: RolloutRecord) -> None:
    saved = record.saved()
    decided = record.outcome not in (None, "held")  # nobody judges any more, and traffic must go where it belongs
    if _size(saved) >= LARGEST and decided:
        saved = record.model_copy(update={"judge_state": None}).saved()
    size = _size(saved)
    if size >= (most := LARGEST - ROOM if record.phase is Phase.PLANNED else LARGEST):
        longer = "shorten the note, the spec or the plan"
        raise RolloutError(f"the record of {record.endpoint} has {size} characters of {most}: {longer}")
    await _variables.put(name, saved)


def _size(saved: str) -> int:
    """As Prefect measures it."""
    return len(json.dumps(saved))


def tell(record: RolloutRecord, what: str, reason: str) -> None:
    """Emit the event `modeldeploy.rollout.<what>` about the endpoint."""
    emit_event(
        event=f"modeldeploy.rollout.{what}",
        resource={
            "prefect.resource.id": resource_id(record),
            "prefect.resource.name": record.endpoint,
        },
        payload={
            "rollout": record.id,
            "stable": record.stable,
            "canary": record.canary,
            "weight": record.weight,
            "outcome": record.outcome,
            "reason": reason,
            "who": record.who.name,
        },
    )


async def load(endpoint: str) -> RolloutRecord | None:
    """Return the record of the endpoint's latest rollout; None if there never was one."""
    return await _read(variable_name(endpoint))


async def latest(endpoint: str) -> RolloutRecord | None:
    """What `load` gives; but a rollout that has ended, though a driver that was replaced has saved it since, as ended.

    Such a driver looks who drives the rollout before it saves; whatever happens in between is past its epoch.
    """
    record = await load(endpoint)
    return record and await settled(record)


async def settled(record: RolloutRecord) -> RolloutRecord:
    """What `latest` makes of what `load` gives."""
    if record.phase is Phase.ENDED:
        return record
    ended = await last_ended(record.endpoint)
    return ended if ended is not None and ended.seniority > record.seniority else record


async def last_ended(endpoint: str) -> RolloutRecord | None:
    """The record of the rollout of the endpoint that has ended last, even if the next one is open."""
    return await _read(_name_of_ended(endpoint))


async def _read(name: str) -> RolloutRecord | None:
    saved = await Variable.aget(name)
    return None if saved is None else read(name, saved)


def read(name: str, saved: object) -> RolloutRecord:
    """The record that a variable holds.

    Raises:
        Unreadable: It is none.
    """
    try:
        schema = _Written.model_validate_json(str(saved)).schema_version
        if schema > SCHEMA_VERSION:
            known = f"this version of prefect-modeldeploy reads {SCHEMA_VERSION}"
            raise Unreadable(f"the variable {name} holds a record of schema {schema}, {known}: upgrade it")
        return RolloutRecord.model_validate_json(str(saved))
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        what = ".".join(map(str, first["loc"])) or "all of it"
        raise Unreadable(
            f"the variable {name} holds no record that can be read ({what}: {first['msg']}); "
            "upgrade, if a newer version of prefect-modeldeploy wrote it, else delete it"
        ) from error


class _Written(BaseModel):
    """What any version can read of a record."""

    schema_version: int = 1


def _name_of_ended(endpoint: str) -> str:
    return f"modeldeploy_ended__{endpoint}"
