"""A sandbox: the emulators of some providers, what they share, and the file that keeps their state."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.sandbox import registry
from prefect_modeldeploy.sandbox.clock import Clock
from prefect_modeldeploy.sandbox.emulator import Emulator, Shared
from prefect_modeldeploy.sandbox.world import World


class House:
    """All emulators of one sandbox process.

    Args:
        providers: Names of the emulators, or classes of one's own; None: all that there are.
        speed: Sandbox seconds per second; 0: instant life cycles.
        state: File that keeps the worlds; None: they are gone when the process ends.

    Raises:
        InvalidInput: An unknown provider, a bad speed, or a state file that is none.
    """

    def __init__(
        self,
        providers: Sequence[str | type[Emulator]] | None = None,
        speed: float = 1.0,
        state: Path | None = None,
    ) -> None:
        saved = _load(state)
        self._state, self._written = state, ""
        self.shared = Shared(Clock(speed, saved.get("now")))
        self.emulators: dict[str, Emulator] = {}
        worlds = saved.get("worlds", {})
        for provider in dict.fromkeys(providers or registry.available()):
            kind = registry.find(provider) if isinstance(provider, str) else provider
            self.emulators[kind.name] = kind(self.shared, World(kind.name, worlds.pop(kind.name, None)))
        self._others = worlds

    def save(self) -> None:
        """Write the state file, if there is one and anything but the time has changed."""
        if self._state is None:
            return
        worlds = self._others | {name: emulator.world.dump() for name, emulator in self.emulators.items()}
        text = json.dumps(worlds)
        if text != self._written:
            write_atomically(self._state, json.dumps({"now": self.shared.clock.now(), "worlds": worlds}))
            self._written = text


def write_atomically(path: Path, text: str) -> None:
    """Write a file that holds credentials: readable by its owner only, and never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    beside.replace(path)


def _load(state: Path | None) -> dict[str, Any]:
    if state is None or not state.exists():
        return {}
    try:
        saved = json.loads(state.read_text())
        if isinstance(saved["now"], float) and isinstance(saved["worlds"], dict):
            return dict(saved)
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidInput("state", str(state), f"is not a sandbox's state file ({error}); remove it") from error
    raise InvalidInput("state", str(state), "is not a sandbox's state file; remove it")
