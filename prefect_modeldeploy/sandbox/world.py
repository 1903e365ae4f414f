"""What an emulator knows: tables of JSON records, which the control API shows and a file can keep."""

import uuid
from typing import Any, cast

Record = dict[str, Any]
Table = dict[str, Record]

_NAMESPACE = uuid.UUID("7d0c7f0e-4a0e-5c7e-9a53-6d6f64656c64")


class World:
    """The state of one emulator: everything in it is JSON, and nothing else is state.

    `tables` hold records by id, `facts` single values (the API key, ids of the seed), `counters` make ids, which are
    the same in every fresh sandbox.
    """

    def __init__(self, provider: str, saved: dict[str, Any] | None = None) -> None:
        saved = saved or {}
        self._provider = provider
        self.tables: dict[str, Table] = saved.get("tables", {})
        self.facts: dict[str, Any] = saved.get("facts", {})
        self.counters: dict[str, int] = saved.get("counters", {})

    def __getitem__(self, table: str) -> Table:
        return self.tables.setdefault(table, {})

    def count(self, kind: str) -> int:
        """The next number of this kind, from 1."""
        self.counters[kind] = self.counters.get(kind, 0) + 1
        return self.counters[kind]

    def new_uuid(self, kind: str) -> str:
        """The next id of this kind, in the form of an UUID."""
        return str(uuid.uuid5(_NAMESPACE, f"{self._provider}/{kind}/{self.count(kind)}"))

    def new_id(self, kind: str, length: int = 7) -> str:
        """The next id of this kind: `length` lower-case letters and digits."""
        return uuid.uuid5(_NAMESPACE, f"{self._provider}/{kind}/{self.count(kind)}").hex[:length]

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"tables": self.tables, "facts": self.facts, "counters": self.counters}

    def clear(self) -> None:
        """Forget everything."""
        for part in (self.tables, self.facts, self.counters):
            cast(dict[str, Any], part).clear()
