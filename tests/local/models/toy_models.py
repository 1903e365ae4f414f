"""Models of the tests."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any


def echo(value: Any) -> Any:
    return value


def double(value: Any) -> Any:
    return {name: 2 * array for name, array in value.items()} if isinstance(value, dict) else [2 * v for v in value]


async def slowly(value: Any) -> Any:
    await asyncio.sleep(value["seconds"])
    return os.getpid()


def blocking(value: Any) -> Any:
    time.sleep(value["seconds"])
    return os.getpid()


def pid(value: Any) -> int:
    return os.getpid()


def failing(value: Any) -> Any:
    raise ValueError("this model never works")


def leaving(value: Any) -> Any:
    raise SystemExit(7)


def stopping(value: Any) -> Any:
    raise StopIteration


def not_json(value: Any) -> Any:
    return threading.Lock()


def dying(value: Any) -> Any:
    os._exit(9)


def environment(value: Any) -> Any:
    return {"environ": dict(os.environ), "cwd": str(Path.cwd()), "stdin": str(Path("/proc/self/fd/0").readlink())}


def random_number(value: Any) -> float:
    import numpy as np

    return float(np.random.random())


not_callable = 3
