"""What the node tells a replica."""

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What the node says on standard input: one line of JSON with these fields."""

    replica: str
    model: str
    version: str
    source: str
    concurrency: int = 4
    python_path: tuple[str, ...] = ()
    failure_file: str | None = None


def read_settings() -> Settings | None:
    """The node's line of JSON; None when the node died before it wrote one. Standard input is empty afterwards."""
    with open(0, "rb", closefd=False) as stdin:
        line = stdin.readline()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if not line.endswith(b"\n"):
        return None
    fields = json.loads(line)
    return Settings(**{**fields, "python_path": tuple(fields.get("python_path", ()))})
