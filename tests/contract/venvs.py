"""Virtual environments for the vendors' own clients: made on demand, cached outside the checkout, never in ours.

They live in `MODELDEPLOY_CACHE`, else `prefect-modeldeploy` in the user's cache directory, one directory per list of
requirements and Python version, and are shared by all checkouts.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

INSTALL_SECONDS = 540
RUN_SECONDS = 300

_PRELUDE = """\
import json, sys
def answer(value):
    "Give a value back to the test: anything that JSON can hold."
    with open(sys.argv[1], "w") as file:
        json.dump(value, file, default=str)
given = json.load(sys.stdin)
"""


def cache_directory() -> Path:
    """Where the environments are kept."""
    if chosen := os.environ.get("MODELDEPLOY_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefect-modeldeploy"


@dataclass(frozen=True)
class VendorClient:
    """A vendor's official client, in an environment of its own.

    Args:
        requirements: Pinned requirements, as pip takes them.
        python: Version of Python that it needs, such as "3.9"; None: the one that runs the tests.
        resolve: False when the list is complete and pip shall not resolve it (`--no-deps`).
    """

    requirements: tuple[str, ...]
    python: str | None = None
    resolve: bool = True

    @property
    def directory(self) -> Path:
        """Where its environment is, or will be."""
        version = self.python or f"{sys.version_info.major}.{sys.version_info.minor}"
        key = json.dumps([sorted(self.requirements), version, self.resolve])
        return cache_directory() / "venvs" / hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def executables(self) -> Path:
        """Directory of its commands, such as `truss`."""
        return self.directory / "bin"

    def make(self) -> Path:
        """Make the environment unless it exists; returns its Python.

        Without the Python version or a package index the test is skipped, and says so.
        """
        python, done = self.executables / "python", self.directory / "complete"
        if done.exists():
            return python
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory.with_suffix(".lock")):
            if not done.exists():
                shutil.rmtree(self.directory, ignore_errors=True)
                _run([self._interpreter(), "-m", "venv", str(self.directory)])
                options = ["--quiet", "--disable-pip-version-check", *([] if self.resolve else ["--no-deps"])]
                _run([str(python), "-m", "pip", "install", *options, *self.requirements])
                done.touch()
        return python

    async def run(self, script: str, given: Any = None, *, env: Mapping[str, str] | None = None) -> Any:
        """Run a script in the environment and return what it passed to `answer(value)`.

        The script finds `given` (decoded JSON) and the function `answer`. When it fails, the test does, with its
        standard error. Proxy settings do not reach it: everything is on loopback.
        """
        python = await asyncio.to_thread(self.make)
        scripts = self.directory / "scripts"
        scripts.mkdir(exist_ok=True)
        name = hashlib.sha256(script.encode()).hexdigest()[:16]
        program, answer = scripts / f"{name}.py", scripts / f"{name}.{os.getpid()}.json"
        program.write_text(_PRELUDE + script)
        answer.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(str(python), str(program), str(answer)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env={**_clean_environment(), **(env or {})},
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(process.communicate(json.dumps(given).encode()), RUN_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = f"{out.decode(errors='replace')[-2000:]}\n{err.decode(errors='replace')[-6000:]}"
        assert process.returncode == 0, f"the vendor's client failed:\n{said}"
        assert answer.exists(), f"the script called answer() not once:\n{said}"
        found = json.loads(answer.read_text())
        answer.unlink()
        return found

    def _interpreter(self) -> str:
        if self.python is None:
            return sys.executable
        found = shutil.which(f"python{self.python}")
        if found is None or subprocess.run([found, "-V"], capture_output=True, check=False).returncode:
            pytest.skip(f"CANNOT TEST {self.requirements[0]}: it needs python{self.python}, which is not installed")
        return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"CANNOT MAKE THE CLIENT'S ENVIRONMENT: {' '.join(command)}: {done.stderr[-1500:]}")


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
