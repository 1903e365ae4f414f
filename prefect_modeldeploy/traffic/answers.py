"""Labelled requests, and whether two answers are the same: JSON, numbers within a tolerance."""

import math
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Likeness = Literal["equal", "close", "different"]


class Example(BaseModel):
    """One labelled request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Any = Field(description="What is sent, as JSON.")
    expected: Any = Field(
        description="The right answer, as JSON. Of an object only the keys that are named here are looked at, so that "
        "answers may hold more than the label."
    )


def likeness(one: Any, other: Any, *, tolerance: float = 0.0, ignore: Collection[str] = ()) -> Likeness:
    """How alike two decoded answers are.

    Args:
        one: An answer.
        other: Another.
        tolerance: Relative difference of numbers that is `close`; for numbers below 1, the absolute one.
        ignore: Keys of objects that are not looked at, at any depth, such as a request's id.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        mine, theirs = ({key: value for key, value in d.items() if key not in ignore} for d in (one, other))
        if mine.keys() != theirs.keys():
            return "different"
        return _worst([likeness(mine[key], theirs[key], tolerance=tolerance, ignore=ignore) for key in mine])
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return "different"
        return _worst([likeness(a, b, tolerance=tolerance, ignore=ignore) for a, b in zip(one, other, strict=True)])
    if _is_number(one) and _is_number(other):
        if one == other or (one != one and other != other):  # NaN is the same answer as NaN
            return "equal"
        return "close" if math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance) else "different"
    return "equal" if type(one) is type(other) and one == other else "different"


def is_right(answer: Any, expected: Any, *, tolerance: float = 0.0) -> bool:
    """Whether an answer is the expected one; keys that `expected` does not name may be anything."""
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            key in answer and is_right(answer[key], value, tolerance=tolerance) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(is_right(a, e, tolerance=tolerance) for a, e in zip(answer, expected, strict=True))
        )
    return likeness(answer, expected, tolerance=tolerance) != "different"


def _worst(parts: list[Likeness]) -> Likeness:
    if "different" in parts:
        return "different"
    return "close" if "close" in parts else "equal"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
