"""Replicas of an emulated deployment: they start, are added under load, and are let go when idle.

What is kept is a JSON record, `{"started": [sandbox time of each replica], "busy_at": sandbox time of the last need}`;
everything else follows from it and the time of the question. Only requests in flight live in memory.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prefect_modeldeploy.deployments import Replicas
from prefect_modeldeploy.sandbox.clock import Clock
from prefect_modeldeploy.sandbox.world import Record

_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a deployment scales; times are sandbox seconds.

    Args:
        min_replicas: Always there.
        max_replicas: Never more.
        target: Requests in flight per replica that the autoscaler aims at.
        start_seconds: From the start of a replica until it takes requests.
        scale_down_seconds: Without need before replicas are let go.
        window_seconds: How long a peak of load is remembered.
    """

    min_replicas: int
    max_replicas: int
    target: int = 1
    start_seconds: float = 10.0
    scale_down_seconds: float = 600.0
    window_seconds: float = 60.0


class Pool:
    """The replicas of one deployment.

    Args:
        clock: The sandbox's.
        record: Where the state is kept, `{}` for a new deployment.
    """

    def __init__(self, clock: Clock, record: Record) -> None:
        self._clock, self._record = clock, record
        self._in_flight, self._peaks = 0, deque[tuple[float, int]]()
        record.setdefault("started", [])
        record.setdefault("busy_at", clock.now())

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self._in_flight

    @property
    def idle_seconds(self) -> float:
        """Sandbox seconds since there was need of the replicas that there are; 0 while a request is in flight."""
        return 0.0 if self._in_flight else self._clock.now() - float(self._record["busy_at"])

    def settle(self, scaling: Scaling) -> Replicas:
        """Let the autoscaler decide up to now, and say what there is."""
        now, started = self._clock.now(), list(self._record["started"])
        wanted = self._wanted(now, scaling)
        if wanted >= len(started) and self._peak(now, scaling):
            self._record["busy_at"] = now
        idle = now - float(self._record["busy_at"]) >= scaling.scale_down_seconds
        floor = wanted if idle else max(wanted, len(started))
        target = min(scaling.max_replicas, max(floor, scaling.min_replicas))
        started = started[:target] + [now] * (target - len(started))
        self._record["started"] = started
        ready = sum(self._clock.elapsed(at) >= scaling.start_seconds for at in started)
        return Replicas(ready=ready, running=len(started), desired=target)

    def restart(self, replicas: int) -> None:
        """Replace all replicas by that many fresh ones; 0 lets go of all."""
        now = self._clock.now()
        self._record.update(started=[now] * replicas, busy_at=now)
        self._peaks.clear()

    def start_first(self) -> None:
        """Wake from zero: start one replica, if there is none."""
        if not self._record["started"]:
            self._record.update(started=[self._clock.now()], busy_at=self._clock.now())

    @asynccontextmanager
    async def request(self, scaling: Scaling) -> AsyncIterator[None]:
        """Count a request as load while it is answered."""
        self._load(+1, scaling)
        try:
            yield
        finally:
            self._load(-1, scaling)

    async def woken(self, scaling: Scaling, timeout_seconds: float) -> bool:
        """Start a replica if there is none and wait until one is ready, at most that long in our time."""
        if scaling.max_replicas < 1:
            return False
        deadline = time.monotonic() + timeout_seconds
        while not self.settle(scaling).ready:
            self.start_first()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def _load(self, change: int, scaling: Scaling) -> None:
        before, self._in_flight = self._in_flight, self._in_flight + change
        self._peaks.append((self._clock.now(), max(before, self._in_flight)))
        self.settle(scaling)

    def _peak(self, now: float, scaling: Scaling) -> int:
        while self._peaks and now - self._peaks[0][0] > scaling.window_seconds:
            self._peaks.popleft()
        return max([self._in_flight, *(load for _, load in self._peaks)])

    def _wanted(self, now: float, scaling: Scaling) -> int:
        return math.ceil(self._peak(now, scaling) / max(1, scaling.target))
