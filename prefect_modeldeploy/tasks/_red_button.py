"""The red button: a Prefect variable that turns every rollout back and lets no new one begin.

Whoever can set a variable can press it: in the UI, with `prefect variable set`, over the REST API, or with `modeldeploy
halt`, which says who it was; a plain text is the reason that somebody has. Deleting the variable, or `modeldeploy
allow`, releases it.
"""

import asyncio
from dataclasses import dataclass

from prefect.variables import Variable

from prefect_modeldeploy.rollout import Actor
from prefect_modeldeploy.tasks import _variables
from prefect_modeldeploy.tasks._identity import this_user
from prefect_modeldeploy.transport import Logger

VARIABLE = "modeldeploy_halt"

_LOOK_SECONDS = 3.0
"""A look is a request, of which Prefect Cloud allows so many a minute; traffic has to be back within 5 s."""


@dataclass(frozen=True, slots=True)
class Press:
    """Who halts everything, and why."""

    who: Actor
    why: str

    def __str__(self) -> str:
        return f"by {self.who.name}" + (f": {self.why}" if self.why else "")


async def pressed() -> Press | None:
    """Who halts everything; None if nobody does."""
    match await Variable.aget(VARIABLE):
        case None | False | 0 | "":
            return None
        case {"who": str(who), "why": str(why)}:
            return Press(Actor(name=who), why)
        case other:
            return Press(Actor(name="somebody"), str(other))


async def seen(logger: Logger) -> Press | None:
    """As `pressed`; a server that cannot be asked turns no rollout back."""
    try:
        return await pressed()
    except Exception as error:  # whatever it is
        logger.warning("Prefect's server cannot be asked for %s: %s", VARIABLE, error)
        return None


async def until_pressed(logger: Logger) -> Press:
    """Wait until somebody presses the button. A server that cannot be asked is asked again."""
    while not (press := await seen(logger)):  # noqa: ASYNC110 it is pressed elsewhere
        await asyncio.sleep(_LOOK_SECONDS)
    return press


async def press(why: str) -> None:
    """Turn every rollout back, and refuse new ones, in the name of the user of this machine."""
    await _variables.put(VARIABLE, {"who": this_user(), "why": why})


async def release() -> bool:
    """Let rollouts begin again; False if the button was not pressed."""
    return await Variable.aunset(VARIABLE)
