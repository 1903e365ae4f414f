"""One process, ours or adopted: known by pid and start time, watched without polling, never confused with another."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil

_SAME_START_SECONDS = 1.0
"""The start time is derived from the boot time, which the kernel corrects a little when the clock is set."""

_POLL_SECONDS = 0.2


class Process:
    """A process that may or may not be our child. Create it within a running event loop.

    Raises:
        ProcessLookupError: there is no such process, or the pid belongs to another one by now.
    """

    def __init__(self, pid: int, started: float | None = None, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.pid, self._child = pid, child
        self.exited = asyncio.Event()
        self.exit_code: int | None = None
        """Negative: the signal that ended it. None while it lives, and for processes that are not our children."""
        self._pidfd = os.pidfd_open(pid) if sys.platform == "linux" else -1
        try:
            self._psutil = psutil.Process(pid)
            self.started = self._psutil.create_time()
            gone = child is None and self._psutil.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            gone = True
        if gone or (started is not None and abs(self.started - started) > _SAME_START_SECONDS):
            self._close()
            raise ProcessLookupError(f"no process {pid} that started at {started}")
        self._poller: asyncio.Task[None] | None = None
        if self._pidfd >= 0:
            asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)
        else:
            self._poller = asyncio.create_task(self._poll())

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self.exited.is_set():
            return
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                self._psutil.send_signal(number)

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM; SIGKILL when it has not ended after the grace."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self.exited.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.exited.wait()

    def release(self) -> None:
        """Stop watching it, and let it live."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._poller is not None:
            self._poller.cancel()
        self._close()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.exit_code = self._child.poll() if self._child else None
        self._close()
        self.exited.set()

    async def _poll(self) -> None:
        """Where the kernel has no pidfd (macOS)."""
        while self._psutil.is_running() and self._psutil.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        self.exit_code = self._child.poll() if self._child else None
        self.exited.set()

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def describe_exit(code: int | None) -> str:
    """What an exit code says to a person."""
    if code is None:
        return "it ended"
    if code < 0:
        with suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}"
    return f"it exited with code {code}"
