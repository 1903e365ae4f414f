"""Versions of a model for the rollouts of the tests. Even the good ones fail now and then, as real ones do."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _failing(percent: int) -> Callable[[Any], Any]:
    calls = itertools.count()

    def predict(value: Any) -> Any:
        # 37 and 100 have no common factor: the failures are spread evenly, and every hundred calls has as many.
        if next(calls) * 37 % 100 < percent:
            raise ValueError("this one did not work")
        return value

    return predict


good = _failing(4)
as_good = _failing(4)
broken = _failing(40)


_fails, _turned_bad = _failing(40), Path(os.environ.get("TURNED_BAD", "/nowhere"))


def turns_bad(value: Any) -> Any:
    """As good, until somebody makes the file that `TURNED_BAD` names."""
    return _fails(value) if _turned_bad.exists() else as_good(value)


def cannot_load() -> None:
    """Not a model: see the source `versions:missing`."""


def wrong_now_and_then(value: Any) -> Any:
    """Answers, but not always what it was asked."""
    return value if sum(value) % 5 else [0.5]


def differs(value: Any) -> Any:
    """Answers, always something else."""
    return [number + 1 for number in value]
