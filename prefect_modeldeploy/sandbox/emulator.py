"""What every emulator is: routes over a world of records, with life cycles, and the vendor's way to say no."""

import logging
import secrets
import traceback
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from prefect_modeldeploy.sandbox.behaviours import Behaviours
from prefect_modeldeploy.sandbox.clock import Clock
from prefect_modeldeploy.sandbox.faults import Faults
from prefect_modeldeploy.sandbox.journal import Journal
from prefect_modeldeploy.sandbox.lifecycle import Fate, Fates, Timeline
from prefect_modeldeploy.sandbox.pool import Pool
from prefect_modeldeploy.sandbox.world import Record, World

M = TypeVar("M", bound=BaseModel)

_log = logging.getLogger("prefect_modeldeploy.sandbox")


@dataclass
class Shared:
    """What all emulators of a sandbox share."""

    clock: Clock
    faults: Faults = field(default_factory=Faults)
    fates: Fates = field(default_factory=Fates)
    behaviours: Behaviours = field(default_factory=Behaviours)
    journal: Journal = field(default_factory=Journal)


class Refusal(Exception):
    """The emulator says no; `Emulator.envelope` puts it into the vendor's words.

    Args:
        status: HTTP status.
        message: For people.
        code: The vendor's error name, where it has such a thing.
        details: What else the vendor's envelope holds.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.details = status, message, code, details


class Emulator(ABC):
    """One vendor's API. See the package's docstring for how to write one."""

    name: ClassVar[str]
    timelines: ClassVar[Mapping[str, Timeline]] = {}
    longest_body: ClassVar[int] = 64 * 1024 * 1024

    def __init__(self, shared: Shared, world: World) -> None:
        self.shared, self.world = shared, world
        self._pools: dict[str, Pool] = {}
        if not world.facts:
            self.seed()

    # --- what an emulator gives -----------------------------------------------------------------------------------

    @abstractmethod
    def routes(self) -> Sequence[BaseRoute]:
        """The vendor's paths, as Starlette routes with methods of this class as handlers."""

    @abstractmethod
    def seed(self) -> None:
        """Put the small first world into `self.world`, credentials and ids of the seed into `self.world.facts`."""

    @abstractmethod
    def describe(self, url: str) -> dict[str, Any]:
        """This provider's object in the ready file, when the emulator is served at `url`."""

    @abstractmethod
    async def authenticate(self, request: Request) -> None:
        """Raise a Refusal unless the request may come in. Called for every path, the unknown ones too."""

    @abstractmethod
    def envelope(self, refusal: Refusal) -> Response:
        """The vendor's own error answer."""

    def invalid(self, problems: list[dict[str, Any]]) -> Refusal:
        """How the vendor says that a body is wrong: `problems` have `loc`, `msg`, `type` (pydantic's). Default: 422."""
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"])
        return Refusal(422, f"{where}: {first['msg']}" if where else str(first["msg"]), problems=problems)

    # --- what it gets ---------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """The sandbox's time."""
        return self.shared.clock

    @property
    def secrets(self) -> list[str]:
        """Facts that never reach the journal: those whose names say that they are secret."""
        words = ("key", "token", "secret", "password")
        return [v for k, v in self.world.facts.items() if isinstance(v, str) and v and any(w in k for w in words)]

    def new_secret(self, prefix: str) -> str:
        """A random credential."""
        return f"{prefix}-{secrets.token_hex(16)}"

    async def body(self, request: Request, model: type[M]) -> M:
        """The request's JSON body as `model`; raises what `invalid` makes of anything else."""
        raw = await request.body()
        try:
            return model.model_validate_json(raw or b"{}")
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            raise self.invalid([{**problem, "loc": ["body", *problem["loc"]]} for problem in problems]) from None

    def query(self, request: Request, model: type[M]) -> M:
        """The query string as `model`, the last of repeated names counting."""
        try:
            return model.model_validate_strings(dict(request.query_params))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            raise self.invalid([{**problem, "loc": ["query", *problem["loc"]]} for problem in problems]) from None

    def begin(self, record: Record, timeline: str, names: Iterable[str] = ()) -> None:
        """Start a life cycle of a record; a fate that waits for it strikes.

        Args:
            record: It gets a "life"; its "id" and "name" are what fates match.
            timeline: Which of `timelines`.
            names: Further names that a fate may match.
        """
        known = [str(record[key]) for key in ("id", "name") if record.get(key)]
        stages = [word for word, _ in self.timelines[timeline].stages]
        fate = self.shared.fates.draw(self.name, timeline, [*known, *names], stages)
        record["life"] = {
            "timeline": timeline,
            "since": self.clock.now(),
            "fate": fate.model_dump() if fate else None,
        }
        if late := self.shared.fates.draw(self.name, timeline, [*known, *names], late=True):
            record["unseen"] = late.reads

    def word(self, record: Record) -> str | None:
        """The vendor's word for where the record's life cycle stands; None: it is gone."""
        life = record["life"]
        fate = Fate.model_validate(life["fate"]) if life["fate"] else None
        return self.timelines[life["timeline"]].word(self.clock.elapsed(life["since"]), fate)

    def failure(self, record: Record) -> str | None:
        """Why the life cycle fails, when it was told to."""
        fate = record["life"]["fate"]
        return str(fate["reason"]) if fate and fate["outcome"] == "fail" else None

    def unseen(self, record: Record) -> bool:
        """Whether this read does not find the record yet (eventual consistency); counts the read."""
        left = int(record.get("unseen", 0))
        if left:
            record["unseen"] = left - 1
        return left > 0

    def release(self, match: Collection[str] | None = None) -> int:
        """Let go of life cycles that are stuck or slow: they go on from their stage. Returns how many."""
        released = 0
        for table in self.world.tables.values():
            for record in table.values():
                life = record.get("life") if isinstance(record, dict) else None
                held = life["fate"] if life else None
                if not life or not held or held["outcome"] not in ("stuck", "slow"):
                    continue
                if match is not None and not {record.get("id"), record.get("name")} & set(match):
                    continue
                before = self.timelines[life["timeline"]].before(held["stage"])
                life.update(fate=None, since=self.clock.now() - before)
                released += 1
        return released

    def pool(self, record: Record) -> Pool:
        """The replicas of a deployment; their state is kept in the record, under "pool"."""
        key = str(record["id"])
        if key not in self._pools:
            self._pools[key] = Pool(self.clock, record.setdefault("pool", {}))
        return self._pools[key]

    def reset(self) -> None:
        """Back to the first world, with the same credentials."""
        kept = {name: value for name, value in self.world.facts.items() if value in self.secrets}
        self.world.clear()
        self._pools.clear()
        self.seed()
        self.world.facts.update(kept)

    # --- how it is served -----------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        """The ASGI application: every error of any kind is answered in the vendor's envelope."""

        async def refused(_: Request, error: Exception) -> Response:
            assert isinstance(error, Refusal)
            return self.envelope(error)

        async def http(_: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            answer = self.envelope(Refusal(error.status_code, str(error.detail)))
            answer.headers.update(error.headers or {})
            return answer

        async def crashed(_: Request, error: Exception) -> Response:
            return self.crashed(error)

        handlers = {Refusal: refused, HTTPException: http, Exception: crashed}
        app = Starlette(routes=list(self.routes()), exception_handlers=handlers)
        app.router.redirect_slashes = False
        return app

    def crashed(self, error: Exception) -> Response:
        """A fault of the emulator: kept for the control API, answered without a traceback."""
        self.shared.journal.crashes.append("".join(traceback.format_exception(error)))
        _log.error("the %s emulator has a fault", self.name, exc_info=error)
        return self.envelope(Refusal(500, "Internal Server Error"))
