"""A model that gets ready once for each ticket that somebody lays into the directory `TICKETS`."""

import os
import time
from pathlib import Path
from typing import Any


def _take(tickets: Path) -> None:
    while True:
        for ticket in tickets.iterdir():
            try:
                ticket.unlink()
            except FileNotFoundError:  # another replica was faster
                continue
            return
        time.sleep(0.05)


_take(Path(os.environ["TICKETS"]))


def predict(value: Any) -> Any:
    """Answers what it was asked."""
    return value
