"""What happens to Gradient's deployments: spec versions, their runs, who serves."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.lifecycle import Timeline
from prefect_modeldeploy.sandbox.pool import Scaling
from prefect_modeldeploy.sandbox.world import Record

MACHINES = re.compile(r"^(C\d{1,2}|GPU\+|P[456]000|M4000|V100(-32G)?|RTX[45]000|A[456]000|A100(-80G)?|H100)(x\d)?$")
MOST_REPLICAS = 100
TARGET_IN_FLIGHT = 4
_LONGEST_LOG = 1000
_KEPT_MINUTES = 14 * 24 * 60


class GradientWorld(Emulator):
    """Records and life cycles, without HTTP."""

    timelines: ClassVar = {
        "rollout": Timeline((("submitted", 4), ("applied", 60)), "healthy", failed="errored"),
        "disable": Timeline((("disabling", 4),), "disabled", failed="disabling"),
    }

    def seed(self) -> None:
        """A team with a key, a cluster and one empty project."""
        facts = self.world.facts
        facts.update(
            api_key=self.new_secret("gradient"), team_id=f"t{self.world.new_id('team')}",
            user_id=f"u{self.world.new_id('user')}", cluster_id=f"cl{self.world.new_id('cluster')}",
        )  # fmt: skip
        facts["project_id"] = self.make_project("sandbox")["id"]

    def make_project(self, name: str) -> Record:
        """A new project."""
        record = {
            "id": f"p{self.world.new_id('project', 10)}", "name": name, "teamId": self.world.facts["team_id"],
            "dtCreated": self.clock.stamp(), "secrets": {},
        }  # fmt: skip
        self.world["projects"][record["id"]] = record
        return record

    def project(self, project_id: str) -> Record:
        """A project, or 404."""
        found = self.world["projects"].get(project_id)
        if found is None:
            raise Refusal(404, "Project not found")
        return found

    # --- spec versions --------------------------------------------------------------------------------------------

    def upsert(
        self,
        project_id: str,
        config: Record,
        deployment_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Record:
        """Create or update; every upsert makes a spec version."""
        self.project(project_id)
        named = self.named(project_id, config["name"])
        if deployment_id is None:
            deployment = named or self._create(project_id, config)
        else:
            deployment = self.deployment(deployment_id)
            if deployment["projectId"] != project_id:
                raise Refusal(404, "Deployment not found")
            if named is not None and named["id"] != deployment["id"]:
                raise Refusal(409, f"A deployment named {config['name']!r} exists in this project")
        before = self.world["specs"][deployment["specs"][-1]]["data"] if deployment["specs"] else None
        self._add_version(deployment, config, headers or {})
        self._note(deployment, before, config)
        return deployment

    def _create(self, project_id: str, config: Record) -> Record:
        deployment = {
            "id": self.world.new_uuid("deployment"), "name": config["name"], "projectId": project_id,
            "dtCreated": self.clock.stamp(), "created": self.clock.now(), "specs": [], "hits": {}, "logs": [],
            "clusterId": self.world.facts["cluster_id"],
        }  # fmt: skip
        self.world["deployments"][deployment["id"]] = deployment
        return deployment

    def _add_version(self, deployment: Record, config: Record, headers: Mapping[str, str]) -> None:
        spec: Record = {
            "id": self.world.new_uuid("spec"), "name": config["name"], "deploymentId": deployment["id"],
            "data": config, "userId": self.world.facts["user_id"], "dtCreated": self.clock.stamp(),
            "externalApplied": None, "dtHealthy": None, "error": None, "runId": self.world.new_uuid("run"),
            "metadata": {"gitHeaders": dict(headers)} if headers else None,
        }  # fmt: skip
        machine = machine_of(config)
        if machine is not None and not MACHINES.match(machine):
            spec["error"] = f"Machine type {machine!r} is not available for deployments"
        elif replicas_of(config) > MOST_REPLICAS:
            spec["error"] = f"{replicas_of(config)} replicas are above the team's limit of {MOST_REPLICAS}"
        deployment["name"] = config["name"]
        deployment["specs"].append(spec["id"])
        self.world["specs"][spec["id"]] = spec
        self.begin(spec, "disable" if is_disabled(config) else "rollout", names=[deployment["id"]])
        self.log(deployment, f"spec {spec['id']} submitted")

    def _note(self, deployment: Record, before: Record | None, after: Record) -> None:
        if before is None:
            self.act(deployment, "created")
            return
        changes = 0
        if is_disabled(before) != is_disabled(after):
            self.act(deployment, "disabled" if is_disabled(after) else "enabled")
            changes += 1
        old, new = replicas_of(before), replicas_of(after)
        if old != new:
            self.act(deployment, "scaled", {"from": old, "to": new})
            changes += 1
        if (most_of(before) != old) != (most_of(after) != new):
            self.act(deployment, f"autoscaling.{'enabled' if most_of(after) != new else 'disabled'}")
            changes += 1
        if not changes:
            self.act(deployment, "updated")

    def act(self, deployment: Record, action: str, data: Record | None = None) -> None:
        """Keep an activity item."""
        item = {
            "id": self.world.new_uuid("activity"), "action": f"deployment.{action}", "data": data,
            "projectId": deployment["projectId"], "dtCreated": self.clock.stamp(),
            "actor": {"avatarUrl": None, "email": "sandbox@example.com", "fullName": "Sandbox User"},
            "deployment": {"id": deployment["id"], "name": deployment["name"], "dtDeleted": None},
        }  # fmt: skip
        self.world["activity"][str(item["id"])] = item

    def log(self, deployment: Record, message: str, instance: str | None = None) -> None:
        """Keep a line of the deployment's log."""
        number = self.world.count("log")
        deployment["logs"].append(
            {
                "id": str(number), "jobId": deployment["id"], "message": message, "dtCreated": self.clock.stamp(),
                "instanceId": instance,
            }
        )  # fmt: skip
        del deployment["logs"][:-_LONGEST_LOG]

    def delete(self, deployment: Record) -> None:
        """Gone at once, with its specs."""
        self.act(deployment, "deleted")
        for item in self.world["activity"].values():
            if item["deployment"]["id"] == deployment["id"]:
                item["deployment"]["dtDeleted"] = self.clock.stamp()
        for spec_id in deployment["specs"]:
            del self.world["specs"][spec_id]
        del self.world["deployments"][deployment["id"]]

    # --- reading --------------------------------------------------------------------------------------------------

    def deployment(self, deployment_id: str) -> Record:
        """One that can be seen already, or 404."""
        found = self.world["deployments"].get(deployment_id)
        if found is None or self.latest(found) is None:
            raise Refusal(404, "Deployment not found")
        return found

    def named(self, project_id: str, name: str) -> Record | None:
        """By name, for the server itself: nothing is unseen to it."""
        deployments = self.world["deployments"].values()
        return next((d for d in deployments if (d["projectId"], d["name"]) == (project_id, name)), None)

    def latest(self, deployment: Record) -> Record | None:
        """The latest spec version that this read sees; None when it sees the deployment not at all."""
        specs = [self.world["specs"][spec_id] for spec_id in deployment["specs"][-2:]]
        if not self.unseen(specs[-1]):
            return specs[-1]
        return specs[0] if len(specs) > 1 else None

    def versions(self, deployment: Record) -> list[Record]:
        """All spec versions, newest first."""
        return [self.world["specs"][spec_id] for spec_id in reversed(deployment["specs"])]

    def sign(self, spec: Record) -> str:
        """Where a spec version stands; notes when it was applied and when it became healthy."""
        if spec["error"]:
            return "error"
        word = self.word(spec) or ""
        early = word == "errored" and spec["life"]["fate"]["stage"] == "submitted"
        if early:
            spec["error"] = self.failure(spec)
            return "error"
        if word in ("applied", "errored", "healthy", "disabled") and spec["externalApplied"] is None:
            spec["externalApplied"] = self.clock.stamp()
        if word == "healthy" and spec["dtHealthy"] is None:
            spec["dtHealthy"] = self.clock.stamp()
        return word

    def serving(self, deployment: Record) -> Record | None:
        """The spec version whose pods answer: the newest healthy one, unless a later one has switched all off."""
        for spec in self.versions(deployment):
            sign = self.sign(spec)
            if sign == "disabled":
                return None
            if sign == "healthy":
                return spec
        return None

    def runs(self, deployment: Record) -> list[Record]:
        """The active runs: of the latest version, and of the one that still serves."""
        latest, serving = self.versions(deployment)[0], self.serving(deployment)
        starting = self.sign(latest) in ("applied", "errored")
        return [self.run(spec) for spec in ([latest] if starting else []) + ([serving] if serving else [])]

    def run(self, spec: Record) -> Record:
        """The pods of a spec version."""
        sign, wanted = self.sign(spec), replicas_of(spec["data"])
        ready = 0
        state, message = "pending", None
        if sign == "errored":
            state, message = "errored", self.failure(spec)
        if sign == "healthy":
            seen = self.pods(spec).settle(self.scaling(spec["data"]))
            state, wanted, ready = "healthy", seen.running, seen.ready
        instances = []
        for number in range(wanted):
            own = state if state != "healthy" or number < ready else "pending"
            instances.append(self._instance(spec, number, own, message))
        return {
            "id": spec["runId"], "replicas": wanted, "readyReplicas": ready,
            "availableReplicas": 0 if state == "errored" else wanted, "instances": instances,
        }  # fmt: skip

    def _instance(self, spec: Record, number: int, state: str, message: str | None) -> Record:
        words = {"errored": ["pending", "retrying", "errored"], "healthy": ["pending", "healthy"]}
        steps = [
            {"state": word, "message": message if word == state else None, "timestamp": spec["dtCreated"]}
            for word in words.get(state, ["pending"])
        ]
        return {
            "id": f"{spec['runId'][:-4]}{number:04d}", "instanceId": f"{spec['name'][:40]}-{number}",
            "dtCreated": spec["dtCreated"], "dtFinished": None, "state": state, "stateMessage": message,
            "history": steps,
        }  # fmt: skip

    def pods(self, spec: Record) -> Any:
        """The replicas of a healthy version: the first ones are ready, those that load adds must start."""
        if "pool" not in spec:
            spec["pool"] = {"started": [0.0] * replicas_of(spec["data"]), "busy_at": self.clock.now()}
        return self.pool(spec)

    def scaling(self, config: Record) -> Scaling:
        """The autoscaler's settings: scale-down window 5 minutes, as documented."""
        return Scaling(
            replicas_of(config), most_of(config), target=TARGET_IN_FLIGHT, start_seconds=20, scale_down_seconds=300
        )

    # --- requests -------------------------------------------------------------------------------------------------

    def hit(self, deployment: Record, seconds: float) -> None:
        """Count a request to the endpoint."""
        minute = str(int(self.clock.now() // 60))
        count, total = deployment["hits"].get(minute, (0, 0.0))
        deployment["hits"][minute] = [count + 1, total + seconds]
        if len(deployment["hits"]) > _KEPT_MINUTES:
            deployment["hits"].pop(min(deployment["hits"], key=int))


def machine_of(config: Record) -> str | None:
    """The machine's type, in either dialect."""
    resources = config.get("resources") or {}
    found = resources.get("machineType") or resources.get("instanceType")
    return str(found) if found else None


def replicas_of(config: Record) -> int:
    """Wanted replicas; the default is 1."""
    wanted = (config.get("resources") or {}).get("replicas")
    return 1 if wanted is None else int(wanted)


def most_of(config: Record) -> int:
    """What the autoscaler may go up to; the wanted replicas without one."""
    scaling = (config.get("resources") or {}).get("autoscaling") or {}
    if not scaling or scaling.get("enabled") is False:
        return replicas_of(config)
    return max(replicas_of(config), int(scaling.get("maxReplicas") or 0))


def is_disabled(config: Record) -> bool:
    """`enabled: false`, or no replicas."""
    return config.get("enabled") is False or replicas_of(config) == 0


def spec_hash(config: Record) -> str:
    """The vendor's latestSpecHash: some digest of the spec."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:40]
