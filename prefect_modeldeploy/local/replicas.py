"""The life of one replica process: started or adopted, ready, drained, ended."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from prefect_modeldeploy.local.launcher import Launch, Launcher
from prefect_modeldeploy.local.logs import bound_size, tail
from prefect_modeldeploy.local.probe import ProbeFailed, get_json
from prefect_modeldeploy.local.processes import Process, describe_exit
from prefect_modeldeploy.local.programs.modeldeploy_replica.server import LOAD_FAILED
from prefect_modeldeploy.local.store import ReplicaRecord, Store

STOP_GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL, after draining."""

LIVENESS_SECONDS, LIVENESS_TIMEOUT, LIVENESS_FAILURES = 10.0, 5.0, 3
"""A ready replica is asked every so often whether it lives; one that hangs is killed after so many silences."""

READY_PATH, LIVE_PATH = "/v2/health/ready", "/v2/health/live"


class Phase(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Cause(StrEnum):
    """What kind of end a replica came to."""

    CRASHED = "crashed"
    SLOW = "slow"
    """It was not ready in time."""
    BROKEN = "broken"
    """Its model cannot be loaded: starting it again would fail the same way."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a replica is no more."""

    cause: Cause
    reason: str


class Replica:
    """One replica. `changed` is called after every change of phase."""

    def __init__(self, record: ReplicaRecord, store: Store, log: Path, changed: Callable[[], None]) -> None:
        self.record, self.phase = record, Phase.STARTING
        self.ready_since: float | None = None
        self.routed = False
        """True while the proxy shall know it."""
        self.log = log
        self._store, self._changed = store, changed
        self._process: Process | None = None
        self.stop_asked, self.settled = asyncio.Event(), asyncio.Event()

    async def run(self, launch: Launch, launcher: Launcher, timeout: float) -> Ended:
        """Start it and see it through to its end. Raises NodeError when no port is free."""
        if self.stop_asked.is_set():
            return Ended(Cause.CRASHED, "stopped before it started")
        try:
            self._process = await launcher.start(launch, self._write_down)
        except OSError as error:
            return Ended(Cause.BROKEN, f"cannot start {launch.python} in {launch.working_directory}: {error}")
        return await self._until_end(self._process, timeout)

    def attach(self) -> None:
        """Find the process that a former node started. Raises ProcessLookupError if it has ended."""
        if not self.record.pid:
            raise ProcessLookupError("the node died before it wrote the process down; that process ends by itself")
        self._process = Process(self.record.pid, self.record.started)
        if self.record.ready:
            self._become_ready()

    async def go_on(self, timeout: float) -> Ended:
        """See an attached replica through to its end."""
        assert self._process is not None
        return await self._until_end(self._process, timeout)

    def drain(self) -> bool:
        """Say that it gets no new requests; False if that was said before."""
        if self.phase is Phase.DRAINING:
            return False
        self.phase = Phase.DRAINING
        self._changed()
        return True

    async def stop(self) -> None:
        """End the process; SIGTERM lets it answer the requests in flight."""
        self.stop_asked.set()
        if self._process is not None:
            await self._process.stop(STOP_GRACE_SECONDS)

    def release(self) -> None:
        """Let the process live without us."""
        if self._process is not None:
            self._process.release()

    def _write_down(self, port: int, process: Process) -> None:
        self.record.port = port
        self.record.pid, self.record.started = process.pid, process.started
        self._store.save_replica(self.record)

    def _become_ready(self) -> None:
        self.record.ready = True
        self._store.save_replica(self.record)
        self.ready_since = time.monotonic()
        if self.phase is Phase.STARTING:
            self.phase, self.routed = Phase.READY, True
        self.settled.set()
        self._changed()

    async def _until_end(self, process: Process, timeout: float) -> Ended:
        watch = asyncio.create_task(self._watch(process, timeout))
        exited = asyncio.create_task(process.exited.wait())
        if self.stop_asked.is_set():
            process.send(signal.SIGTERM)
        try:
            await asyncio.wait((watch, exited), return_when=asyncio.FIRST_COMPLETED)
            verdict = watch.result() if watch.done() and not watch.cancelled() else None
            if verdict is not None:
                await process.stop(grace_seconds=0)
            await exited
        finally:
            watch.cancel()
            exited.cancel()
        return verdict or self._why(process)

    async def _watch(self, process: Process, timeout: float) -> Ended | None:
        """Wait until it is ready, then see that it lives. Returns why it must be killed, or None when it has ended."""
        if self.phase is Phase.STARTING:
            try:
                async with asyncio.timeout(timeout):
                    ours = await self._answers(READY_PATH)
            except TimeoutError:
                return Ended(Cause.SLOW, self._with_log(f"not ready within {timeout:g} s"))
            except ProbeFailed as error:  # the connection was reset because the process ends
                with suppress(TimeoutError):
                    async with asyncio.timeout(LIVENESS_TIMEOUT):
                        await process.exited.wait()
                        return None
                return Ended(Cause.CRASHED, self._with_log(str(error)))
            if not ours:
                return Ended(Cause.CRASHED, f"another server answers on its port {self.record.port}")
            self._become_ready()
        return await self._see_that_it_lives(process)

    async def _see_that_it_lives(self, process: Process) -> Ended | None:
        silences = 0
        while silences < LIVENESS_FAILURES:
            with suppress(TimeoutError):
                async with asyncio.timeout(LIVENESS_SECONDS):
                    await process.exited.wait()
                    return None
            bound_size(self.log)
            try:
                async with asyncio.timeout(LIVENESS_TIMEOUT):
                    silences = 0 if await self._answers(LIVE_PATH) else LIVENESS_FAILURES
            except (TimeoutError, ProbeFailed):
                silences += 1
        return Ended(Cause.CRASHED, self._with_log("it gave no sign of life and was killed"))

    async def _answers(self, path: str) -> bool:
        """True if this replica answers there, False if another server does."""
        headers, _ = await get_json(self.record.port, path)
        return headers.get("x-modeldeploy-replica") == self.record.name

    def _why(self, process: Process) -> Ended:
        failure = failure_file(self.log)
        if failure.exists():
            reason = json.loads(failure.read_text())["reason"]
            failure.unlink()
            return Ended(Cause.BROKEN, self._with_log(reason))
        broken = process.exit_code == LOAD_FAILED and self.ready_since is None
        return Ended(Cause.BROKEN if broken else Cause.CRASHED, self._with_log(describe_exit(process.exit_code)))

    def _with_log(self, reason: str) -> str:
        text = tail(self.log)
        return f"{reason}\nthe end of its log:\n{text}" if text else reason


def failure_file(log: Path) -> Path:
    """Where a replica says why it could not load its model."""
    return log.with_suffix(".failure")
