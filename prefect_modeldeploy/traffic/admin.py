"""HAProxy's admin socket: one command, one answer, to the master or through it to any of its workers."""

import asyncio
import csv
import os
from dataclasses import dataclass
from pathlib import Path

from prefect_modeldeploy.errors import GatewayError

SOCKET = "admin.sock"
_LONGEST_PATH = 100
"""Bytes; a Unix socket's path may have 104 (macOS) to 108 (Linux), with the final NUL."""

_OLD_WORKER_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of a HAProxy: its master, the worker that accepts, and those that finish their last requests."""

    master: int
    current: int | None
    old: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every worker's process id, the current one first."""
        return (*((self.current,) if self.current else ()), *self.old)


class AdminSocket:
    """Talks to the master's socket in a gateway's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def ask(self, command: str, *, worker: int | None = None, timeout: float = 15.0) -> str:
        """Send one command and return the answer.

        Raises:
            GatewayError: Nobody listens, or no answer came in time. The command is not quoted, it may hold a secret.
        """
        if worker is not None:
            command = f"@!{worker} {command}"
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(command)
        except TimeoutError:
            raise GatewayError(f"HAProxy's admin socket in {self._directory} gave no answer in {timeout:g} s") from None
        except OSError as error:
            raise GatewayError(f"HAProxy's admin socket in {self._directory} cannot be reached: {error}") from error

    async def _exchange(self, command: str) -> str:
        path, descriptor = self._directory / SOCKET, None
        if len(os.fsencode(path)) > _LONGEST_PATH:
            path, descriptor = _short(self._directory)
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        finally:
            if descriptor is not None:
                os.close(descriptor)
        try:
            writer.write(command.encode() + b"\n")
            writer.write_eof()  # without it the master waits for more
            return (await reader.read()).decode(errors="replace").strip()
        finally:
            writer.close()

    async def do(self, command: str, *, worker: int) -> None:
        """Send a command that is silent when it worked.

        Raises:
            GatewayError: With HAProxy's own words.
        """
        if answer := await self.ask(command, worker=worker):
            raise GatewayError(f"HAProxy refused `{' '.join(command.split()[:3])} ...`: {answer}")

    async def ask_old(self, command: str, *, worker: int) -> str:
        """As `ask`, to a worker that may end at any moment: then the answer is empty.

        The master never answers a command that it passed on to a worker which ended before it took it.

        Raises:
            GatewayError: The worker is there, but does not answer.
        """
        asking = asyncio.ensure_future(self.ask(command, worker=worker))
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=_OLD_WORKER_POLL_SECONDS)
                if not asking.done() and not await self._has(worker):
                    return ""
            return asking.result()
        except GatewayError:
            if await self._has(worker):
                raise
            return ""
        finally:
            asking.cancel()

    async def _has(self, worker: int) -> bool:
        workers = await self.workers()
        return workers is not None and worker in workers.all

    async def workers(self) -> Workers | None:
        """Which processes run; None when no master listens.

        Raises:
            GatewayError: Somebody listens, but does not answer as HAProxy does.
        """
        try:
            answer = await self.ask("show proc")
        except GatewayError as error:
            if isinstance(error.__cause__, FileNotFoundError | ConnectionError):
                return None
            raise
        master, current, old, section = None, None, [], ""
        for line in answer.splitlines():
            if line.startswith("#"):
                section = line
            elif fields := line.split():
                if fields[1] == "master":
                    master = int(fields[0])
                elif section == "# workers":
                    current = int(fields[0])
                elif section == "# old workers":
                    old.append(int(fields[0]))
        if master is None:
            raise GatewayError(f"HAProxy's admin socket in {self._directory} answered {answer!r} to `show proc`")
        return Workers(master, current, tuple(old))

    async def servers(self, worker: int) -> dict[str, dict[str, str]]:
        """Address (`host:port`) of every server that a worker has, by backend and name."""
        answer = await self.ask("show servers state", worker=worker)
        table = answer.partition("\n# ")[2].splitlines()  # the first line is the format's version
        found: dict[str, dict[str, str]] = {}
        for row in csv.DictReader(filter(None, table), delimiter=" "):
            host, port = row["srv_addr"], row["srv_port"]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            found.setdefault(row["be_name"], {})[row["srv_name"]] = address
        return found

    async def backends(self, worker: int) -> set[str]:
        """Names of the backends that a worker has; none when it has ended meanwhile."""
        return {line for line in (await self.ask_old("show backend", worker=worker)).splitlines() if line[:1] != "#"}

    async def statistics(self, worker: int, backend: str = "-1") -> list[dict[str, str]]:
        """The rows of `show stat` for backends and their servers; none when the worker has ended meanwhile."""
        text = await self.ask_old(f"show stat {backend} 6 -1", worker=worker)
        return list(csv.DictReader(text.removeprefix("# ").splitlines())) if text.startswith("# pxname") else []


def _short(directory: Path) -> tuple[Path, int]:
    """A short path to a deep directory, good as long as the returned descriptor is open."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    short = Path(f"/proc/self/fd/{descriptor}")
    if not short.exists():
        os.close(descriptor)
        raise GatewayError(
            f"directory={str(directory)!r} is too deep for a Unix socket here; "
            f"choose one whose path has at most {_LONGEST_PATH - len(SOCKET) - 1} bytes"
        )
    return short / SOCKET, descriptor
