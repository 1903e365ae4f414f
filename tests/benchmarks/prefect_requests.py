"""How many requests each flow makes to Prefect's API: `python -m tests.benchmarks.prefect_requests [SECONDS]`.

Prefect Cloud limits requests per minute, and log lines together with events. Counted on a real server, the requests by
its access log: each flow once, a rollout in which nothing happens for SECONDS (60), and a worker that waits as long.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_modeldeploy import (
    canary_rollout,
    clean_up_orphans,
    fleet_report,
    plan_rollout,
    promote_to_production,
    reconcile_rollouts,
    roll_back,
    scale_to_zero,
    wake_up,
)
from prefect_modeldeploy.local.autostart import stop_node
from tests.benchmarks.abort import prepared
from tests.conftest import eventually
from tests.flows.conftest import QUICK, Site
from tests.prefect_server import started_server, wait_for
from tests.requests_log import RequestsLog

TARGET = "bench"
LONG = QUICK.model_copy(
    update={"steps": (50,), "step_seconds": 3000.0, "deadline_seconds": 3600.0, "poll_seconds": 1.0}
)

FLOWS: dict[str, Callable[[], Awaitable[Any]]] = {
    "plan_rollout": lambda: plan_rollout(TARGET, "m-2"),
    "canary_rollout": lambda: canary_rollout(TARGET, "m-2", QUICK),
    "promote_to_production": lambda: promote_to_production(TARGET, "m-1"),
    "roll_back": lambda: roll_back(TARGET),
    "scale_to_zero": lambda: scale_to_zero([TARGET], only_if_idle_seconds=None),
    "wake_up": lambda: wake_up([TARGET]),
    "reconcile_rollouts": lambda: reconcile_rollouts(),
    "clean_up_orphans": lambda: clean_up_orphans([TARGET]),
    "fleet_report": lambda: fleet_report([TARGET]),
}


NOTHING: Counter[str] = Counter()


class Counts:
    """Requests, log lines and events since the last look."""

    def __init__(self, log: RequestsLog, url: str) -> None:
        self._log, self._url = log, url
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._log.take()
        self._since = datetime.now(UTC).isoformat()

    def end(self, more: Counter[str] = NOTHING) -> None:
        """Count up to now; `more` was counted before."""
        self._requests, self._until = self._log.take() + more, datetime.now(UTC).isoformat()

    async def show(self, name: str, seconds: float | None = None) -> None:
        """One line for the totals, one per route."""
        requests = self._requests
        per_minute = f", {requests.total() * 60 / seconds:.1f} a minute" if seconds else ""
        lines, events = await self._lines_and_events()
        print(f"\n{name}: {requests.total()} requests{per_minute}; {lines} log lines, {events} events")
        for route, count in requests.most_common():
            print(f"    {count:5d}  {route}", flush=True)

    async def _lines_and_events(self) -> tuple[int, int]:
        lines, between = 0, {"since": self._since, "until": self._until}
        async with httpx.AsyncClient(base_url=self._url, trust_env=False) as server:
            while True:
                wanted = {"logs": {"timestamp": {"after_": self._since, "before_": self._until}}, "offset": lines}
                page = (await server.post("/logs/filter", json=wanted)).raise_for_status().json()
                lines += len(page)
                if not page:
                    break
            answer = await server.post("/events/filter", json={"filter": {"occurred": between}, "limit": 1})
        return lines, answer.raise_for_status().json()["total"]


async def quiet_rollout(site: Site, counts: Counts, seconds: float) -> None:
    """A step in which nothing happens."""
    async with await site.load(rate=50):
        running = asyncio.ensure_future(canary_rollout(TARGET, "m-1", LONG))

        async def shifted() -> bool:
            if running.done():
                await running
            return (await site.arms()).get("canary") == ("m-1", 50.0)

        await eventually(shifted, seconds=120)
        await asyncio.sleep(5)  # what the shift itself still says
        counts.start()
        await asyncio.sleep(seconds)
        counts.end()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def waiting_worker(log: RequestsLog, counts: Counts, seconds: float) -> None:
    """A process worker that has nothing to do."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "bench", "--type", "process"]
    api = PREFECT_API_URL.value()
    assert api
    environment = {**os.environ, "PREFECT_API_URL": api}
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        started = Counter[str]()

        def polls() -> bool:
            started.update(log.take())
            return any("get_scheduled_flow_runs" in route for route in started)

        await eventually(polls)
        counts.start()
        await asyncio.sleep(seconds)
        counts.end()
    finally:
        worker.terminate()
        worker.wait()


async def main(home: Path, log: RequestsLog, counts: Counts, seconds: float) -> None:
    site = await prepared(home)
    await site.target.save(TARGET, overwrite=True)
    try:
        async with await site.load(rate=100) as answers:
            await site.history(answers)
            await log.take_when_quiet()
            for name, run in FLOWS.items():
                counts.start()
                await run()
                counts.end(await log.take_when_quiet())
                await counts.show(name)
        await quiet_rollout(site, counts, seconds)
        await counts.show("canary_rollout, waiting", seconds)
        await log.take_when_quiet()
        await waiting_worker(log, counts, seconds)
        await counts.show("a worker, waiting", seconds)
    finally:
        await stop_node(home)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        access_log = Path(directory) / "access.log"
        with started_server("--no-ui", access_log=access_log) as url, temporary_settings({PREFECT_API_URL: url}):
            wait_for(url)
            home = Path(directory) / "home"
            log = RequestsLog(access_log)
            asyncio.run(main(home, log, Counts(log, url), float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
