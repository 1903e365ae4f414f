"""Fiddler's lists: pages, ordering, and its filter language."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.fiddler._bodies import ListQuery
from prefect_modeldeploy.sandbox.world import Record

_DEEPEST = 10

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "any": lambda have, want: True,
    "equal": lambda have, want: have == want,
    "not_equal": lambda have, want: have != want,
    "in": lambda have, want: have in want,
    "not_in": lambda have, want: have not in want,
    "less": lambda have, want: have < want,
    "less_or_equal": lambda have, want: have <= want,
    "greater": lambda have, want: have > want,
    "greater_or_equal": lambda have, want: have >= want,
    "between": lambda have, want: want[0] <= have <= want[1],
    "not_between": lambda have, want: not want[0] <= have <= want[1],
    "begins_with": lambda have, want: have.startswith(want),
    "not_begins_with": lambda have, want: not have.startswith(want),
    "contains": lambda have, want: want in have,
    "not_contains": lambda have, want: want not in have,
    "ends_with": lambda have, want: have.endswith(want),
    "not_ends_with": lambda have, want: not have.endswith(want),
    "is_empty": lambda have, want: not have,
    "is_not_empty": lambda have, want: bool(have),
    "is_null": lambda have, want: have is None,
    "is_not_null": lambda have, want: have is not None,
}


def page(items: Iterable[Record], query: ListQuery) -> Record:
    """One page of the items that the query asks for, as the vendor's PAGINATED data."""
    rules = _parsed(query.filter)
    found = [item for item in items if rules is None or _holds(rules, item)]
    if query.search:
        found = [item for item in found if query.search.lower() in str(item.get("name", "")).lower()]
    for field in reversed([part for part in query.ordering.split(",") if part]):
        key = field.lstrip("-")
        found.sort(key=lambda item, key=key: str(_value(item, key)), reverse=field.startswith("-"))  # type: ignore[misc]
    some = found[query.offset : query.offset + query.limit]
    return {
        "page_size": query.limit,
        "item_count": len(some),
        "total": len(found),
        "page_count": -(-len(found) // query.limit),
        "page_index": query.offset // query.limit + 1,
        "offset": query.offset,
        "items": some,
    }


def _parsed(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(400, "filter: is not JSON", "BadRequest") from None


def _holds(rule: Any, item: Record, depth: int = 0) -> bool:
    if not isinstance(rule, dict) or depth > _DEEPEST:
        raise Refusal(400, "filter: must be a condition with rules", "BadRequest")
    if "rules" in rule:
        rules, condition = rule["rules"], rule.get("condition", "AND")
        if not isinstance(rules, list) or condition not in ("AND", "OR"):
            raise Refusal(400, "filter: condition must be AND or OR, and rules a list", "BadRequest")
        held = [_holds(part, item, depth + 1) for part in rules]
        return all(held) if condition == "AND" else any(held)
    operator = rule.get("operator")
    if not isinstance(operator, str) or operator not in _OPERATORS or not isinstance(rule.get("field"), str):
        raise Refusal(400, f"filter: unknown operator or field in {json.dumps(rule)[:200]}", "BadRequest")
    try:
        return bool(_OPERATORS[operator](_value(item, rule["field"]), rule.get("value")))
    except (TypeError, AttributeError, LookupError):
        return False


def _value(item: Record, field: str) -> Any:
    """`project_id` is the id of `project`; `project.name` goes inside."""
    value: Any = item
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None and field.endswith("_id") and isinstance(inside := item.get(field[:-3]), dict):
        return inside.get("id")
    return value
