"""Live deployments: each serves the newest version on one branch of one model."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from prefect_modeldeploy.sandbox.behaviours import ModelFailed
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.foundry import bodies
from prefect_modeldeploy.sandbox.foundry.inputs import misfit
from prefect_modeldeploy.sandbox.pool import Scaling
from prefect_modeldeploy.sandbox.world import Record

if TYPE_CHECKING:
    from prefect_modeldeploy.sandbox.foundry.emulator import FoundryEmulator

REPLICA_SECONDS = 40.0
INFERENCE_SECONDS = 300.0
"""After which the vendor answers InferenceTimeout."""

_OFF = frozenset({"DISABLED", "FAILED"})


class Live:
    """The part of the emulator below `/v2/models/liveDeployments`."""

    def __init__(self, emulator: "FoundryEmulator") -> None:
        self._emulator, self._world = emulator, emulator.world

    def routes(self) -> list[BaseRoute]:
        """Its paths; they come before those of the models, which would take the word for a model's RID."""
        route, path = self._emulator.route, "/api/v2/models/liveDeployments"
        return [
            route("POST", path, self._create, "write"),
            route("GET", path, self._list, "read"),
            route("GET", f"{path}/{{rid}}", self._get, "read"),
            route("PUT", f"{path}/{{rid}}", self._replace, "write"),
            route("POST", f"{path}/{{rid}}/start", self._start, "write"),
            route("POST", f"{path}/{{rid}}/disable", self._disable, "write"),
            route("POST", f"{path}/{{rid}}/transformJson", self._transform, "execute"),
        ]

    def make(self, model: str, branch: str, version: str, config: Record) -> Record:
        """A new deployment; its first replica starts even when it may have none later."""
        rid = f"ri.foundry-ml-live.main.live-deployment.{self._world.new_uuid('live')}"
        record: Record = {"id": rid, "model": model, "branch": branch, "version": version, "config": config}
        self._world["live"][rid] = record
        self._begin(record, "create")
        return record

    def upgrade(self, model: str, branch: str, version: str) -> None:
        """A version has come to a branch: what tracks it goes over to it, after a while."""
        for record in self._tracking(model, branch):
            number = self._world.count("upgrade")
            upgrade: Record = {"id": f"upgrade-{number}", "name": record["id"], "number": number, "version": version}
            self._world["upgrades"][upgrade["id"]] = upgrade
            self._emulator.begin(upgrade, "upgrade", [model, branch, version])

    def _tracking(self, model: str, branch: str | None = None) -> list[Record]:
        return [
            record
            for record in self._world["live"].values()
            if record["model"] == model and branch in (None, record["branch"])
        ]

    def _serves(self, record: Record) -> str:
        over = [
            upgrade
            for upgrade in self._world["upgrades"].values()
            if upgrade["name"] == record["id"] and self._emulator.word(upgrade) == "LIVE"
        ]
        last = max(over, key=lambda upgrade: int(upgrade["number"]), default=record)
        return str(last["version"])

    def _begin(self, record: Record, timeline: str) -> None:
        name = record["config"]["environmentVariables"].get("MODELDEPLOY_NAME")
        self._emulator.begin(record, timeline, [record["model"], record["branch"], *([name] if name else [])])
        least = 0 if timeline == "disable" else max(1, record["config"]["minReplicas"])
        self._emulator.pool(record).restart(least)

    def _view(self, record: Record) -> Record:
        state = self._emulator.word(record)
        ready = state == "DEGRADED"
        if state == "ACTIVE":
            ready = self._emulator.pool(record).settle(_scaling(record["config"])).ready > 0
        return {
            "rid": record["id"],
            "modelVersion": {"modelRid": record["model"], "modelVersionRid": self._serves(record)},
            "branch": record["branch"],
            "runtimeConfiguration": record["config"],
            "status": {"state": state, "isReady": ready},
        }

    def _of(self, request: Request) -> Record:
        rid = request.path_params["rid"]
        found = self._world["live"].get(rid)
        if found is None or self._emulator.unseen(found):
            raise Refusal(404, "No such live deployment.", "LiveDeploymentNotFound", liveDeploymentRid=rid)
        return found

    # --- handlers -------------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        body = await self._emulator.body(request, bodies.NewLive)
        body.runtimeConfiguration.check()
        target = body.deploymentType
        self._emulator.models.find(target.modelRid)
        version = self._emulator.models.newest(target.modelRid, target.branch)
        if version is None:
            raise Refusal(400, "the branch has no version", parameter="branch")
        if self._emulator.one_per_branch and self._tracking(target.modelRid, target.branch):
            raise Refusal(409, "the branch has a live deployment already")
        config = body.runtimeConfiguration.model_dump(exclude_none=True)
        return JSONResponse(self._view(self.make(target.modelRid, target.branch, version["rid"], config)))

    async def _list(self, request: Request) -> Response:
        asked = request.query_params
        if not asked.get("modelRid"):
            raise Refusal(400, "modelRid is required", parameter="modelRid")
        model = self._emulator.models.find(asked["modelRid"])
        found = self._tracking(model["rid"], asked.get("branch"))
        return JSONResponse({"data": [self._view(one) for one in found if not self._emulator.unseen(one)]})

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self._view(self._of(request)))

    async def _replace(self, request: Request) -> Response:
        record, body = self._of(request), await self._emulator.body(request, bodies.Replacement)
        body.runtimeConfiguration.check()
        config, state = body.runtimeConfiguration.model_dump(exclude_none=True), self._emulator.word(record)
        if state != "DISABLED" and sorted(config["sources"]) != sorted(record["config"]["sources"]):
            name = "LiveDeploymentSourcesCannotBeUpdatedWhileRunning"
            raise Refusal(409, "Disable it first.", name, liveDeploymentRid=record["id"])
        record["config"] = config
        if state == "FAILED":
            self._begin(record, "create")
        return JSONResponse(self._view(record))

    async def _start(self, request: Request) -> Response:
        record = self._of(request)
        if self._emulator.word(record) in _OFF:
            self._begin(record, "start")
        return Response(status_code=204)

    async def _disable(self, request: Request) -> Response:
        record = self._of(request)
        if self._emulator.word(record) != "DISABLED":
            self._begin(record, "disable")
        return Response(status_code=204)

    async def _transform(self, request: Request) -> Response:
        record, body = self._of(request), await self._emulator.body(request, bodies.Transform)
        rid, version = record["id"], self._serves(record)
        api = self._world["versions"][version]["modelApi"]
        if wrong := misfit(api, body.input):
            name = "InferenceInvalidInput"
            raise Refusal(400, "The input does not fit.", name, liveDeploymentRid=rid, errorType=wrong)
        if (state := self._emulator.word(record)) in _OFF:
            raise _failure(rid, f"the deployment is {state}")
        pool, scaling = self._emulator.pool(record), _scaling(record["config"])
        async with pool.request(scaling):
            if not await pool.woken(scaling, self._emulator.clock.lasting(INFERENCE_SECONDS) or INFERENCE_SECONDS):
                raise Refusal(500, "No answer in 5 minutes.", "InferenceTimeout", liveDeploymentRid=rid)
            names = [rid, record["model"], record["branch"], version]
            try:
                answer = await self._emulator.shared.behaviours.answer(self._emulator.name, names, body.input)
            except ModelFailed as error:
                raise _failure(rid, str(error)) from error
        return JSONResponse({"output": answer if isinstance(answer, dict) else {"result": answer}})


def _failure(rid: str, message: str) -> Refusal:
    name = "InferenceFailure"
    return Refusal(400, "The inference request failed.", name, liveDeploymentRid=rid, errorMessage=message)


def _scaling(config: Record) -> Scaling:
    scaling = config.get("scalingConfiguration") or {}
    threads = config.get("threadCount", 32)
    down = scaling.get("scaleDownDelay")
    return Scaling(
        config["minReplicas"],
        config["maxReplicas"],
        target=max(1, int(threads * scaling.get("scaleUpLoadThreshold", 0.75))),
        start_seconds=REPLICA_SECONDS,
        scale_down_seconds=down["value"] * bodies.SECONDS[down["unit"]] if down else 1800.0,
    )
