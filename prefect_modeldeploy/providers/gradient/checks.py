"""Small checks of arguments, before any request."""

import uuid
from collections.abc import Collection

from prefect_modeldeploy.errors import Conflict, InvalidInput, Problem
from prefect_modeldeploy.providers.gradient.answers import Stored
from prefect_modeldeploy.providers.gradient.spec import Config


def checked_id(deployment_id: str, field: str = "deployment_id") -> str:
    """An id that can stand in a path. Raises InvalidInput for what is no UUID."""
    try:
        # The ids of the seed document's examples are UUIDs of no known version: taken as they are.
        uuid.UUID(deployment_id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(field, deployment_id, "is not the id of a deployment (an UUID); see find()") from None
    return deployment_id


def checked_count(field: str, value: int) -> int:
    """A number from 1 up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(field, value, "must be a whole number from 1 up")
    return value


def one_of(field: str, value: str, known: Collection[str]) -> None:
    """Raise InvalidInput for a word that the vendor does not know."""
    if value not in known:
        raise InvalidInput(field, value, f"must be one of {', '.join(known)}")


def whole(stored: Stored) -> Config:
    """The latest spec. Raises Conflict when the vendor shows none: what cannot be read cannot be changed safely."""
    if stored.latest_spec is not None and stored.latest_spec.data is not None:
        return stored.latest_spec.data
    problem = Problem("the vendor shows no valid spec; upsert a whole one, or delete the deployment")
    raise Conflict("gradient", f"read {stored.id}", problem)
