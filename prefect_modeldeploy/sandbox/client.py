"""A client of the sandbox's control API, for tests: ours, and those of our users."""

from types import TracebackType
from typing import Any, Self

import httpx

from prefect_modeldeploy.errors import InvalidInput, NodeError
from prefect_modeldeploy.sandbox.behaviours import Behaviour
from prefect_modeldeploy.sandbox.faults import Fault
from prefect_modeldeploy.sandbox.journal import Request
from prefect_modeldeploy.sandbox.lifecycle import Fate


class SandboxControl:
    """Sets faults, fates and behaviours, moves the clock, and reads what happened.

    Example:
        ```python
        async with SandboxControl(ready["control_url"]) as control:
            await control.fault(provider="scale", method="POST", path="/v4/models/*/deployments", kind="lost_answer")
        ```
    """

    def __init__(self, control_url: str) -> None:
        self._http = httpx.AsyncClient(base_url=control_url, timeout=30, trust_env=False)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    async def status(self) -> dict[str, Any]:
        """Providers, speed and sandbox time."""
        return await self._call("GET", "/v1/status")

    async def state(self, provider: str) -> dict[str, Any]:
        """An emulator's whole state: `tables`, `facts`, `counters`."""
        return await self._call("GET", f"/v1/providers/{provider}/state")

    async def table(self, provider: str, name: str) -> dict[str, dict[str, Any]]:
        """One table of an emulator's state: records by id."""
        return dict((await self.state(provider))["tables"].get(name, {}))

    async def reset(self, provider: str | None = None) -> None:
        """Back to the first world; without a provider also no faults, fates, behaviours and requests."""
        await self._call("POST", "/v1/reset", {"provider": provider})

    async def advance(self, seconds: float) -> None:
        """Let the clock jump ahead by sandbox seconds."""
        await self._call("POST", "/v1/clock", {"advance_seconds": seconds})

    async def set_speed(self, speed: float) -> None:
        """Sandbox seconds per second; 0: instant life cycles."""
        await self._call("POST", "/v1/clock", {"speed": speed})

    async def fault(self, **fields: Any) -> Fault:
        """Set a fault; see `faults.Fault` for the fields."""
        return Fault.model_validate(await self._call("POST", "/v1/faults", fields))

    async def faults(self) -> list[Fault]:
        """Those that are set, with how often each struck."""
        return [Fault.model_validate(one) for one in (await self._call("GET", "/v1/faults"))["faults"]]

    async def clear_faults(self) -> None:
        """Forget all faults."""
        await self._call("DELETE", "/v1/faults")

    async def fate(self, **fields: Any) -> Fate:
        """Decide what becomes of a life cycle that has not begun yet; see `lifecycle.Fate` for the fields."""
        return Fate.model_validate(await self._call("POST", "/v1/fates", fields))

    async def fates(self) -> list[Fate]:
        """Those that have not struck yet."""
        return [Fate.model_validate(one) for one in (await self._call("GET", "/v1/fates"))["fates"]]

    async def release(self, *match: str, provider: str | None = None) -> int:
        """Let stuck and slow life cycles go on: those with these ids or names, or all. Returns how many."""
        answer = await self._call("POST", "/v1/release", {"provider": provider, "match": list(match) or None})
        return int(answer["released"])

    async def behave(self, **fields: Any) -> Behaviour:
        """Decide what deployments answer; see `behaviours.Behaviour` for the fields."""
        return Behaviour.model_validate(await self._call("POST", "/v1/behaviours", fields))

    async def behaviours(self) -> list[Behaviour]:
        """Those that are set, the strongest first."""
        return [Behaviour.model_validate(one) for one in (await self._call("GET", "/v1/behaviours"))["behaviours"]]

    async def requests(self, **globs: Any) -> list[Request]:
        """The requests that came; `provider`, `method` and `path` are globs, `after` is a number."""
        answer = await self._call("GET", "/v1/requests", params=globs)
        return [Request.model_validate(one) for one in answer["requests"]]

    async def forget_requests(self) -> None:
        """Empty the journal."""
        await self._call("DELETE", "/v1/requests")

    async def crashes(self) -> list[str]:
        """Tracebacks of faults of the emulators themselves."""
        return list((await self._call("GET", "/v1/crashes"))["crashes"])

    async def _call(self, method: str, path: str, body: Any = None, params: Any = None) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, json=body, params=params)
        except httpx.TransportError as error:
            raise NodeError(f"the sandbox does not answer at {self._http.base_url}: {error}") from error
        if answer.is_success:
            return dict(answer.json())
        problem = answer.json()["error"]
        raise InvalidInput(problem.get("field", path), body, problem["message"])
