"""The HAProxy process of a gateway's directory: started, found again, reloaded, stopped."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from prefect_modeldeploy.errors import GatewayError
from prefect_modeldeploy.traffic.access_log import ACCESS_LOG
from prefect_modeldeploy.traffic.admin import SOCKET, AdminSocket, Workers
from prefect_modeldeploy.traffic.binary import find_haproxy
from prefect_modeldeploy.traffic.haproxy_config import DIRECT_SOCKET, LOG_FD, ROUTES, SECRETS, SHADOWS, Rendered

CONFIG = "haproxy.cfg"
MESSAGES = "haproxy.log"
"""What HAProxy itself says: starts, reloads, servers that go up and down."""

_MESSAGES_BYTES = 8 << 20
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0


class HaproxyProcess:
    """A master and its workers, in a session of their own, so that they outlive whoever started them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.admin = AdminSocket(directory)
        self._child: subprocess.Popen[bytes] | None = None

    async def workers(self) -> Workers | None:
        """Which processes run; None when HAProxy does not."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None  # reaped
        return await self.admin.workers()

    async def check(self, rendered: Rendered) -> None:
        """Let HAProxy read a configuration without running it; nothing is changed.

        Raises:
            GatewayError: It is refused, with HAProxy's own words.
        """
        self.prepare()
        for name, content in rendered.maps.items():  # a map must exist to be read
            if not (self.directory / name).exists():
                write(self.directory / name, _lines(content))
        candidate = self.directory / f"{CONFIG}.new"
        write(candidate, rendered.config)
        checker = await asyncio.create_subprocess_exec(
            find_haproxy(),
            *("-c", "-f", candidate.name),
            cwd=self.directory,
            env=self._environment(0),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await checker.communicate()
        candidate.unlink()
        if checker.returncode:
            raise GatewayError(f"HAProxy refuses the configuration: {_alerts(said.decode(errors='replace'))}")

    def write(self, rendered: Rendered) -> None:
        """Put the files in place, so that the next start or reload runs them."""
        for name, content in rendered.maps.items():
            write(self.directory / name, _lines(content))
        write(self.directory / CONFIG, rendered.config)

    def save(self) -> dict[Path, bytes]:
        """The files in place, for `restore`."""
        return {
            path: path.read_bytes()
            for name in (CONFIG, ROUTES, SECRETS, SHADOWS)
            if (path := self.directory / name).exists()
        }

    def restore(self, saved: Mapping[Path, bytes]) -> None:
        """Put saved files back."""
        for path, content in saved.items():
            write(path, content.decode())

    async def start(self) -> Workers:
        """Start HAProxy on the files in place and wait until it accepts.

        Raises:
            GatewayError: It did not start (e.g. the port is taken), with its own words.
        """
        self.prepare()
        for socket in (SOCKET, "worker.sock", DIRECT_SOCKET):
            (self.directory / socket).unlink(missing_ok=True)
        messages = self.directory / MESSAGES
        with contextlib.ExitStack() as files:
            output = files.enter_context(messages.open("ab"))
            if output.tell() > _MESSAGES_BYTES:
                output.truncate(0)
            said_before = output.tell()
            log = files.enter_context((self.directory / ACCESS_LOG).open("ab")).fileno()
            self._child = subprocess.Popen(  # noqa: ASYNC220 it returns at once and outlives the loop
                [find_haproxy(), "-W", "-f", CONFIG, "-S", f"unix@{SOCKET},mode,600"],
                cwd=self.directory,
                env=self._environment(log),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(log,),
                start_new_session=True,
            )
        child = self._child
        try:
            return await self._until_it_accepts(child, said_before)
        except BaseException:
            child.kill()  # its workers end with it
            raise

    async def _until_it_accepts(self, child: subprocess.Popen[bytes], said_before: int) -> Workers:
        messages = self.directory / MESSAGES
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                said = messages.read_bytes()[said_before:].decode(errors="replace")
                raise GatewayError(f"HAProxy did not start: {_alerts(said)}")
            workers = await self.admin.workers()
            if workers is not None and workers.current is not None:
                return workers
            await asyncio.sleep(0.01)
        raise GatewayError(f"HAProxy did not answer within {_START_SECONDS:g} s; see {messages}")

    async def reload(self, before: Workers) -> Workers:
        """Make a new worker run the files in place; the old one finishes its requests. No connection is refused.

        Raises:
            GatewayError: HAProxy refused; the old worker goes on as before.
        """
        answer = await self.admin.ask("reload", timeout=_START_SECONDS)
        if "Success=0" in answer:
            raise GatewayError(f"HAProxy could not reload: {_alerts(answer)}")
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:  # before 2.7 it does not say when it is done
            workers = await self.admin.workers()
            if workers is not None and workers.current not in (None, before.current):
                return workers
            await asyncio.sleep(0.01)
        raise GatewayError(f"HAProxy did not reload within {_START_SECONDS:g} s; see {self.directory / MESSAGES}")

    async def stop(self, grace: float) -> None:
        """Stop accepting, let requests in flight finish for up to `grace` seconds, then end."""
        workers = await self.workers()
        if workers is None:
            return
        family = [psutil.Process(pid) for pid in (workers.master, *workers.all) if psutil.pid_exists(pid)]
        _send(signal.SIGUSR1, family[:1])
        await self._answered(workers, grace)
        for number, targets in ((signal.SIGTERM, family[:1]), (signal.SIGKILL, family)):
            _send(number, targets)
            if await self._gone(family, _STOP_SECONDS):
                return
        raise GatewayError(f"HAProxy (process {workers.master}) cannot be stopped")

    async def _answered(self, workers: Workers, grace: float) -> None:
        """Wait for the requests in flight; idle connections, which a soft stop would wait for too, do not count."""
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            if not await self._is_answering(workers):
                return
            await asyncio.sleep(0.02)

    async def _is_answering(self, workers: Workers) -> bool:
        for worker in workers.all:
            rows = await self.admin.statistics(worker)
            if any(row["svname"] == "BACKEND" and int(row["scur"] or 0) for row in rows):
                return True
        return False

    async def _gone(self, family: list[psutil.Process], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            if self._child is not None and self._child.poll() is not None:
                self._child = None
            if not any(map(_lives, family)):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)

    def prepare(self) -> None:
        """Make the directory, readable by nobody else."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)

    def _environment(self, log: int) -> dict[str, str]:
        return {**os.environ, LOG_FD: str(log)}


def write(path: Path, content: str) -> None:
    """Replace a file at once; mode 0600."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(content)
    temporary.replace(path)


def _lines(content: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in content.items())


def _send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _alerts(said: str) -> str:
    """The lines that matter of what HAProxy said."""
    lines = said.strip().splitlines()
    return "\n".join([line for line in lines if "[ALERT]" in line] or lines[-20:]) or "it said nothing"
