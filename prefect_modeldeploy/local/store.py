"""What the node must remember: deployments, replicas, endpoints, arms and the audit, in one SQLite file (WAL).

The file has mode 0600: arms hold credentials of vendors.
A commit survives the death of the node; after a power cut the last commits may be gone, the file is whole.
"""

import json
import platform
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.errors import NodeError
from prefect_modeldeploy.local.tokens import Token
from prefect_modeldeploy.traffic.arm import RemoteArm
from prefect_modeldeploy.traffic.endpoint import Endpoint

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deployments (id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replicas (
    id INTEGER PRIMARY KEY AUTOINCREMENT, deployment TEXT NOT NULL, generation INTEGER NOT NULL, port INTEGER NOT NULL,
    pid INTEGER NOT NULL DEFAULT 0, started REAL NOT NULL DEFAULT 0, ready INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS endpoints (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arms (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, token TEXT, fresh_until REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, at TEXT NOT NULL, who TEXT NOT NULL, event TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS audit_by_endpoint ON audit (endpoint, id);
"""


class Mode(StrEnum):
    """What is wanted of a deployment."""

    RUNNING = "running"
    ZERO = "zero"
    STOPPED = "stopped"
    DELETING = "deleting"


@dataclass(slots=True)
class DeploymentRecord:
    """The desired state of one deployment."""

    spec: DeploymentSpec
    mode: Mode
    replicas: int
    generation: int = 1
    """Counts the changes that need new replicas."""
    proven: int = 0
    """The last generation that became ready; 0: none yet."""
    failure: str | None = None
    created_at: str = ""
    updated_at: str = ""

    @property
    def id(self) -> str:
        """The unique name."""
        return self.spec.name


@dataclass(slots=True)
class ReplicaRecord:
    """One replica process: who it is, and where it answers."""

    id: int
    deployment: str
    generation: int
    port: int
    pid: int = 0
    started: float = 0.0
    ready: bool = False

    @property
    def name(self) -> str:
        """Its name in the proxy, in logs and in the API."""
        return f"r{self.id}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of an endpoint's history."""

    id: int
    at: str
    who: str
    event: dict[str, Any]


def now() -> str:
    """This moment as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat()


class Store:
    """The file. Every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.execute("PRAGMA secure_delete=ON")  # credentials that are forgotten are overwritten
        self.connection.executescript(_SCHEMA)
        found = int(self.get("schema_version") or SCHEMA_VERSION)
        if found != SCHEMA_VERSION:
            self.close()
            raise NodeError(
                f"{path} has schema {found}, this version of prefect-modeldeploy reads {SCHEMA_VERSION}: upgrade it"
            )
        self.put("schema_version", str(SCHEMA_VERSION))

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def get(self, key: str) -> str | None:
        """A small fact about the node."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, value: str) -> None:
        """Remember a small fact about the node."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def place(self) -> str:
        """What tells this node from all others, by whatever address it is reached; made at the first call."""
        if self.get("place") is None:
            self.put("place", f"{platform.node()}-{secrets.token_hex(4)}")
        return str(self.get("place"))

    def deployments(self) -> list[DeploymentRecord]:
        """All of them, by name."""
        rows = self.connection.execute("SELECT document FROM deployments ORDER BY id").fetchall()
        return [_deployment(json.loads(document)) for (document,) in rows]

    def save_deployment(self, record: DeploymentRecord) -> None:
        """Insert or replace."""
        document = {**asdict(record), "spec": record.spec.model_dump(mode="json")}
        self.connection.execute("INSERT OR REPLACE INTO deployments VALUES (?, ?)", (record.id, json.dumps(document)))

    def delete_deployment(self, deployment: str) -> None:
        """Forget it and its replicas."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM replicas WHERE deployment = ?", (deployment,))
            connection.execute("DELETE FROM deployments WHERE id = ?", (deployment,))

    def replicas(self) -> list[ReplicaRecord]:
        """All that were started and not yet seen to end."""
        rows = self.connection.execute(
            "SELECT id, deployment, generation, port, pid, started, ready = 1 FROM replicas ORDER BY id"
        ).fetchall()
        return [ReplicaRecord(*row) for row in rows]

    def add_replica(self, deployment: str, generation: int) -> ReplicaRecord:
        """A replica that is about to start. Numbers are never used twice."""
        cursor = self.connection.execute(
            "INSERT INTO replicas (deployment, generation, port) VALUES (?, ?, 0)", (deployment, generation)
        )
        assert cursor.lastrowid is not None
        return ReplicaRecord(cursor.lastrowid, deployment, generation, port=0)

    def save_replica(self, record: ReplicaRecord) -> None:
        """Write down what may change: its process and its readiness."""
        self.connection.execute(
            "UPDATE replicas SET port = ?, pid = ?, started = ?, ready = ? WHERE id = ?",
            (record.port, record.pid, record.started, record.ready, record.id),
        )

    def delete_replica(self, record: ReplicaRecord) -> None:
        """It has ended."""
        self.connection.execute("DELETE FROM replicas WHERE id = ?", (record.id,))

    def endpoints(self) -> list[Endpoint]:
        """All of them, by name."""
        rows = self.connection.execute("SELECT document FROM endpoints ORDER BY name").fetchall()
        return [Endpoint.model_validate_json(document) for (document,) in rows]

    def save_endpoint(self, endpoint: Endpoint) -> None:
        """Insert or replace."""
        self.connection.execute(
            "INSERT OR REPLACE INTO endpoints VALUES (?, ?)", (endpoint.name, endpoint.model_dump_json())
        )

    def delete_endpoint(self, name: str) -> None:
        """Forget it; its audit stays."""
        self.connection.execute("DELETE FROM endpoints WHERE name = ?", (name,))

    def arms(self) -> list[tuple[RemoteArm, Token | None]]:
        """All of them by id, with the tokens that were fetched for them."""
        rows = self.connection.execute("SELECT document, token, fresh_until FROM arms ORDER BY id").fetchall()
        return [
            (RemoteArm.model_validate_json(document), Token(SecretStr(token), fresh_until) if token else None)
            for document, token, fresh_until in rows
        ]

    def save_arm(self, arm: RemoteArm, token: Token | None) -> None:
        """Insert or replace."""
        secret, fresh_until = (token.value.get_secret_value(), token.fresh_until) if token else (None, 0.0)
        self.connection.execute(
            "INSERT OR REPLACE INTO arms VALUES (?, ?, ?, ?)", (arm.id, json.dumps(arm.revealed()), secret, fresh_until)
        )

    def delete_arm(self, arm: str) -> None:
        """Forget it, its credentials too."""
        self.connection.execute("DELETE FROM arms WHERE id = ?", (arm,))

    def append_audit(self, endpoint: str, who: str, event: dict[str, Any]) -> AuditEntry:
        """Add one entry; entries are never changed."""
        at = now()
        cursor = self.connection.execute(
            "INSERT INTO audit (endpoint, at, who, event) VALUES (?, ?, ?, ?)", (endpoint, at, who, json.dumps(event))
        )
        assert cursor.lastrowid is not None
        return AuditEntry(cursor.lastrowid, at, who, event)

    def audit(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """Entries after the one with that id, oldest first."""
        rows = self.connection.execute(
            "SELECT id, at, who, event FROM audit WHERE endpoint = ? AND id > ? ORDER BY id LIMIT ?",
            (endpoint, after, limit),
        ).fetchall()
        return [AuditEntry(id_, at, who, json.loads(event)) for id_, at, who, event in rows]


def _deployment(document: dict[str, Any]) -> DeploymentRecord:
    spec, mode = DeploymentSpec.model_validate(document.pop("spec")), Mode(document.pop("mode"))
    return DeploymentRecord(spec=spec, mode=mode, **document)
