"""Prefect variables, written with one request."""

import time
from typing import Any

import anyio
import httpx
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.utilities import get_or_create_client
from prefect.exceptions import ObjectAlreadyExists

_FIRST_SECONDS, _LONGEST_SECONDS, _GIVE_UP_SECONDS = 0.3, 10.0, 60.0
"""A server on SQLite declines now and then, when something else is just written; Prefect's client asks again after 2,
4, 8, 16 and 32 s, in which a rollout could have turned back. So each try is given up sooner."""


async def put(name: str, value: Any) -> None:
    """Set a variable, tagged as ours. `Variable.aset(overwrite=True)` makes three requests of it, each time.

    Raises:
        TimeoutError: Prefect's server has not taken it for a minute.
    """
    seconds, give_up = _FIRST_SECONDS, time.monotonic() + _GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        with anyio.move_on_after(seconds):
            return await _put(name, value)
        seconds = min(2 * seconds, _LONGEST_SECONDS)
    raise TimeoutError(f"Prefect's server has not taken the variable {name} for {_GIVE_UP_SECONDS:g} s")


async def _put(name: str, value: Any) -> None:
    client, _ = get_or_create_client()
    update = VariableUpdate(name=name, value=value, tags=["modeldeploy"])
    try:
        await client.update_variable(update)
        return
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
    try:
        await client.create_variable(VariableCreate(name=name, value=value, tags=["modeldeploy"]))
    except ObjectAlreadyExists:  # by another process in this moment, or by a try of ours whose answer was lost
        await client.update_variable(update)
