"""Processes in which accidents happen."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from prefect.settings import get_current_settings

from tests.chaos import victim
from tests.chaos.accidents import Case
from tests.conftest import eventually

PATIENCE_SECONDS = 180.0

PROCESSES = multiprocessing.get_context("forkserver")
"""One that has imported everything is forked for each accident; starting anew takes seconds."""
PROCESSES.set_forkserver_preload(
    [
        "tests.chaos.stories",
        # what is imported only when a flow runs, or draws
        "anyio._backends._asyncio",
        "matplotlib.backends.backend_svg",
        "matplotlib.figure",
        "prefect.task_engine",
        "prefect.testing.utilities",
        "prefect.utilities.visualization",
    ]
)


async def alone(home: Path, case: Case, meanwhile: Callable[[], Awaitable[None]] | None = None) -> str:
    """Run the case in a process; returns what it printed.

    Args:
        home: Where its files go.
        case: The case.
        meanwhile: What happens while it is stopped, before it wakes up. None: it is not.
    """
    path, said = case.write(home / "case"), home / "said"
    process = PROCESSES.Process(target=victim.run, args=(str(path), get_current_settings().api.url, str(said)))
    process.start()
    try:
        if meanwhile is not None:
            await eventually(lambda: case.marker.exists() or not process.is_alive(), seconds=PATIENCE_SECONDS)
            await meanwhile()
            os.kill(process.pid or 0, signal.SIGCONT)
        await asyncio.to_thread(process.join, PATIENCE_SECONDS)
        if process.is_alive():
            raise TimeoutError(f"it runs for {PATIENCE_SECONDS:g} s: {said.read_text()[-300:]}")
    finally:
        process.kill()
    return said.read_text(errors="replace")
