"""A process that has imported what models import, and forks replicas from itself: awake in milliseconds, not seconds.

It only imports, and it forks only while it has a single thread: forked locks and thread pools do not work. It ends when
the node does (its channel, one end of a socket pair, closes); its replicas live on.

    {"import": [names]}               -> {"imported": n}
    {"fork": {"env", "directory"}}    -> {"pid": n}, or {"error": text}; with three file descriptors: standard input,
                                         log, listening socket
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import server

_LARGEST_MESSAGE = 1 << 20


def _import(names: Iterable[str]) -> int:
    """Import what can be imported; a model that needs the rest imports it itself and says why it fails."""
    imported = 0
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            print(f"zygote: cannot preload {name}: {error!r}", file=sys.stderr, flush=True)
        else:
            imported += 1
    gc.collect()
    gc.freeze()  # the collector touches nothing older, so that forks go on sharing these pages
    return imported


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _obey(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Do what the node asks. Returns in a child, with what it shall become; None when the node is gone."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, _LARGEST_MESSAGE, 3)
        if not message:
            return None
        request = json.loads(message)
        if "import" in request:
            answer: dict[str, Any] = {"imported": _import(request["import"])}
        elif _threads() > 1:
            answer = {"error": f"{_threads()} threads run: a module that was preloaded started them"}
        else:
            pid = os.fork()
            if pid == 0:
                return request["fork"], fds
            answer = {"pid": pid}
        for fd in fds:
            os.close(fd)
        channel.send(json.dumps(answer).encode())


def _become(job: dict[str, Any], fds: list[int]) -> socket.socket:
    """Turn the forked copy into what a fresh process would be, and return its listening socket."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdin, log, listener = fds
    for source, target in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(stdin)
    os.close(log)
    os.environ.update(job["env"])
    os.chdir(job["directory"])
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # else all replicas would draw the same numbers
        numpy_random.seed()
    return socket.socket(fileno=listener)


def serve(channel: socket.socket) -> None:
    """Do what the node asks on this channel, until it closes; in a child, serve a model."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the children
    job = _obey(channel)
    channel.close()
    if job is not None:
        server.serve(_become(*job))
