"""One line of the access log a request; this reads them.

Fields, separated by one space, `-` where there is none:

    generation start end endpoint arm split upstream server status termination retries forced

`start` (head read) and `end` (last byte of the answer sent) are microseconds since the epoch; `split` is what was asked
for when the arm was chosen, `stable=9000,canary=1000` in steps of 0.01 %; `termination` is HAProxy's two letters (its
manual, section 8.5); `generation` tells apart the workers that wrote the line.
"""

from dataclasses import dataclass
from pathlib import Path

ACCESS_LOG = "access.log"

_FIELDS = 12


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the proxy saw it. Times are seconds since the epoch."""

    generation: str
    start: float | None
    end: float
    endpoint: str | None
    arm: str | None
    split: str | None
    upstream: str | None
    server: str | None
    status: int
    termination: str
    retries: int
    forced: bool

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, self.end - self.start) if self.start is not None else 0.0


def parse(line: str) -> Request | None:
    """Read one line; None when it is not one of ours (HAProxy logs its own starts and stops there, too)."""
    fields = line.split(" ")
    if len(fields) != _FIELDS:
        return None
    generation, start, end, endpoint, arm, split, upstream, server, status, termination, retries, forced = fields
    try:
        return Request(
            generation=generation,
            start=int(start) / 1e6 if start != "-" else None,
            end=int(end) / 1e6,
            endpoint=_or_none(endpoint),
            arm=_or_none(arm),
            split=_or_none(split),
            upstream=upstream if upstream.lower() == upstream else None,
            server=server if server != "<NOSRV>" else None,
            status=int(status),
            termination=termination,
            retries=int(retries.lstrip("+")),
            forced=forced == "1",
        )
    except ValueError:
        return None


def read_lines(path: Path, offset: int, limit: int) -> tuple[list[str], int]:
    """Whole lines from an offset on, up to about `limit` bytes, and the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        chunk = file.read(limit)
    end = chunk.rfind(b"\n") + 1
    return chunk[:end].decode(errors="replace").splitlines(), offset + end


def _or_none(field: str) -> str | None:
    return None if field == "-" else field
