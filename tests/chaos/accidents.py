"""Accidents at single points of a flow, in the process that runs it.

A point is `<place>:before`, `<place>:after` (done, and not yet saved) or, for an effect of the state machine,
`<effect>:saved`. An effect is one place, however many requests it sends to its vendor: what becomes of a single one is
tried where it is sent, by faults of the sandbox (tests/providers). The flow and its parameters come pickled, since
targets hold secrets that no command line should show.
"""

import asyncio
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import cloudpickle
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelling

from prefect_modeldeploy import DeploymentTarget
from prefect_modeldeploy.errors import Problem, ProviderUnavailable
from prefect_modeldeploy.flows import _driver, _start
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.rollout import Effect, RolloutRecord
from prefect_modeldeploy.tasks import _journal
from prefect_modeldeploy.tasks._notes import Notes

HOWS = ("kill", "sigterm", "ui cancel", "exception", "lost answer")
STOP = "stop"
"""The process hangs, and wakes up when another one has done its work; each takes 20 s, so only at some points."""

WHENS = ("before", "after", "saved")


class Called(NamedTuple):
    """What is called at a place."""

    whose: Any
    """`client`: that of the target's provider."""
    names: tuple[str, ...]
    only: Callable[..., bool] = lambda *_: True


CALLS = {
    "take over": Called(_start, ("aclaim_endpoint",)),
    "write the end": Called(_journal, ("_put",), lambda name, _: name.startswith("modeldeploy_ended__")),
    "remember": Called(Notes, ("put",)),
    "let go": Called("client", ("scale_to_zero", "stop")),
    "put back": Called("client", ("scale",)),
    "let go for good": Called("client", ("delete",)),
    "wake": Called("client", ("wake", "start")),
    "forget": Called(Notes, ("drop",)),
}
"""Places that are no effects.

After `take over` the endpoint is claimed, and the record names the former driver still; after `write the end` one of
the two variables of a rollout that has ended is written.
"""


@dataclass
class Case:
    """What is run, and what happens to it."""

    flow: Callable[..., Any]
    arguments: dict[str, Any]
    target: DeploymentTarget
    point: str
    how: str
    marker: Path
    """Written when the accident happens."""

    def write(self, path: Path) -> Path:
        path.write_bytes(cloudpickle.dumps(self))
        return path

    @classmethod
    def read(cls, path: str) -> "Case":
        case: Case = cloudpickle.loads(Path(path).read_bytes())
        return case


async def strike(case: Case) -> None:
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
        case "sigterm again":  # and again, while it turns back
            threading.Thread(target=told_to_end_again, daemon=True).start()
            os.kill(os.getpid(), signal.SIGTERM)
        case "sigterm in a group":  # Prefect's exception, where it strikes while a task group runs
            raise BaseExceptionGroup("unhandled errors", [TerminationSignal(signal.SIGTERM)])
        case "sigterm in a callback":  # where asyncio logs it, and goes on
            asyncio.get_running_loop().call_soon(told_to_end)
        case "ui cancel":
            async with get_client() as client:
                # The runner has started that one, and hears of no other.
                await client.set_flow_run_state(UUID(str(flow_run.root_flow_run_id)), Cancelling())
            await asyncio.Event().wait()  # until the runner ends this
        case "exception":
            raise RuntimeError("an accident")
        case "lost answer":
            raise ProviderUnavailable("chaos", case.point, Problem("the answer was lost"), effect_unknown=True)


def told_to_end() -> None:
    """SIGTERM, in the middle of this function."""
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # Prefect's exception comes meanwhile
        pass


def told_to_end_again() -> None:
    """SIGTERM ten times within a second, not at once."""
    for _ in range(10):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)


def arm(case: Case) -> None:
    """Put the accident into the way of the flow."""
    place, when = case.point.split(":")
    if place in CALLS:
        _arm_calls(case, place, when)
    else:
        _arm_effects(case, place, when)


def _arm_effects(case: Case, effect: str, when: str) -> None:
    perform, save = Effects.__call__, _driver._save

    async def performing(self: Effects, now: Effect, record: RolloutRecord) -> RolloutRecord:
        if now == effect and when == "before":
            await strike(case)
        after = await perform(self, now, record)
        if now == effect and when == "after":
            await strike(case)
        return after

    async def saving(record: RolloutRecord, effects: Effects, now: str, **before: Any) -> RolloutRecord:
        saved = await save(record, effects, now, **before)
        if now == effect and when == "saved":
            await strike(case)
        return saved

    Effects.__call__ = performing  # type: ignore[method-assign]
    _driver._save = saving


def _arm_calls(case: Case, place: str, when: str) -> None:
    called = CALLS[place]
    owner = case.target.credentials.client_class if called.whose == "client" else called.whose

    def with_accident(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        async def calling(*args: Any, **kwargs: Any) -> Any:
            struck = called.only(*args)
            if struck and when == "before":
                await strike(case)
            result = await call(*args, **kwargs)
            if struck and when == "after":
                await strike(case)
            return result

        return calling

    for name in called.names:
        setattr(owner, name, with_accident(getattr(owner, name)))
