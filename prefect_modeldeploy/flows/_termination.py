"""Hears that the process is told to end, wherever SIGTERM strikes.

Prefect raises an exception in whatever the process does just then. Where that is a callback of the event loop, or a
task that nobody waits for, asyncio logs the exception and everything goes on. Python itself also writes the number of
each signal to a socket, if it is given one; that is read here.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

_NONE = -1
"""What Python calls the socket when there is none."""

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
def once() -> Iterator[None]:
    """Let no further SIGTERM raise anything while the block lasts: it ends what the first one has begun."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _nothing(*_: object) -> None:
    """Not SIG_IGN, which a process that is started meanwhile would inherit."""


@contextmanager
def _signals() -> Iterator[None]:
    loop = asyncio.get_running_loop()
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        former = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            with suppress(NotImplementedError):  # as of the event loop of Windows, which has no SIGTERM either
                loop.add_reader(reading, _read, reading, former)
            yield
        finally:
            with suppress(NotImplementedError):
                loop.remove_reader(reading)
            _given_back(writing, former)


def _given_back(writing: socket.socket, former: int) -> None:
    now = signal.set_wakeup_fd(_NONE)
    signal.set_wakeup_fd(former if now == writing.fileno() else now)  # somebody else may have come meanwhile


def _read(reading: socket.socket, former: int) -> None:
    numbers = reading.recv(4096)
    if former != _NONE:  # asyncio's own, say, where the process has handlers of its own
        with suppress(OSError):
            os.write(former, numbers)
    if signal.SIGTERM in numbers:
        for tell in _listeners:
            tell()


def _in_child() -> None:
    """What a forked process is told is not for us."""
    if _listeners:
        signal.set_wakeup_fd(_NONE)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_in_child)
