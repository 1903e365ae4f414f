"""Prefect variables, written with one request."""

from typing import Any

import httpx
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.utilities import get_or_create_client


async def put(name: str, value: Any) -> None:
    """Set a variable, tagged as ours. `Variable.aset(overwrite=True)` makes three requests of it, each time."""
    client, _ = get_or_create_client()
    try:
        await client.update_variable(VariableUpdate(name=name, value=value, tags=["modeldeploy"]))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        await client.create_variable(VariableCreate(name=name, value=value, tags=["modeldeploy"]))
