"""The directory of a node: what it keeps there, who may read it, and the lock that admits one node at a time."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pydantic import SecretStr

from prefect_modeldeploy.errors import NodeError

_LOOKS, _LOOK_SECONDS = 20, 0.025


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Where the running node is found."""

    pid: int
    control_url: str
    gateway_url: str
    remote_url: str | None = None


def default_home() -> Path:
    """`MODELDEPLOY_HOME`, else `~/.modeldeploy`."""
    return Path(os.environ.get("MODELDEPLOY_HOME") or Path.home() / ".modeldeploy")


class Home:
    """Paths and files of one node directory. Everything in it is for its owner only."""

    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = Path(directory or default_home()).expanduser().resolve()
        self.database = self.directory / "node.sqlite"
        self.gateway = self.directory / "gateway"
        self.replica_logs = self.directory / "logs"
        self.node_log = self.directory / "node.log"
        self._token, self._info, self._lock = (self.directory / n for n in ("token", "node.json", "lock"))

    def prepare(self) -> None:
        """Make the directories, mode 0700. Raises NodeError if that is not possible."""
        try:
            for directory in (self.directory, self.gateway, self.replica_logs):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise NodeError(f"home={self.directory}: cannot be used ({error}); set MODELDEPLOY_HOME") from error

    def token(self) -> SecretStr:
        """The control API's token; made at the first call, in a file of mode 0600."""
        self.prepare()
        if not self._token.exists():
            draft = self._token.with_suffix(f".{secrets.token_hex(8)}")
            _write_private(draft, secrets.token_urlsafe(32))
            with suppress(FileExistsError):  # another process was faster: its token counts
                os.link(draft, self._token)
            draft.unlink()
        return SecretStr(self._token.read_text())

    def read_node(self) -> NodeInfo | None:
        """What the last node wrote when it was ready; it may have died since."""
        try:
            return NodeInfo(**json.loads(self._info.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            raise NodeError(f"{self._info} is damaged ({error}); delete it, the next node writes it again") from error

    def write_node(self, info: NodeInfo) -> None:
        """Tell clients where the node is; they see the old file or the new one, never half of one."""
        draft = self._info.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        _write_private(draft, json.dumps(asdict(info)))
        draft.replace(self._info)

    def forget_node(self) -> None:
        """Remove what `write_node` wrote."""
        self._info.unlink(missing_ok=True)

    def holder(self) -> int | None:
        """The pid of the node that holds the directory; None if none does. Raises NodeError if the pid is not told."""
        for _ in range(_LOOKS):
            try:
                with self._lock.open() as file, _flock(file, exclusive=False) as free:
                    said = file.read().strip()
            except FileNotFoundError:
                return None
            if free:
                return None
            if said.isdecimal() and int(said) > 1:
                return int(said)
            time.sleep(_LOOK_SECONDS)  # it holds the lock and is about to write its pid
        raise NodeError(f"{self._lock} is held, but does not say by whom")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory; the kernel frees it when the process ends, however it ends.

        Raises:
            NodeError: another node holds it; the message names its pid.
        """
        self.prepare()
        with self._lock.open("a+") as file:
            for _ in range(_LOOKS):  # somebody may be looking at it (see `holder`), which takes microseconds
                with _flock(file, exclusive=True) as held:
                    if held:
                        file.truncate(0)
                        file.write(str(os.getpid()))
                        file.flush()
                        yield
                        return
                time.sleep(_LOOK_SECONDS)
            file.seek(0)
            hint = "use it, stop it, or name another --home"
            raise NodeError(f"home={self.directory}: a node runs there already (pid {file.read().strip()}); {hint}")


@contextmanager
def _flock(file: IO[str], *, exclusive: bool) -> Iterator[bool]:
    """Try to lock a file; yields whether that worked."""
    import fcntl  # POSIX only, and only the node needs it: clients run anywhere

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
