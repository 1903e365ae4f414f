"""A process that runs a flow and has an accident at one point: `python -m tests.chaos.victim CASE`.

The point is `<effect>:before`, `<effect>:after` (done, and not yet saved) or `<effect>:saved`. The flow and its
parameters come pickled, since targets hold secrets that no command line should show.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from prefect_modeldeploy.errors import Problem, ProviderUnavailable
from prefect_modeldeploy.flows import _driver
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.rollout import Effect, RolloutRecord

HOWS = ("kill", "sigterm", "exception", "lost answer")
WHENS = ("before", "after", "saved")


@dataclass
class Case:
    """What is run, and what happens to it."""

    flow: Callable[..., Any]
    arguments: dict[str, Any]
    point: str
    how: str
    marker: Path
    """Written when the accident happens."""

    def write(self, path: Path) -> Path:
        path.write_bytes(cloudpickle.dumps(self))
        return path


def strike(case: Case) -> None:
    """Have the accident, once."""
    if case.marker.exists():
        return
    case.marker.touch()
    match case.how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        case "exception":
            raise RuntimeError("an accident")
        case "lost answer":
            raise ProviderUnavailable("chaos", case.point, Problem("the answer was lost"), effect_unknown=True)


def arm(case: Case) -> None:
    """Put the accident into the way of the flow."""
    effect, when = case.point.split(":")
    perform, save = Effects.__call__, _driver._save

    async def performing(self: Effects, now: Effect, record: RolloutRecord) -> RolloutRecord:
        if now == effect and when == "before":
            strike(case)
        after = await perform(self, now, record)
        if now == effect and when == "after":
            strike(case)
        return after

    async def saving(record: RolloutRecord, effects: Effects, now: str) -> RolloutRecord:
        saved = await save(record, effects, now)
        if now == effect and when == "saved":
            strike(case)
        return saved

    Effects.__call__ = performing  # type: ignore[method-assign]
    _driver._save = saving


if __name__ == "__main__":
    the_case: Case = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    arm(the_case)
    asyncio.run(the_case.flow(**the_case.arguments))
