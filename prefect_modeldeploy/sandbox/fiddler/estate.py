"""Fiddler's world: projects, model versions, their deployments, jobs and files; and how they come and go."""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from typing import Any, ClassVar

from prefect_modeldeploy.sandbox.behaviours import ModelFailed
from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.fiddler._bodies import Change, Params, plain
from prefect_modeldeploy.sandbox.lifecycle import Timeline
from prefect_modeldeploy.sandbox.world import Record

KEPT_BYTES = 4 * 1024 * 1024
"""Larger artifacts are not kept in the world, only in memory."""

DEFAULTS = {"image_uri": "md-base/python/python-311:1.0.0", "replicas": 1, "cpu": 100, "memory": 256}
SHOWN = (
    "artifact_type", "deployment_type", "active", "image_uri", "replicas", "cpu", "memory",
    "created_at", "updated_at", "created_by", "updated_by",
)  # fmt: skip
"""What a deployment shows of itself."""

_PROGRESS = {"PENDING": 0, "STARTED": 50, "RETRY": 50}
_JOB_NAMES = {"update": "Update model deployment", "delete": "Delete model"}


class Estate(Emulator):
    """The world and its rules, without the routes."""

    timelines: ClassVar = {
        "appear": Timeline((), "THERE"),
        "deploy": Timeline((("PENDING", 3), ("STARTED", 90)), "SUCCESS", failed="FAILURE"),
        "update": Timeline((("PENDING", 2), ("STARTED", 25)), "SUCCESS", failed="FAILURE"),
        "delete": Timeline((("PENDING", 1), ("STARTED", 8)), "SUCCESS", failed="FAILURE"),
    }

    # --- finding -----------------------------------------------------------------------------------------------------

    def alive(self, model: Record) -> bool:
        """Whether a model is there still; one whose deletion has succeeded is forgotten."""
        job = self.world["jobs"].get(model.get("deletion", ""))
        if job is None or self.status(job) != "SUCCESS":
            return True
        self.world["models"].pop(model["id"], None)
        self.world["deployments"].pop(model["id"], None)
        return False

    def models(self) -> list[Record]:
        """Model versions that can be found, the oldest first."""
        return [one for one in list(self.world["models"].values()) if self.alive(one) and not self.unseen(one)]

    def model(self, id: str) -> Record:
        """One model version."""
        found = self.world["models"].get(id)
        if found is None or not self.alive(found) or self.unseen(found):
            raise Refusal(404, "Model not found for the given identifier", "ObjectNotFound")
        return found

    def deployment(self, model: Record) -> Record:
        """A model's deployment."""
        found = self.world["deployments"].get(model["id"])
        if found is None or self.unseen(found):
            raise Refusal(404, "Model deployment not found for the given identifier", "ObjectNotFound")
        return found

    def job(self, id: str) -> Record:
        """A job."""
        found = self.world["jobs"].get(id)
        if found is None or self.unseen(found):
            raise Refusal(404, "Job not found for the given identifier", "ObjectNotFound")
        return found

    def project(self, id: str) -> Record:
        """A project."""
        found = self.world["projects"].get(id)
        if found is None:
            raise Refusal(404, "Project not found for the given identifier", "ObjectNotFound")
        return found

    # --- jobs --------------------------------------------------------------------------------------------------------

    def status(self, job: Record) -> str:
        """The job's status now. A fate `fail` whose reason begins with REVOKED is a cancelled job."""
        word = str(self.word(job))
        if word == "FAILURE" and (self.failure(job) or "").startswith("REVOKED"):
            return "REVOKED"
        return "FAILURE" if word == "SUCCESS" and job.get("broken") else word

    def start_job(self, kind: str, model: Record, name: str = "", broken: str | None = None) -> Record:
        """Begin a job about a model."""
        id = self.world.new_uuid("job")
        job: Record = {"id": id, "name": name or _JOB_NAMES[kind], "kind": kind, "model": model["id"], "broken": broken}
        job["about"] = {"name": model["name"], "version": model["version"], "project": model["project"]}
        self.world["jobs"][id] = job
        self.begin(job, kind, (model["id"], model["name"], model["version"]))
        return job

    def job_view(self, job: Record, verbose: bool = False) -> Record:
        """A job as v3 shows it, with v2's `uuid`."""
        status, about = self.status(job), job["about"]
        message = job["broken"] or self.failure(job) if status in ("FAILURE", "REVOKED") else None
        model = {"id": job["model"], "name": about["name"], "version": about["version"]}
        task = {"status": status, "result": None, "error_message": message}
        return {
            "id": job["id"],
            "uuid": job["id"],
            "name": job["name"],
            "status": status,
            "progress": _PROGRESS.get(status, 100.0),
            "info": {
                "resource_type": "MODEL",
                "resource_name": about["name"],
                "project_name": about["project"]["name"],
                "resource": model,
                "model": model,
                "project": about["project"],
            },
            "error_message": message,
            "error_reason": "ModelServeError" if status == "FAILURE" else None,
            "extras": {job["id"]: task} if verbose else {},
        }

    # --- models ------------------------------------------------------------------------------------------------------

    def add_model(self, fields: Record, project: Record) -> Record:
        """Create a model version."""
        version = fields.get("version") or "v1"
        for other in self.world["models"].values():
            same = (other["name"], other["version"], other["project"]["id"]) == (fields["name"], version, project["id"])
            if same and self.alive(other):
                raise Refusal(409, "Model already exists", "Conflict")
        now, user = self.clock.stamp(), self.world.facts["user"]
        model: Record = {
            "id": self.world.new_uuid("model"),
            "number": self.world.count("number"),
            "task_params": {},
            "xai_params": {},
            "description": None,
            "event_id_col": None,
            "event_ts_col": None,
            "event_ts_format": None,
            "input_type": "structured",
            "task": "not_set",
            "artifact_files": [],
            "is_binary_ranking_model": False,
            **{name: value for name, value in fields.items() if value is not None and name != "project_id"},
            "version": version,
            "project": {"id": project["id"], "name": project["name"]},
            "organization": self.world.facts["organization"],
            "created_at": now,
            "updated_at": now,
            "created_by": user,
            "updated_by": user,
        }
        self.world["models"][model["id"]] = model
        self.begin(model, "appear", (model["version"],))
        return model

    def model_view(self, model: Record) -> Record:
        """A model as v3 shows it."""
        hidden = ("life", "unseen", "number", "deletion", "info", "file_list", "framework", "requirements")
        deployment = self.world["deployments"].get(model["id"])
        done = deployment is not None and deployment["artifact"] == "done"
        if (
            deployment is not None
            and not done
            and self.status(self.world["jobs"][deployment["deploy_job"]]) == "SUCCESS"
        ):
            deployment["artifact"], done = "done", True
        kind = deployment["artifact_type"] if deployment is not None and done else ""
        status = {"PYTHON_PACKAGE": "user_uploaded", "SURROGATE": "surrogate"}.get(kind, "no_model")
        return {**{k: v for k, v in model.items() if k not in hidden}, "artifact_status": status}

    def change_model(self, model: Record, changes: Record) -> None:
        """Change a model's fields; a version that is taken is a conflict."""
        version = changes.get("version")
        if version and any(
            (other["name"], other["version"], other["project"]["id"])
            == (model["name"], version, model["project"]["id"])
            for other in self.world["models"].values()
            if other is not model
        ):
            raise Refusal(409, "Model already exists", "Conflict")
        model.update(changes, updated_at=self.clock.stamp(), updated_by=self.world.facts["user"])

    def delete_model(self, model: Record) -> Record:
        """Begin a model's deletion; a second one is the same."""
        running = self.world["jobs"].get(model.get("deletion", ""))
        if running is not None and self.status(running) not in ("FAILURE", "REVOKED"):
            return running
        job = self.start_job("delete", model)
        model["deletion"] = job["id"]
        return job

    # --- deployments -------------------------------------------------------------------------------------------------

    def deploy(self, model: Record, params: Params, kind: str, content: bytes | None, *, replace: bool) -> Record:
        """Deploy an artifact (its tar) or a surrogate (None). Returns the job."""
        there = self.world["deployments"].get(model["id"])
        path = f"{model['project']['name']}/{model['name']}"
        if there is not None and not replace:
            hint = "Please use update_model_artifact or update_model_surrogate instead"
            raise Refusal(400, f"Model {path} already has artifact. {hint}", "BadRequest")
        if there is None and replace:
            raise Refusal(404, f"Model artifact not found for {path}", "ObjectNotFound")
        broken = None if content is None or has_package(content) else "package.py not found in the artifact"
        now, user = self.clock.stamp(), self.world.facts["user"]
        given = params.model_dump(mode="json", exclude_none=True)
        deployment: Record = {
            "id": self.world.new_uuid("deployment"),
            "number": self.world.count("deployment number"),
            "deployment_type": "BASE_CONTAINER",
            **DEFAULTS,
            "created_at": now,
            "created_by": user,
            **{name: value for name, value in (there or {}).items() if name not in ("life", "unseen")},
            **given,
            "artifact_type": kind,
            "artifact": "pending",
            "updated_at": now,
            "updated_by": user,
        }
        manual = deployment["deployment_type"] == "MANUAL"
        deployment["active"] = bool(there and there["active"]) if manual else True
        manual_word = " - manual" if manual else ""
        what = "artifact" if kind == "PYTHON_PACKAGE" else "surrogate"
        job = self.start_job("deploy", model, f"Deploy {what} model{manual_word}", broken)
        deployment.update(job=job["id"], deploy_job=job["id"], kind="deploy", was_serving=False)
        self.world["deployments"][model["id"]] = deployment
        if there is None:
            self.begin(deployment, "appear", (model["id"], model["name"], model["version"]))
        else:
            deployment["life"] = there["life"]
        if content is not None:
            self.keep_artifact(deployment, content)
        return job

    def change(self, model: Record, change: Change) -> Record:
        """Change a deployment. Returns the job."""
        deployment = self.deployment(model)
        serving = self.serving(deployment)
        changes = change.model_dump(exclude_none=True)
        stays = serving and change.active is not False
        job = self.start_job("update", model)
        deployment.update(changes, job=job["id"], kind="update", was_serving=stays)
        deployment.update(updated_at=self.clock.stamp(), updated_by=self.world.facts["user"])
        return job

    def serving(self, deployment: Record) -> bool:
        """Whether its pods take requests now."""
        if not deployment["active"]:
            return False
        done = self.status(self.world["jobs"][deployment["job"]]) == "SUCCESS"
        return done or (deployment["kind"] == "update" and bool(deployment["was_serving"]))

    async def predict(self, model: Record, rows: list[Record]) -> list[Any]:
        """What the model answers, a row for a row."""
        deployment = self.deployment(model)
        if not self.serving(deployment):
            status = self.status(self.world["jobs"][deployment["job"]])
            if deployment["active"] and status in _PROGRESS:
                raise Refusal(503, "Model deployment is starting", "ServiceUnavailable")
            raise Refusal(400, "Model deployment is not active", "BadRequest")
        names = [model["id"], model["name"], model["version"]]
        outputs = model["spec"].get("outputs")
        column = str(outputs[0]) if isinstance(outputs, list) and outputs else "prediction"
        answers = []
        for row in rows:
            try:
                answer = plain(await self.shared.behaviours.answer(self.name, names, row))
            except ModelFailed as error:
                raise Refusal(500, str(error), "ModelServeError") from error
            answers.append(answer if isinstance(answer, dict) else {column: answer})
        return answers

    # --- files -------------------------------------------------------------------------------------------------------

    def keep_artifact(self, deployment: Record, content: bytes) -> None:
        """Keep what was deployed, for downloads."""
        deployment["sha256"] = hashlib.sha256(content).hexdigest()
        self._large[deployment["sha256"]] = content
        small = len(content) <= KEPT_BYTES
        deployment["tar"] = base64.b64encode(content).decode() if small else None

    def artifact(self, model: Record) -> bytes:
        """The deployed artifact as a plain tar."""
        deployment = self.world["deployments"].get(model["id"]) or {}
        content = self._large.get(deployment.get("sha256", ""))
        if content is None and deployment.get("tar"):
            content = base64.b64decode(deployment["tar"])
        if content is None:
            path = f"{model['project']['name']}/{model['name']}"
            raise Refusal(404, f"Model artifact not found for {path}", "ObjectNotFound")
        try:
            return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        except (OSError, EOFError):
            return content

    def add_file(self, name: str, contents: Iterable[bytes]) -> Record:
        """Keep an upload."""
        content = b"".join(contents)
        id, now = self.world.new_uuid("file"), self.clock.stamp()
        user = self.world.facts["user"]
        file: Record = {"id": id, "filename": name, "status": "SUCCESSFUL", "type": "FILE", "bytes": len(content)}
        file |= {"created_at": now, "updated_at": now, "created_by": user, "updated_by": user}
        self.world["files"][id] = file
        self._uploads[id] = content
        return file

    def taken_file(self, id: str) -> bytes:
        """An upload's content."""
        content = self._uploads.get(id)
        if content is None:
            raise Refusal(404, "File not found for the given identifier", "ObjectNotFound")
        return content

    @property
    def _uploads(self) -> dict[str, bytes]:
        """Uploads that wait to be deployed; only in memory."""
        found: dict[str, bytes] = self.__dict__.setdefault("_uploaded", {})
        return found

    @property
    def _large(self) -> dict[str, bytes]:
        found: dict[str, bytes] = self.__dict__.setdefault("_artifacts", {})
        return found


def has_package(content: bytes) -> bool:
    """Whether a tar holds a package.py at its root."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            return any(name.removeprefix("./") == "package.py" for name in archive.getnames())
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError):
        return False
