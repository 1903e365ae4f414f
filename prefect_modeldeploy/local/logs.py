"""The logs of replicas: one file per replica, the last few kept."""

import shutil
from collections.abc import Collection
from pathlib import Path

TAIL_LINES, TAIL_BYTES = 20, 4_000
"""How much of a log is kept in the reason of a failure."""

KEPT_FILES = 5
MAX_FILE_BYTES = 16 * 1024 * 1024


def tail(log: Path, lines: int = TAIL_LINES, limit: int = TAIL_BYTES) -> str:
    """The last lines of a file, at most `limit` bytes of them; empty if there is no file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def replica_log(directory: Path, deployment: str, replica: str) -> Path:
    """The file that a replica writes to."""
    return directory / deployment / f"{replica}.log"


def deployment_log(directory: Path, deployment: str, lines: int) -> str:
    """The last lines of a deployment's replicas, each under its name, the newest replica last."""
    parts: list[str] = []
    for log in reversed(_files(directory / deployment)):
        room = lines - sum(part.count("\n") + 1 for part in parts)
        if room < 2:
            break
        parts.append(f"--- {log.stem}\n{tail(log, room - 1, limit=1024 * 1024)}")
    return "\n".join(reversed(parts))


def keep_few(directory: Path, deployment: str, alive: Collection[str]) -> None:
    """Delete the logs of all but the last replicas that have ended."""
    ended = [log for log in _files(directory / deployment) if log.stem not in alive]
    for log in ended[:-KEPT_FILES]:
        log.unlink(missing_ok=True)


def forget_logs(directory: Path, deployment: str) -> None:
    """Delete all logs of a deployment: its name may be used again."""
    shutil.rmtree(directory / deployment, ignore_errors=True)


def bound_size(log: Path) -> None:
    """Keep only the end of a log that has grown too large; its writer appends, and goes on unharmed."""
    if log.exists() and log.stat().st_size > MAX_FILE_BYTES:
        end = tail(log, lines=10_000, limit=MAX_FILE_BYTES // 16)
        with log.open("r+b") as file:
            file.truncate(0)
            file.write(f"(older lines dropped)\n{end}\n".encode())


def _files(directory: Path) -> list[Path]:
    """Oldest first: replicas are numbered."""
    return sorted(directory.glob("r*.log"), key=lambda path: int(path.stem[1:]))
