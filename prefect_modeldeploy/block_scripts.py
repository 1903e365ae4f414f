"""What the scripts in `blocks/` share: environment variables in, a saved block and one line out."""

import asyncio
import logging
import os
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from pydantic import ValidationError

from prefect_modeldeploy.compat import warn_if_server_cannot_start
from prefect_modeldeploy.errors import InvalidInput, ModelDeployError
from prefect_modeldeploy.target import DeploymentTarget

B = TypeVar("B", bound=Block)


def required(name: str, why: str | None = None) -> str:
    """The value of a variable; without one the script ends, with a line that names it."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: {why or f'the table at the top of {Path(sys.argv[0]).name} says what it is'}")
    return value


def given(variables: Mapping[str, str], *needed: str) -> dict[str, str]:
    """The fields of a block whose variables are set.

    Args:
        variables: Name of the variable, by field.
        needed: Fields without which the script ends.
    """
    for field in needed:
        required(variables[field])
    return {field: value for field, name in variables.items() if (value := os.environ.get(name))}


async def saved(kind: type[B], name: str) -> B | None:
    """The saved block of this name; None if there is none.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        return await kind.aload(name)
    except ValueError:  # what Prefect raises where there is none
        return None
    except RuntimeError as error:
        slug = kind.get_block_type_slug()
        hint = f"is the name of a {slug} block that cannot be read; mend it in the UI, or delete it there"
        raise InvalidInput("name of the block", name, hint) from error


def changed(kind: type[B], former: B | None, fields: Mapping[str, Any]) -> B:
    """The former block with these fields, or a new one: what a person set in the UI stays."""
    kept = {} if former is None else {field: getattr(former, field) for field in kind.model_fields}
    return kind.model_validate({**kept, **fields})


async def changed_target(name: str, fields: Mapping[str, Any]) -> DeploymentTarget:
    """As `changed`; the endpoint of a new target, or of another model's, has the model's name unless it is given."""
    former = await saved(DeploymentTarget, name)
    same_model = former is not None and former.model == fields["model"]
    return changed(DeploymentTarget, former, fields if same_model else {"endpoint": fields["model"], **fields})


async def save(block: Block, name: str) -> str:
    """Create the block, or update the one of this name; returns what was done."""
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise InvalidInput("name of the block", name, "must be of lower-case letters, digits and dashes")
    slug = block.get_block_type_slug()
    async with get_client() as client:
        try:
            await client.read_block_document_by_name(name, slug, include_secrets=False)
            done = "updated"
        except ObjectNotFound:
            done = "created"
    await block.save(name, overwrite=True)
    return f"{done} {slug}/{name}"


def run(main: Callable[[], Coroutine[Any, Any, str]], variables: Mapping[str, str] = {}) -> None:
    """Run a script and print what it returns; whatever goes wrong is one line, and exit code 1.

    Args:
        main: Saves the block and returns what it did.
        variables: Name of the variable, by field of the block: what a message about a field names.
    """
    warn_if_server_cannot_start()
    logging.getLogger("stamina").setLevel(logging.ERROR)  # the transport says itself that it tries again
    try:
        print(asyncio.run(main()))
    except ValidationError as error:
        found = [_refused(each, variables) for each in error.errors(include_input=False, include_url=False)]
        sys.exit(_one_line("; ".join(found)))
    except InvalidInput as error:
        sys.exit(_one_line(_invalid(error, variables)))
    except (ModelDeployError, ValueError) as error:
        sys.exit(_one_line(str(error)))
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        server = get_current_settings().api.url or "its default address"
        sys.exit(_one_line(f"Prefect's server at {server} cannot be used: {error or type(error).__name__}"))


def _refused(error: Any, variables: Mapping[str, str]) -> str:
    """Never with pydantic's own words for the input: it may be a secret."""
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, InvalidInput):
        return _invalid(cause, variables)
    field = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{variables.get(field, field)}: {message}" if field else message


def _invalid(error: InvalidInput, variables: Mapping[str, str]) -> str:
    value = "" if error.value is None else f"={error.value!r}"
    return f"{variables.get(error.field, error.field)}{value}: {error.hint}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
