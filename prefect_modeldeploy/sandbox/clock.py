"""Time in the sandbox: faster than ours, and able to jump, so that nobody waits for an idle timeout."""

import asyncio
import math
import time
from datetime import UTC, datetime

from prefect_modeldeploy.errors import InvalidInput

_POLL_SECONDS = 0.02


class Clock:
    """Runs `speed` times as fast as ours. Speed 0 means that every step of a life cycle is instant.

    At speed 0 time itself goes on at our pace, so that what waits for *idleness* (scale to zero) does not happen at
    once; `advance` makes it happen.

    Args:
        speed: Sandbox seconds per second of ours; 0 for instant life cycles.
        now: Seconds since the epoch at which it starts; default: our time.
    """

    def __init__(self, speed: float = 1.0, now: float | None = None) -> None:
        self._speed = _checked(speed)
        self._base, self._started = time.time() if now is None else now, time.monotonic()
        self._jumped = 0.0

    @property
    def speed(self) -> float:
        """Sandbox seconds per second of ours; 0: instant life cycles."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        checked = _checked(speed)
        self._base, self._started = self.now(), time.monotonic()
        self._speed = checked

    def now(self) -> float:
        """Sandbox time, in seconds since the epoch."""
        return self._base + (time.monotonic() - self._started) * (self._speed or 1.0)

    def advance(self, seconds: float) -> None:
        """Jump ahead."""
        if not 0 <= seconds < math.inf:
            raise InvalidInput("advance_seconds", seconds, "must be a number from 0 up; time does not run backwards")
        self._base += seconds
        self._jumped += seconds

    def ours(self) -> float:
        """Our time, moved on by the jumps alone: requests come at our pace, however fast the life cycles are."""
        return time.time() + self._jumped

    def elapsed(self, since: float) -> float:
        """Seconds of a life cycle since then: infinitely many at speed 0."""
        return self.now() - since if self._speed else math.inf

    def lasting(self, seconds: float) -> float:
        """How long a step of a life cycle takes: nothing at speed 0."""
        return seconds if self._speed else 0.0

    def stamp(self, at: float | None = None) -> str:
        """ISO 8601 in UTC with microseconds and `Z`."""
        moment = datetime.fromtimestamp(self.now() if at is None else at, UTC)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

    async def sleep(self, seconds: float) -> None:
        """Wait until that much of a life cycle has passed, or the clock jumped over it."""
        until = self.now() + self.lasting(seconds)
        while (left := until - self.now()) > 0 and self._speed:  # noqa: ASYNC110 - the clock may jump
            await asyncio.sleep(min(_POLL_SECONDS, left / self._speed))


def _checked(speed: float) -> float:
    if not 0 <= speed <= 1_000_000:
        raise InvalidInput("speed", speed, "must be from 0 (instant) to 1,000,000 sandbox seconds a second")
    return float(speed)
