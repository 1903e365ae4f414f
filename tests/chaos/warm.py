"""Flow runs of a runner in processes that are forked from one that has imported everything: `python` takes seconds."""

import asyncio
import os
import runpy
from collections.abc import Callable, Mapping
from multiprocessing import context
from typing import Any

from anyio.abc import TaskStatus
from prefect.context import SettingsContext, get_settings_context
from prefect.runner import _starter_engine
from prefect.settings import Settings

from tests.chaos.processes import PROCESSES


def install() -> None:
    """Have this process's runner start its flow runs so."""
    _starter_engine.run_process = _run_process  # type: ignore[attr-defined]


async def _run_process(
    command: object,
    *,
    env: Mapping[str, str],
    task_status: TaskStatus[Any],
    task_status_handler: Callable[[context.ForkServerProcess], Any],
    **_: object,
) -> None:
    """In place of Prefect's, which starts `python -m prefect.engine`; the runner signals this one as it does that."""
    process = PROCESSES.Process(target=_engine, args=(dict(env),))
    await asyncio.to_thread(process.start)
    try:
        task_status.started(task_status_handler(process))
        await asyncio.to_thread(process.join)
    finally:
        process.kill()


def _engine(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
        runpy.run_module("prefect.engine", run_name="__main__")
