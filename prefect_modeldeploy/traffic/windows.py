"""What each arm experienced, from the access log into SQLite: exactly once, whoever dies in between."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefect_modeldeploy.measurements import Arm, Histogram, Quality, Window
from prefect_modeldeploy.traffic.access_log import STICKY, Kind, Times, read_lines, tally
from prefect_modeldeploy.traffic.outcomes import ALARM, outcome_of
from prefect_modeldeploy.traffic.sparse import give_back

_SCHEMA = """
CREATE TABLE IF NOT EXISTS traffic_logs (name TEXT PRIMARY KEY, offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS traffic_windows (
    seq INTEGER NOT NULL, endpoint TEXT NOT NULL, split TEXT NOT NULL, arm TEXT NOT NULL,
    start REAL NOT NULL, end REAL NOT NULL,
    requests INTEGER NOT NULL, failures INTEGER NOT NULL, retries INTEGER NOT NULL,
    statuses TEXT NOT NULL, excluded TEXT NOT NULL, latency TEXT NOT NULL,
    PRIMARY KEY (seq, endpoint, split, arm)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS traffic_windows_by_endpoint ON traffic_windows (endpoint, seq);
CREATE TABLE IF NOT EXISTS traffic_last_request (upstream TEXT PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS traffic_responses (
    generation TEXT NOT NULL, upstream TEXT NOT NULL, responses INTEGER NOT NULL, PRIMARY KEY (generation, upstream)
);
CREATE TABLE IF NOT EXISTS traffic_sequence (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL);
INSERT OR IGNORE INTO traffic_sequence VALUES (1, 0);
"""

_CHUNK = 1 << 19
_GIVE_BACK = 64 << 20
_GENERATIONS = 100
"""Workers of the proxy whose responses are remembered."""

PAGE = 1000
"""Windows that one read returns, about; fewer mean that there are no more."""


@dataclass(slots=True)
class ArmCounts:
    """What one arm experienced under one split.

    Args:
        requests: Requests that count (see `outcomes`).
        failures: Those of them that failed.
        statuses: Answers by class (`2xx`), of the requests that count; `none` where there was no answer.
        excluded: Requests that do not count, by reason.
        retries: Times that the proxy sent a request again.
        latency: `{bucket: count}` of the requests that count.
        start: First head read, seconds since the epoch.
        end: Last answer sent, seconds since the epoch.
    """

    requests: int = 0
    failures: int = 0
    retries: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)
    start: float = float("inf")
    end: float = 0.0

    def count(self, kind: Kind, times: Times) -> None:
        """Add requests of one kind."""
        outcome = outcome_of(kind)
        self.start, self.end = min(self.start, times.start), max(self.end, times.end)
        self.retries += kind.retries * times.count
        if outcome.excluded:
            self.excluded[outcome.excluded] += times.count
            return
        self.requests += times.count
        self.failures += times.count if outcome.failed else 0
        self.statuses[f"{kind.status // 100}xx" if kind.status >= 100 else "none"] += times.count
        self.latency.update(times.latency)

    def add(self, other: "ArmCounts") -> None:
        """Add what another window counted."""
        self.requests += other.requests
        self.failures += other.failures
        self.retries += other.retries
        self.statuses.update(other.statuses)
        self.excluded.update(other.excluded)
        self.latency.update(other.latency)
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)

    def to_arm(self) -> Arm:
        """The same for the analysis."""
        return Arm(self.requests, self.failures, Histogram(dict(self.latency)), self._agreement())

    def _agreement(self) -> Quality | None:
        """Of the copies that this arm got as a shadow; one that it failed to answer is no agreement."""
        agreed = self.excluded["shadow_equal"] + self.excluded["shadow_close"]
        compared = agreed + self.excluded["shadow_different"] + self.excluded["shadow_failed"]
        return Quality(compared=compared, agreed=agreed) if compared else None


@dataclass(frozen=True, slots=True)
class EndpointWindow:
    """What the arms of an endpoint experienced in one stretch of time under one split.

    Args:
        id: Unique, and ordered in time within an endpoint.
        endpoint: Whose arms.
        weights: Percent that was asked for, by arm.
        arms: Counts by arm; an arm that got no request is absent.
        sticky: Their sticky header chose the arm, so that a client with many requests moves the split.
        former_end: When the window before it ended, seconds since the epoch; None for the first one.
    """

    id: str
    endpoint: str
    weights: Mapping[str, float]
    arms: Mapping[str, ArmCounts]
    sticky: bool = False
    former_end: float | None = None

    @property
    def start(self) -> float:
        """Seconds since the epoch."""
        return min(arm.start for arm in self.arms.values())

    @property
    def end(self) -> float:
        """Seconds since the epoch."""
        return max(arm.end for arm in self.arms.values())

    @property
    def seconds(self) -> float:
        """Length of the stretch of time, pauses without a request included: since the former window ended."""
        return max(0.0, self.end - (self.start if self.former_end is None else self.former_end))

    def to_window(self, canary: str = "canary", baseline: str = "stable") -> Window | None:
        """The same for the analysis; None when neither arm has a request that counts: no data is no window.

        The share of sticky requests is unknown: clients were split as asked, not their requests.
        """
        empty = ArmCounts()
        ours, theirs = self.arms.get(canary, empty).to_arm(), self.arms.get(baseline, empty).to_arm()
        if ours.requests + theirs.requests == 0 and ours.quality is None:
            return None
        share = self.weights[canary] / 100 if canary in self.weights and not self.sticky else None
        return Window(id=self.id, canary=ours, baseline=theirs, seconds=self.seconds, share=share)


class WindowStore:
    """Windows of measurements in a SQLite database.

    The connection must have no transaction open when a method is called, and be used by one thread at a time.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._alarms: Counter[str] = Counter()
        connection.executescript(_SCHEMA)

    def ingest(self, logs: Iterable[Path], *, max_bytes: int = _CHUNK) -> int:
        """Count what was logged since the last call, up to `max_bytes` of each log; returns the number of lines.

        Rows and offsets are committed together: a reader that dies loses nothing and counts nothing twice. The disk
        space of what has been counted is given back, 64 MiB at a time.
        """
        done = 0
        for log in logs:
            if not log.exists():
                continue
            offset = self.offset(log)
            size = log.stat().st_size
            if size < offset:  # somebody has deleted it, and the proxy was started on a new one
                offset = 0
            if size == offset:
                continue
            lines, after = read_lines(log, offset, max_bytes)
            if after > offset:
                self._commit(log, lines, after)
                done += len(lines)
            if after // _GIVE_BACK > offset // _GIVE_BACK:
                give_back(log, after)
        return done

    def take_alarms(self) -> Counter[str]:
        """How often each upstream refused its credentials (401, 403) in what was ingested since the last call."""
        taken, self._alarms = +self._alarms, Counter()
        return taken

    def add(self, counts: Mapping[tuple[str, str, str], ArmCounts]) -> None:
        """Keep what was counted elsewhere than in a log, by endpoint, split and arm."""
        if not counts:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(counts)
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()

    def offset(self, log: Path) -> int:
        """Bytes of a log that have been counted."""
        row = self._db.execute("SELECT offset FROM traffic_logs WHERE name = ?", (log.name,)).fetchone()
        return int(row[0]) if row else 0

    def read(
        self, endpoint: str, *, after: int = 0, since: float = 0.0, limit: int = PAGE
    ) -> tuple[list[EndpointWindow], int]:
        """Windows of an endpoint after a cursor, and the next cursor.

        Args:
            endpoint: Whose.
            after: Cursor that a former call returned; 0 for the beginning.
            since: Only windows that ended after this, in seconds since the epoch.
            limit: About how many windows at most; those of one ingest stay together.
        """
        sequences = [
            row[0]
            for row in self._db.execute(
                "SELECT DISTINCT seq FROM traffic_windows WHERE endpoint = ? AND seq > ? AND end > ? "
                "ORDER BY seq LIMIT ?",
                (endpoint, after, since, limit),
            )
        ]
        if not sequences:
            return [], after
        rows = self._db.execute(
            "SELECT seq, split, arm, start, end, requests, failures, retries, statuses, excluded, latency "
            "FROM traffic_windows WHERE endpoint = ? AND seq BETWEEN ? AND ? ORDER BY seq",
            (endpoint, sequences[0], sequences[-1]),
        )
        grouped: dict[tuple[int, str], dict[str, ArmCounts]] = {}
        for seq, split, arm, *counts in rows:
            grouped.setdefault((seq, split), {})[arm] = _counts(counts)
        ordered = sorted(grouped.items(), key=lambda item: (item[0][0], min(arm.start for arm in item[1].values())))
        windows, places, former = list[EndpointWindow](), Counter[int](), self._last_end(endpoint, sequences[0])
        for (seq, split), arms in ordered:
            places[seq] += 1  # numbered within its ingest: the id does not depend on where a reader began
            id = f"{endpoint}:{seq:012d}:{places[seq]:04d}"
            windows.append(EndpointWindow(id, endpoint, weights_of(split), arms, STICKY in split, former))
            former = windows[-1].end
        return windows, sequences[-1]

    def _last_end(self, endpoint: str, before: int) -> float | None:
        """When the window before a sequence number ended; None if there is none."""
        row = self._db.execute(
            "SELECT max(end) FROM traffic_windows WHERE endpoint = ? AND seq = "
            "(SELECT max(seq) FROM traffic_windows WHERE endpoint = ? AND seq < ?)",
            (endpoint, endpoint, before),
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def summary(self, endpoint: str, *, since: float = 0.0) -> dict[str, ArmCounts]:
        """Sum by arm of every window that ended after `since` (seconds since the epoch), whatever the split."""
        found: dict[str, ArmCounts] = {}
        for arm, *counts in self._db.execute(
            "SELECT arm, start, end, requests, failures, retries, statuses, excluded, latency "
            "FROM traffic_windows WHERE endpoint = ? AND end >= ?",
            (endpoint, since),
        ):
            found.setdefault(arm, ArmCounts()).add(_counts(counts))
        return found

    def cursor(self) -> int:
        """The cursor after everything that has been counted: windows from now on."""
        return int(self._db.execute("SELECT last FROM traffic_sequence").fetchone()[0])

    def last_request(self, upstream: str) -> float | None:
        """When an upstream last finished a request, by whatever way it came; seconds since the epoch."""
        row = self._db.execute("SELECT at FROM traffic_last_request WHERE upstream = ?", (upstream,)).fetchone()
        return float(row[0]) if row else None

    def difference(self, generation: str, counted: Mapping[str, int]) -> dict[str, int]:
        """What the proxy counted and the log did not, by upstream; all zero when nothing is lost.

        An answer that is still being sent is counted already and logged at its end, so look when nothing is in flight.

        Args:
            generation: Which worker, as `Gateway.responses` says.
            counted: Its responses by upstream, as `Gateway.responses` says.
        """
        rows = self._db.execute("SELECT upstream, responses FROM traffic_responses WHERE generation = ?", (generation,))
        logged = dict(rows.fetchall())
        return {upstream: count - logged.get(upstream, 0) for upstream, count in counted.items()}

    def forget(self, *, before: float | None = None) -> int:
        """Delete windows that ended before a time (default: 24 hours ago); returns how many rows."""
        limit = time.time() - 86_400 if before is None else before
        with self._db:
            self._db.execute(
                "DELETE FROM traffic_responses WHERE generation NOT IN "
                "(SELECT DISTINCT generation FROM traffic_responses ORDER BY generation DESC LIMIT ?)",
                (_GENERATIONS,),
            )
            return self._db.execute("DELETE FROM traffic_windows WHERE end < ?", (limit,)).rowcount

    def _commit(self, log: Path, lines: list[str], after: int) -> None:
        windows: dict[tuple[str, str, str], ArmCounts] = {}
        last: dict[str, float] = {}
        responses: Counter[tuple[str, str]] = Counter()
        for kind, times in tally(lines):
            key = (kind.endpoint or "-", kind.split or "-", kind.arm or "-")
            windows.setdefault(key, ArmCounts()).count(kind, times)
            if kind.upstream:
                self._alarms[kind.upstream] += times.count if outcome_of(kind).excluded == ALARM else 0
                last[kind.upstream] = max(last.get(kind.upstream, 0.0), times.end)
                if kind.status >= 100:
                    responses[kind.generation, kind.upstream] += times.count
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(windows)
            self._db.executemany(
                "INSERT INTO traffic_last_request VALUES (?, ?) "
                "ON CONFLICT (upstream) DO UPDATE SET at = max(at, excluded.at)",
                last.items(),
            )
            self._db.executemany(
                "INSERT INTO traffic_responses VALUES (?, ?, ?) "
                "ON CONFLICT (generation, upstream) DO UPDATE SET responses = responses + excluded.responses",
                [(generation, upstream, count) for (generation, upstream), count in responses.items()],
            )
            self._db.execute("INSERT OR REPLACE INTO traffic_logs VALUES (?, ?)", (log.name, after))
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()

    def _insert(self, windows: Mapping[tuple[str, str, str], ArmCounts]) -> None:
        self._db.execute("UPDATE traffic_sequence SET last = last + 1")
        seq = self.cursor()
        self._db.executemany(
            "INSERT INTO traffic_windows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(seq, endpoint, split, arm, c.start, c.end, c.requests, c.failures, c.retries),
                    *(json.dumps(c.statuses), json.dumps(c.excluded), json.dumps(c.latency)),
                )
                for (endpoint, split, arm), c in windows.items()
            ],
        )


def weights_of(split: str) -> dict[str, float]:
    """Percent by arm of a logged split, `stable=9000,canary=1000`."""
    if "=" not in split:
        return {}
    pairs = (part.split("=") for part in split.rstrip(STICKY).split(","))
    return {arm: int(steps) / 100 for arm, steps in pairs}


def _counts(row: list[object]) -> ArmCounts:
    start, end, requests, failures, retries, statuses, excluded, latency = row
    assert isinstance(start, float)
    assert isinstance(end, float)
    assert isinstance(requests, int)
    assert isinstance(failures, int)
    assert isinstance(retries, int)
    return ArmCounts(
        requests=requests,
        failures=failures,
        retries=retries,
        statuses=Counter(json.loads(str(statuses))),
        excluded=Counter(json.loads(str(excluded))),
        latency=Counter({int(bucket): count for bucket, count in json.loads(str(latency)).items()}),
        start=start,
        end=end,
    )
