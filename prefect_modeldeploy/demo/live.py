"""The demo's traffic process, seen from the demo."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from prefect_modeldeploy.demo.models import Sample
from prefect_modeldeploy.errors import ModelDeployError


class LiveTraffic:
    """Requests that go on in the background until `stop`."""

    def __init__(self, url: str, samples: list[Sample], rate: float, directory: Path) -> None:
        self._url, self._rate, self._file = url, rate, directory / "samples.json"
        self._file.write_text(json.dumps(samples))
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.counts: dict[str, Any] = {"sent": 0, "answered": 0, "failed_by_model": 0, "lost": 0, "by_arm": {}}

    async def start(self) -> None:
        """Begin; returns once requests are being answered."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prefect_modeldeploy.demo.traffic", self._url, str(self._file), str(self._rate)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        while not self.counts["answered"]:
            if self._reading.done():
                raise ModelDeployError("the demo's traffic process ended early; see its message above")
            await asyncio.sleep(0.1)

    async def stop(self) -> dict[str, Any]:
        """Send nothing more, and return what became of every request."""
        if self._process is not None and self._reading is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._reading
            await self._process.wait()
        return self.counts

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.counts = json.loads(line)
