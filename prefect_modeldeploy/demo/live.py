"""The demo's traffic process, seen from the demo."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from prefect_modeldeploy.demo.models import Sample
from prefect_modeldeploy.errors import ModelDeployError, WaitTimeout

_STOP_SECONDS = 60.0
"""A request that is on its way gives up after 30 s."""


class LiveTraffic:
    """Requests that go on in the background until `stop`."""

    def __init__(self, url: str, samples: list[Sample], rate: float, directory: Path) -> None:
        self._url, self._rate, self._file = url, rate, directory / "samples.json"
        self._file.write_text(json.dumps(samples))
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._reports = 0
        self.counts: dict[str, Any] = dict.fromkeys(("sent", "answered", "failed_by_model", "lost"), 0)
        self.counts |= {"by_arm": {}, "by_status": {}, "served": []}

    async def start(self, *, patience_seconds: float = 60.0) -> None:
        """Begin; returns once requests are being answered. Call `stop` also when this raises.

        Raises:
            WaitTimeout: Not one request was answered in so many seconds.
            ModelDeployError: The process ended.
        """
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prefect_modeldeploy.demo.traffic", self._url, str(self._file), str(self._rate)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends this
        )
        self._reading = asyncio.create_task(self._read(self._process))
        deadline = time.monotonic() + patience_seconds
        while not self.counts["answered"]:
            if self._reading.done():
                raise ModelDeployError("the demo's traffic process ended early; see its message above")
            if time.monotonic() > deadline:
                instead = ", ".join(f"{n} times {what}" for what, n in self.counts["by_status"].items()) or "no answer"
                raise WaitTimeout(f"{self._url} answered no request within {patience_seconds:g} s: {instead}")
            await asyncio.sleep(0.1)

    async def fresh(self) -> dict[str, Any]:
        """The counts of at least everything until now; they come twice a second."""
        enough = self._reports + 2  # the next one may be on its way already
        while self._reports < enough:
            if self._reading is None or self._reading.done():
                break
            await asyncio.sleep(0.1)
        return self.counts

    async def stop(self) -> bool:
        """Send nothing more; `counts` then says what became of every request. False if the process had failed."""
        if self._process is None or self._reading is None:
            return True
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._reading, _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
        return await self._process.wait() == 0

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.counts = json.loads(line)
            self._reports += 1
