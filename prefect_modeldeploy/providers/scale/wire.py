"""How the SGP API is called: paths, pages, errors, and creation by name without ever creating twice."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote

import anyio
import httpx

from prefect_modeldeploy.errors import Conflict, Problem
from prefect_modeldeploy.providers.scale.schemas import ValidationProblem
from prefect_modeldeploy.transport import Transport, create_once, retry_after

PAGE = 100
"""Items a page: the vendor's default; its maximum is 10,000."""

LOOK_UPS, LOOK_UP_SECONDS = 3, 0.3
"""A thing that was just created may be listed late; that often and that far apart it is looked for."""


def at(*segments: str) -> str:
    """A path of these segments, each escaped: `at("v4", "models", model_id)`."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: the vendor's client leaves out the others too."""
    return {name: value for name, value in options.items() if value is not None}


async def items(transport: Transport, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
    """All items of a V4 list, whose pages go on for ever at the vendor's: beyond the end they are empty.

    It ends at the total that the vendor names, at an empty page, and at a page that brings nothing new (a server that
    ignores `page`, for which the vendor's own client asks without end).
    """
    seen, number = set[str](), 1
    while True:
        asked = given(limit=PAGE, **query, page=number if number > 1 else None)
        answer = await transport.call("GET", path, params=asked)
        found = answer.get("items") if isinstance(answer, Mapping) else None
        fresh = [item for item in found or [] if isinstance(item, dict) and str(item.get("id")) not in seen]
        seen.update(str(item.get("id")) for item in fresh)
        for item in fresh:
            yield item
        total = answer.get("total_item_count") if isinstance(answer, Mapping) else None
        if not fresh or (isinstance(total, int) and len(seen) >= total):
            return
        number += 1


async def create_by_name(
    transport: Transport, path: str, body: Mapping[str, Any], found_by: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """POST something that has a name, or return the one of that name that is the same already.

    Args:
        transport: Where.
        path: Both of the POST and of the list.
        body: What is posted.
        found_by: Query of the list.

    Raises:
        Conflict: Something else has that name.
    """

    async def look_up() -> dict[str, Any] | None:
        async for item in items(transport, path, **(found_by or {})):
            if item.get("name") == body["name"]:
                differing = sorted(name for name, value in body.items() if not _within(value, item.get(name)))
                if differing:
                    problem = f"{body['name']!r} exists with other values of {differing}; choose another name"
                    raise Conflict("scale", f"POST {path}", Problem(problem, code="name_taken"))
                return item
        return None

    async def create() -> dict[str, Any]:
        return dict(await transport.call("POST", path, json=body))

    existing = await look_up()
    return existing if existing is not None else await create_once(create, lambda: patiently(look_up))


async def patiently(look: Callable[[], Any]) -> Any:
    """Look several times for what may be listed late; None when it is not there in the end."""
    for _ in range(LOOK_UPS - 1):
        if (found := await look()) is not None:
            return found
        await anyio.sleep(LOOK_UP_SECONDS)
    return await look()


def _within(wanted: Any, there: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(there, Mapping):
        return all(_within(value, there.get(name)) for name, value in wanted.items())
    return bool(wanted == there)


def read_problem(response: httpx.Response) -> Problem:
    """Read an error answer: FastAPI's list of problems (422), its text, or whatever else came (a gateway's HTML)."""
    try:
        body = response.json()
    except ValueError:
        body = None
    detail = body.get("detail") if isinstance(body, dict) else None
    wait = retry_after(response)
    if isinstance(detail, list) and detail:
        problems = [ValidationProblem.read(entry) for entry in detail]
        text = "; ".join(f"{'.'.join(map(str, one.loc))}: {one.msg}" for one in problems)
        return Problem(text, response.status_code, problems[0].type or None, {"detail": detail}, wait)
    text = detail if isinstance(detail, str) else response.text[:500] or response.reason_phrase
    return Problem(text, response.status_code, parameters=body if isinstance(body, dict) else None, retry_after=wait)
