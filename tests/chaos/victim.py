"""A process that runs a flow and has an accident: `python -m tests.chaos.victim CASE`."""

import asyncio
import os
import sys
from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.chaos.accidents import Case, arm


def run(path: str, api_url: str, said: str) -> None:
    """The same in a process that was forked: what it prints goes to a file."""
    with Path(said).open("wb", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    with temporary_settings({PREFECT_API_URL: api_url}):
        main(path)


def main(path: str) -> None:
    case = Case.read(path)
    arm(case)
    asyncio.run(case.flow(**case.arguments))


if __name__ == "__main__":
    main(sys.argv[1])
