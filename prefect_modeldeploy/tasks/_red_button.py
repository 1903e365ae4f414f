"""The red button: a Prefect variable that turns every rollout back and lets no new one begin.

Whoever can set a variable can press it: in the UI, with `prefect variable set`, over the REST API, or with `modeldeploy
halt`. Its text is the reason. Deleting the variable, or `modeldeploy allow`, releases it.
"""

import asyncio

from prefect.variables import Variable

from prefect_modeldeploy.tasks import _variables
from prefect_modeldeploy.transport import Logger

VARIABLE = "modeldeploy_halt"

_LOOK_SECONDS = 3.0
"""A look is a request, of which Prefect Cloud allows so many a minute; traffic has to be back within 5 s."""


async def pressed() -> str | None:
    """Why everything shall halt; None if nobody says so."""
    reason = await Variable.aget(VARIABLE)
    return None if reason in (None, False, "") else str(reason)


async def seen(logger: Logger) -> str | None:
    """As `pressed`; a server that cannot be asked turns no rollout back."""
    try:
        return await pressed()
    except Exception as error:  # whatever it is
        logger.warning("Prefect's server cannot be asked for %s: %s", VARIABLE, error)
        return None


async def until_pressed(logger: Logger) -> str:
    """Wait until somebody presses the button; returns why. A server that cannot be asked is asked again."""
    while not (reason := await seen(logger)):  # noqa: ASYNC110 it is pressed elsewhere
        await asyncio.sleep(_LOOK_SECONDS)
    return reason


async def press(reason: str) -> None:
    """Turn every rollout back, and refuse new ones."""
    await _variables.put(VARIABLE, reason)


async def release() -> bool:
    """Let rollouts begin again; False if the button was not pressed."""
    return await Variable.aunset(VARIABLE)
