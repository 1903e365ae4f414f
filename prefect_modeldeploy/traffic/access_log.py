"""The access log: one line a request. This reads it.

Fields, separated by one space, `-` where there is none:

    generation start end endpoint:split arm upstream server status termination retries

`start` (head read) and `end` (last byte of the answer sent) are microseconds since the epoch; `split` is what was asked
for when the arm was chosen, `stable=9000,canary=1000` in steps of 0.01 %; it ends in `~` when a sticky header chose the
arm, in `!` when a header named it, in `^` when the request was shadowed; `termination` is HAProxy's two letters (its
manual, section 8.5); `generation` tells apart the workers that wrote the line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prefect_modeldeploy.measurements import bucket_of

ACCESS_LOG = "access.log"

STICKY, FORCED, SHADOWED = "~", "!", "^"
"""End of a split whose arm was not chosen at random: by the hash of a sticky header, by name, as it was shadowed."""

_FIELDS = 7


@dataclass(frozen=True, slots=True)
class Kind:
    """What a line says, but for the times."""

    generation: str
    endpoint: str | None
    arm: str | None
    split: str | None
    upstream: str | None
    server: str | None
    status: int
    termination: str
    retries: int
    forced: bool
    shadowed: bool = False


@dataclass(slots=True)
class Times:
    """When the requests of one kind were, and how long they took. Seconds since the epoch; `{bucket: count}`."""

    count: int = 0
    start: float = float("inf")
    end: float = 0.0
    latency: dict[int, int] = field(default_factory=dict)


def tally(lines: Iterable[str]) -> list[tuple[Kind, Times]]:
    """Count lines by kind. There are few kinds, so a line costs little; other lines (HAProxy's own) are left out."""
    groups: dict[tuple[str, str], Times] = {}
    for line in lines:
        try:
            generation, began, ended, rest = line.split(" ", 3)
            end = int(ended)
            start = end if began == "-" else int(began)
        except ValueError:
            continue
        times = groups.get((generation, rest))
        if times is None:
            times = groups[generation, rest] = Times()
        times.count += 1
        if start < times.start:
            times.start = start
        if end > times.end:
            times.end = end
        bucket = bucket_of((end - start) / 1e6)
        times.latency[bucket] = times.latency.get(bucket, 0) + 1
    found = []
    for (generation, rest), times in groups.items():
        kind = _kind(generation, rest)
        if kind is not None:
            times.start, times.end = times.start / 1e6, times.end / 1e6
            found.append((kind, times))
    return found


def read_lines(path: Path, offset: int, limit: int) -> tuple[list[str], int]:
    """Whole lines from an offset on, up to about `limit` bytes, and the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        chunk = file.read(limit)
    end = chunk.rfind(b"\n") + 1
    return chunk[:end].decode(errors="replace").splitlines(), offset + end


def _kind(generation: str, rest: str) -> Kind | None:
    fields = rest.split(" ")
    if len(fields) != _FIELDS:
        return None
    asked, arm, upstream, server, status, termination, retries = fields
    endpoint, _, split = asked.partition(":")
    try:
        return Kind(
            generation=generation,
            endpoint=_or_none(endpoint),
            arm=_or_none(arm),
            split=split.rstrip(FORCED + SHADOWED) or None,
            upstream=upstream if upstream.lower() == upstream else None,  # upper case: one of our own
            server=_or_none(server.replace("<NOSRV>", "-")),
            status=int(status),
            termination=termination,
            retries=int(retries.lstrip("+")),
            forced=split.endswith(FORCED),
            shadowed=split.endswith(SHADOWED),
        )
    except ValueError:
        return None


def _or_none(field: str) -> str | None:
    return None if field == "-" else field
