"""Live traffic: labelled requests at a steady rate in a closed loop, from a process of their own.

Run as `python -m prefect_modeldeploy.demo.traffic URL SAMPLES.json RATE`; prints the counts so far as a JSON line twice
a second, and once more when its standard input is closed.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

WORKERS = 8


class Traffic:
    """Sends requests and counts what becomes of them: each is answered, failed by a model, or lost."""

    def __init__(self, url: str, samples: list[tuple[list[float], int]], rate: float) -> None:
        self._url, self._samples, self._rate = url, samples, rate
        self._counts: Counter[str] = Counter()
        self._by_arm: Counter[str] = Counter()
        self._by_status: Counter[str] = Counter()
        self._served: dict[tuple[str, str], Counter[str]] = {}
        self._next, self._started = 0, time.monotonic()
        self._over = asyncio.Event()

    def counts(self) -> dict[str, Any]:
        """What became of the requests so far; `served` says who answered or failed them, by arm and version."""
        return {
            **{key: self._counts[key] for key in ("sent", "answered", "failed_by_model", "lost")},
            "by_arm": dict(self._by_arm),
            "by_status": dict(self._by_status),
            "served": [
                {"arm": arm, "version": version, **{key: did[key] for key in ("answered", "wrong", "failed")}}
                for (arm, version), did in self._served.items()
            ],
        }

    async def run(self) -> None:
        """Send until `stop` is called; every request that was sent is counted when this returns."""
        limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
        async with (
            httpx.AsyncClient(limits=limits, timeout=30.0, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(WORKERS):
                group.create_task(self._work(client))

    def stop(self) -> None:
        """Send nothing more."""
        self._over.set()

    async def _work(self, client: httpx.AsyncClient) -> None:
        while not self._over.is_set():
            number, self._next = self._next, self._next + 1
            wait = self._started + number / self._rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            elif wait < -1.0:  # the loop is closed: what was late is not made up for
                self._started -= wait
            await self._send(client, *self._samples[number % len(self._samples)])

    async def _send(self, client: httpx.AsyncClient, pixels: list[float], digit: int) -> None:
        body = {"inputs": [{"name": "pixels", "shape": [1, len(pixels)], "datatype": "FP64", "data": pixels}]}
        self._counts["sent"] += 1
        try:
            answer = await client.post(self._url, json=body)
        except httpx.HTTPError as error:
            self._counts["lost"] += 1
            self._by_status[type(error).__name__] += 1
            return
        self._by_arm[answer.headers.get("x-modeldeploy-arm", "none")] += 1
        self._by_status[str(answer.status_code)] += 1
        self._count(answer, digit)

    def _count(self, answer: httpx.Response, digit: int) -> None:
        arm, version = answer.headers.get("x-modeldeploy-arm"), answer.headers.get("x-model-version")
        if arm is None or version is None or not (answer.is_success or answer.status_code == 500):
            self._counts["lost"] += 1  # no model said this
            return
        did = self._served.setdefault((arm, version), Counter())
        if answer.is_success:
            self._counts["answered"] += 1
            did["answered"] += 1
            did["wrong"] += int(answer.json()["outputs"][0]["data"][0]) != digit
        else:
            self._counts["failed_by_model"] += 1
            did["failed"] += 1


async def _main(url: str, samples: list[tuple[list[float], int]], rate: float) -> None:
    traffic = Traffic(url, samples, rate)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    closed = asyncio.create_task(orders.read())  # not in a thread: that would keep this process alive after a failure
    running = asyncio.create_task(traffic.run())
    while not closed.done() and not running.done():  # if it fails, the demo must see that at once
        await asyncio.wait([closed, running], timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        print(json.dumps(traffic.counts()), flush=True)
    traffic.stop()
    await running
    print(json.dumps(traffic.counts()), flush=True)


if __name__ == "__main__":
    _url, _file, _rate = sys.argv[1:]
    asyncio.run(_main(_url, json.loads(Path(_file).read_text()), float(_rate)))
