"""SIGTERM is heard wherever it strikes, by all who listen, and by nobody else."""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from types import FrameType

import pytest
from prefect.exceptions import TerminationSignal

from prefect_modeldeploy.flows._termination import heard
from tests.chaos.accidents import told_to_end
from tests.conftest import eventually


@pytest.fixture(autouse=True)
def raised_where_it_strikes() -> Iterator[None]:
    """As Prefect does it while a flow runs."""

    def strike(number: int, frame: FrameType | None) -> None:
        raise TerminationSignal(number)

    former = signal.signal(signal.SIGTERM, strike)
    yield
    signal.signal(signal.SIGTERM, former)


def child_of_ours(there: Event) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    there.set()
    time.sleep(60)


async def test_in_a_callback_whose_exception_is_only_logged() -> None:
    told: list[str] = []
    with heard(lambda: told.append("one")):
        asyncio.get_running_loop().call_soon(told_to_end)
        await eventually(lambda: told == ["one"], 10)


async def test_by_whoever_is_left() -> None:
    told: list[str] = []
    one, other = heard(lambda: told.append("one")), heard(lambda: told.append("other"))
    one.__enter__()
    with other:
        one.__exit__(None, None, None)
        asyncio.get_running_loop().call_soon(told_to_end)
        await eventually(lambda: told == ["other"], 10)
    asyncio.get_running_loop().call_soon(told_to_end)
    await asyncio.sleep(0)
    assert told == ["other"]


async def test_other_signals_that_the_process_listens_to_still_reach_it() -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, told.append, "its own")
    try:
        with heard(lambda: told.append("ours")):
            os.kill(os.getpid(), signal.SIGUSR1)
            await eventually(lambda: told == ["its own"], 10)
        os.kill(os.getpid(), signal.SIGUSR1)
        await eventually(lambda: told == ["its own"] * 2, 10)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


async def test_not_what_a_forked_process_is_told() -> None:
    told: list[str] = []
    forking = multiprocessing.get_context("fork")
    there = forking.Event()
    with heard(lambda: told.append("the parent")):
        child = forking.Process(target=child_of_ours, args=(there,))
        child.start()
        assert await asyncio.to_thread(there.wait, 30)
        child.terminate()
        await asyncio.to_thread(child.join, 30)
        assert child.exitcode == 3
        with pytest.raises(TimeoutError):
            await eventually(lambda: told, 1)
