"""The smallest emulator: one table, one life cycle, predictions. A template for a real one."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from prefect_modeldeploy.sandbox.behaviours import ModelFailed
from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.lifecycle import Timeline
from prefect_modeldeploy.sandbox.pool import Scaling
from prefect_modeldeploy.sandbox.world import Record

SCALING = Scaling(0, 3, target=1, start_seconds=5, scale_down_seconds=60, window_seconds=10)


class NewThing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: int = 1


class ToyEmulator(Emulator):
    name = "toy"
    timelines: ClassVar = {
        "create": Timeline((("QUEUED", 5), ("BUILDING", 20)), "READY", failed="BROKEN"),
        "delete": Timeline((("GOING", 5),), None, failed="BROKEN"),
    }

    def seed(self) -> None:
        self.world.facts.update(api_key=self.new_secret("toy"), thing_id=self._make("seeded")["id"])

    def describe(self, url: str) -> dict[str, Any]:
        facts = self.world.facts
        return {"base_url": url, "api_key": facts["api_key"], "seed": {"thing_id": facts["thing_id"]}}

    def envelope(self, refusal: Refusal) -> Response:
        return JSONResponse({"oops": refusal.message}, refusal.status)

    async def authenticate(self, request: Request) -> None:
        if request.headers.get("x-api-key") != self.world.facts["api_key"]:
            raise Refusal(401, "who are you?")

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/things", self.create, methods=["POST"]),
            Route("/things", self.list_all, methods=["GET"]),
            Route("/things/{id}", self.get, methods=["GET"]),
            Route("/things/{id}", self.delete, methods=["DELETE"]),
            Route("/things/{id}/predict", self.predict, methods=["POST"]),
            Route("/bug", self.bug),
        ]

    def _make(self, name: str) -> Record:
        record: Record = {"id": self.world.new_id("thing"), "name": name, "created_at": self.clock.stamp()}
        self.world["things"][record["id"]] = record
        self.begin(record, "create")
        return record

    def _thing(self, request: Request) -> Record:
        record = self.world["things"].get(request.path_params["id"])
        if record is None or self.word(record) is None or self.unseen(record):
            raise Refusal(404, "no such thing")
        return record

    def _view(self, record: Record) -> Record:
        word = self.word(record)
        replicas = self.pool(record).settle(SCALING).model_dump() if word == "READY" else None
        return {"id": record["id"], "name": record["name"], "status": word, "replicas": replicas}

    async def create(self, request: Request) -> Response:
        return JSONResponse(self._view(self._make((await self.body(request, NewThing)).name)), 201)

    async def list_all(self, _: Request) -> Response:
        return JSONResponse([self._view(thing) for thing in self.world["things"].values() if self.word(thing)])

    async def get(self, request: Request) -> Response:
        return JSONResponse(self._view(self._thing(request)))

    async def delete(self, request: Request) -> Response:
        self.begin(self._thing(request), "delete")
        return JSONResponse({})

    async def predict(self, request: Request) -> Response:
        thing = self._thing(request)
        pool = self.pool(thing)
        async with pool.request(SCALING):
            if not await pool.woken(SCALING, timeout_seconds=10):
                raise Refusal(503, "no replica came up")
            try:
                names = [thing["id"], thing["name"]]
                return JSONResponse(await self.shared.behaviours.answer(self.name, names, await request.json()))
            except ModelFailed as error:
                raise Refusal(500, str(error)) from error

    async def bug(self, _: Request) -> Response:
        raise RuntimeError("a bug of the emulator")
