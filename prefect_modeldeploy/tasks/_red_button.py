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


async def until_pressed(logger: Logger) -> str:
    """Wait until somebody presses the button; returns why. A server that cannot be asked is asked again."""
    while True:
        try:
            if reason := await pressed():
                return reason
        except Exception as error:  # whatever it is, it must not turn a rollout back
            logger.warning("Prefect's server cannot be asked for %s: %s", VARIABLE, error)
        await asyncio.sleep(_LOOK_SECONDS)


async def press(reason: str) -> None:
    """Turn every rollout back, and refuse new ones."""
    await _variables.put(VARIABLE, reason)


async def release() -> bool:
    """Let rollouts begin again; False if the button was not pressed."""
    return await Variable.aunset(VARIABLE)
