"""Prefect variables, written with one request."""

from typing import Any

import anyio
import httpx
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.utilities import get_or_create_client
from prefect.exceptions import ObjectAlreadyExists

_IMPATIENCE_SECONDS = (0.3, 0.6, 1.2)
"""A server on SQLite declines now and then, when something else is just written; Prefect's client asks again after 2 s,
in which a rollout could have turned back. So the first tries are given up sooner."""


async def put(name: str, value: Any) -> None:
    """Set a variable, tagged as ours. `Variable.aset(overwrite=True)` makes three requests of it, each time."""
    for seconds in _IMPATIENCE_SECONDS:
        with anyio.move_on_after(seconds):
            await _put(name, value)
            return
    await _put(name, value)


async def _put(name: str, value: Any) -> None:
    client, _ = get_or_create_client()
    update = VariableUpdate(name=name, value=value, tags=["modeldeploy"])
    try:
        return await client.update_variable(update)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
    try:
        await client.create_variable(VariableCreate(name=name, value=value, tags=["modeldeploy"]))
    except ObjectAlreadyExists:  # by another process in this moment, or by a try of ours whose answer was lost
        await client.update_variable(update)
