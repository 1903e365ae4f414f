"""The node's side of the zygotes: one per interpreter, learned from replicas what to preload."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prefect_modeldeploy.local.probe import ProbeFailed, get_json
from prefect_modeldeploy.local.store import Store

PROGRAMS = Path(__file__).with_name("programs")

PRELOADED = frozenset(sys.stdlib_module_names) | {
    "anyio",
    "click",
    "h11",
    "httptools",
    "idna",
    "joblib",
    "narwhals",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "sniffio",
    "threadpoolctl",
    "typing_extensions",
    "uvicorn",
    "uvloop",
}
"""Packages that are safe to import before a fork: they start no threads, open nothing and hold no device."""

_NOT_BEFORE_FORK = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_", "VECLIB_", "NUMEXPR_")
"""Variables that only work when they are set before the first import."""

_START_SECONDS, _FORK_SECONDS = 60.0, 5.0

_log = logging.getLogger(__name__)


class ZygoteFailed(Exception):
    """It could not fork; a fresh process can."""


class Zygote:
    """One zygote process."""

    def __init__(self, python: str, env: Mapping[str, str], log: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as file:
            self._child = subprocess.Popen(
                [python, str(PROGRAMS), "zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=dict(env),
                cwd=log.parent,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.setblocking(False)
        self._channel, self._turn = ours, asyncio.Lock()
        self.modules: frozenset[str] = frozenset()
        self.pid = self._child.pid

    @property
    def idle(self) -> bool:
        """True when a fork would be answered at once."""
        return bool(self.modules) and not self._turn.locked()

    async def preload(self, modules: Collection[str]) -> None:
        """Import more modules. Raises ZygoteFailed."""
        await self._ask({"import": sorted(modules)}, (), _START_SECONDS)
        self.modules |= frozenset(modules)

    async def fork(self, env: Mapping[str, str], directory: Path, fds: tuple[int, int, int]) -> int:
        """The pid of a new process with this standard input, log and listening socket. Raises ZygoteFailed."""
        answer = await self._ask({"fork": {"env": dict(env), "directory": str(directory)}}, fds, _FORK_SECONDS)
        if "pid" not in answer:
            raise ZygoteFailed(answer.get("error", "no answer"))
        return int(answer["pid"])

    async def _ask(self, request: Any, fds: tuple[int, ...], timeout: float) -> dict[str, Any]:
        async with self._turn:
            try:
                socket.send_fds(self._channel, [json.dumps(request).encode()], fds)
                async with asyncio.timeout(timeout):
                    raw = await asyncio.get_running_loop().sock_recv(self._channel, 1 << 16)
            except (OSError, TimeoutError) as error:
                raise ZygoteFailed(f"the zygote does not answer: {error!r}") from error
            if not raw:
                raise ZygoteFailed("the zygote has ended")
            answer: dict[str, Any] = json.loads(raw)
            return answer

    async def stop(self) -> None:
        """End it; its replicas live on."""
        self._channel.close()
        self._child.terminate()
        await asyncio.to_thread(self._child.wait)


class Zygotes:
    """A zygote for every interpreter that has served a model. Linux only; elsewhere there are none."""

    def __init__(self, store: Store, env: Mapping[str, str], log: Path) -> None:
        self._store, self._env, self._log_file = store, env, log
        self._zygotes: dict[str, Zygote] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def for_launch(self, python: str, env: Collection[str], threads: int) -> Zygote | None:
        """A zygote that can fork this replica now; None when a fresh process has to do."""
        if threads > 1 or any(name.startswith(_NOT_BEFORE_FORK) for name in env):
            return None
        zygote = self._zygotes.get(python)
        return zygote if zygote is not None and zygote.idle else None

    def warm(self, python: str) -> None:
        """Start the zygote of an interpreter with what earlier nodes have learned, if they have."""
        if sys.platform == "linux" and python not in self._zygotes and (known := self._known(python)):
            self._spawn(self._preload(python, known))

    def learn(self, python: str, port: int) -> None:
        """Ask a replica that has become ready what it has imported, and preload that."""
        if sys.platform == "linux":
            self._spawn(self._learn(python, port))

    async def discard(self, python: str, reason: str) -> None:
        """Give up a zygote that failed; the next replica that starts afresh makes another one."""
        _log.warning("the zygote of %s failed, replicas start afresh: %s", python, reason)
        if (zygote := self._zygotes.pop(python, None)) is not None:
            await zygote.stop()

    async def stop(self) -> None:
        """End all of them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(zygote.stop() for zygote in self._zygotes.values()))

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [zygote.pid for zygote in self._zygotes.values()]

    async def _learn(self, python: str, port: int) -> None:
        try:
            async with asyncio.timeout(5):
                _, answer = await get_json(port, "/-/modules")
        except (ProbeFailed, TimeoutError) as error:
            _log.info("nothing learned from the replica on port %d: %s", port, error)
            return
        seen = {name for name in answer["modules"] if name.partition(".")[0] in PRELOADED and name != "__main__"}
        known = self._known(python)
        if not seen <= known:
            self._store.put(f"modules:{python}", json.dumps(sorted(known | seen)))
        await self._preload(python, known | seen)

    async def _preload(self, python: str, modules: Collection[str]) -> None:
        zygote = self._zygotes.get(python)
        try:
            if zygote is None:
                zygote = self._zygotes[python] = Zygote(python, self._env, self._log_file)
            if not zygote.modules.issuperset(modules):
                await zygote.preload(modules)
        except (OSError, ZygoteFailed) as error:
            await self.discard(python, str(error))

    def _known(self, python: str) -> frozenset[str]:
        return frozenset(json.loads(self._store.get(f"modules:{python}") or "[]"))

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
