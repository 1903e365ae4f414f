"""Hears that the process is told to end, wherever SIGTERM strikes.

Prefect raises an exception in whatever the process does just then. Where that is a callback of the event loop, or a
task that nobody waits for, asyncio logs the exception and everything goes on. Python itself also writes the number of
each signal to a socket, if it is given one; that is read here.
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

_NONE = -1

_listeners: list[Callable[[], None]] = []
_listening = ExitStack()
"""There is one such socket in a process, and there may be several rollouts."""


@contextmanager
def heard(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` from the event loop when the process is told to end, while the block lasts.

    In another thread than the main one nobody is told: no signal strikes there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _listeners:
        _listening.enter_context(_signals())
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)
        if not _listeners:
            _listening.close()


@contextmanager
def _signals() -> Iterator[None]:
    loop = asyncio.get_running_loop()
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        ours = writing.fileno()
        former = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        loop.add_reader(reading, _read, reading, former)
        try:
            yield
        finally:
            loop.remove_reader(reading)
            now = signal.set_wakeup_fd(_NONE)
            signal.set_wakeup_fd(former if now == ours else now)  # somebody else may have come meanwhile


def _read(reading: socket.socket, former: int) -> None:
    numbers = reading.recv(4096)
    if former != _NONE:  # asyncio's own, say, where the process has handlers of its own
        with suppress(OSError):
            os.write(former, numbers)
    if signal.SIGTERM in numbers:
        for tell in _listeners:
            tell()
