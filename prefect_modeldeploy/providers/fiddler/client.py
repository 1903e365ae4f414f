"""Fiddler in our words. What it can do, and how far each part is proven: docs/providers/fiddler.md."""

import shutil
import tarfile
import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import anyio

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentUpdate,
)
from prefect_modeldeploy.errors import DeploymentFailed, InvalidInput, NotFound, UnsupportedOperation, WaitTimeout
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.fiddler import creation, promotion
from prefect_modeldeploy.providers.fiddler.api import Api, Row, job_if_known
from prefect_modeldeploy.providers.fiddler.api3 import Api3, is_uuid
from prefect_modeldeploy.providers.fiddler.notes import Doing, Notes, read_notes
from prefect_modeldeploy.providers.fiddler.specs import Options, params_of, plan_of, replicas_of
from prefect_modeldeploy.providers.fiddler.views import view
from prefect_modeldeploy.providers.fiddler.wire import (
    ArtifactType,
    DeploymentParams,
    Job,
    JobStatus,
    Model,
    ModelDeployment,
    checked_directory,
)
from prefect_modeldeploy.providers.together import all_of

AT_ONCE = 8
"""Requests in flight for one `find`; the vendor allows 30 reads a second."""

JOB_APPEARS_SECONDS = 120.0
"""How long after its start a job that is not found counts as PENDING rather than as forgotten."""


class FiddlerClient(ServingClient):
    """Deployments of Fiddler: one per model version, addressed by its UUID (v2: by `project:model`).

    Args:
        api: The generation of the API that the server has.
        base_url: The server's root.
        job_timeout_seconds: How long a promotion, a roll-back or a deletion waits for Fiddler's job.
        delete_any_model: Whether `delete` may delete models that this package did not create.
    """

    provider: ClassVar[str] = "fiddler"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.CREATE,
            Capability.UPDATE,
            Capability.DELETE,
            Capability.LIST,
            Capability.SCALE,
            Capability.STOP,
            Capability.START,
            Capability.PROMOTE,
            Capability.ROLL_BACK,
            Capability.PREDICT,
        }
    )

    def __init__(
        self, api: Api, base_url: str, *, job_timeout_seconds: float = 1800.0, delete_any_model: bool = False
    ) -> None:
        self.api = api
        self.job_timeout_seconds = job_timeout_seconds
        self._base_url, self._delete_any_model = base_url, delete_any_model

    @property
    def v3(self) -> Api3:
        """All of the v3 API: projects, models, datasets, files, explanations. Raises UnsupportedOperation on v2."""
        return self.needs_v3("v3")

    def needs_v3(self, operation: str) -> Api3:
        """The v3 API. Raises UnsupportedOperation naming the operation on a server that has only v2."""
        if isinstance(self.api, Api3):
            return self.api
        raise UnsupportedOperation(self.provider, operation, "this server has only the v2 API (older than 24.4)")

    # --- looking ---------------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment. Raises NotFound when the model, or its deployment, does not exist."""
        return await self._look(deployment_id)

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return the deployments of the project, or those of one model: its name, or the UUID of one version.

        Fiddler lists models, not deployments: one list call, then two or three reads per model version.
        """
        if model is not None and self.api.generation == "v3" and is_uuid(model):
            return await self.look([model])
        versions = await self.api.models(model)
        found = await all_of([partial(self._look_if_there, one) for one in versions], AT_ONCE)
        return promotion.without_older_claims([one for one in found if one is not None])

    async def look(self, deployment_ids: Collection[str], *, model: str | None = None) -> list[Deployment]:
        """Return those of these deployments that there are: two or three reads each, and none for other versions."""
        found = await all_of([partial(self._look_if_there, Model(id=id)) for id in deployment_ids], AT_ONCE)
        return [deployment for deployment in found if deployment is not None]

    async def _look_if_there(self, model: Model) -> Deployment | None:
        try:
            return await self._look(str(model.id), model)
        except NotFound:
            return None

    async def _look(self, id: str, model: Model | None = None) -> Deployment:
        model = await self._with_description(id, model)
        notes, missing, deployment = read_notes(model.description), None, None
        try:
            deployment = await self.api.deployment(id)
        except NotFound as error:
            missing = error
        job = await self._last_job(deployment, notes)
        if missing is not None and job is None:
            raise missing
        return view(id, f"{self._base_url}{self.api.predict_path}", model, deployment, job, notes)

    async def _with_description(self, id: str, model: Model | None) -> Model:
        if self.api.generation == "v2":
            project, _, name = id.partition(":")
            return Model(id=id, name=name, project_name=project)
        # A list may leave the description out; only what was given is known.
        complete = model is not None and "description" in model.model_fields_set
        return model if model is not None and complete else await self.api.model(id)

    async def _last_job(self, deployment: ModelDeployment | None, notes: Notes) -> Job | None:
        job_id = (deployment.job_id if deployment else None) or notes.job
        job = await job_if_known(self.api, job_id)
        if job is None and job_id is not None and job_id == notes.job and notes.age_seconds() < JOB_APPEARS_SECONDS:
            return Job(id=job_id, status=JobStatus.PENDING)
        return job

    # --- changing --------------------------------------------------------------------------------------------------

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a model version and deploy an artifact (or a surrogate) to it, or return what this spec made before.

        `spec.model` and `spec.version` are the model version; one that exists without a deployment is used, and a new
        one is a copy of the newest version, with the fields of `spec.options` (see `specs.Options`).

        Raises:
            InvalidInput: A field cannot work; nothing was changed.
            Conflict: The version has a deployment of something else.
        """
        return await creation.create(self, await anyio.to_thread.run_sync(plan_of, spec))

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change replicas, cpu and memory; with `source` (a directory) also replace the artifact in place (PUT)."""
        if update.env is not None:
            raise InvalidInput("env", sorted(update.env), "Fiddler has no environment variables")
        if update.version is not None:
            raise InvalidInput("version", update.version, "a version is a deployment of its own at Fiddler: create it")
        if update.environment is not None:
            raise InvalidInput("environment", update.environment, "is given by promote()")
        options = Options.checked(update.options or {})
        params = params_of(update.autoscaling, update.resources, options)
        if update.source is not None:
            directory = checked_directory("source", update.source)
            await self.deploy_artifact(deployment_id, directory, params, replace=True)
            return await self._look(deployment_id)
        if given := options.model_dump(exclude_none=True, by_alias=True):
            raise InvalidInput(f"options.{next(iter(given))}", next(iter(given.values())), "needs a new source")
        return await self._resize(deployment_id, params)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Set the number of replicas, 1 to 10; a stopped deployment keeps it for its next start."""
        replicas = replicas_of(autoscaling)
        if replicas is None:
            raise InvalidInput("autoscaling", autoscaling, "give min_replicas; Fiddler has a fixed number of replicas")
        return await self._resize(deployment_id, DeploymentParams.checked(replicas=replicas))

    async def _resize(self, id: str, params: DeploymentParams) -> Deployment:
        if not params.body():
            raise InvalidInput("update", {}, "changes nothing; give autoscaling, resources or source")
        # v3's own client always sends `active`, as it reads it; v2's sends only what changes.
        active = (await self.api.deployment(id)).active if self.api.generation == "v3" else None
        return await self.patch_deployment(
            id, active=active, replicas=params.replicas, cpu=params.cpu, memory=params.memory
        )

    async def stop(self, deployment_id: str) -> Deployment:
        """Remove the pods (`active=false`); the values stay, and nothing but `start` brings them back."""
        return await self.patch_deployment(deployment_id, active=False, doing="stop")

    async def start(self, deployment_id: str) -> Deployment:
        """Make the pods again (`active=true`); also the last step of a MANUAL deployment."""
        return await self.patch_deployment(deployment_id, active=True, doing="start")

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Not possible: no request wakes an inactive deployment. Raises UnsupportedOperation."""
        raise self._lacks(Capability.SCALE_TO_ZERO, "nothing wakes an inactive deployment; use stop() and start()")

    async def delete(self, deployment_id: str) -> None:
        """Delete the model version, which is the only way to delete a deployment, and wait for Fiddler's job.

        All its data goes with it: only a version that this package created is deleted, unless the block allows more.
        MANUAL pods stay; whoever made them removes them.

        Raises:
            InvalidInput: The model was not created by this package. Nothing was changed.
            DeploymentFailed: The job failed.
        """
        if not self._delete_any_model:
            try:
                model = await self._with_description(deployment_id, None)
            except NotFound:
                return
            if not read_notes(model.description).made:
                hint = "was not created by this package; deleting it deletes the model with its data: stop it instead, "
                raise InvalidInput("deployment_id", deployment_id, f"{hint}or set delete_any_model on the block")
        try:
            job_id = await self.api.delete_model(deployment_id)
        except NotFound:
            return
        if job_id is not None:
            await self.wait_for_job(job_id, gone_is_done=True)

    async def promote(self, deployment_id: str, *, environment: str) -> Deployment:
        """Start this version if it is stopped, wait until it is ready, and give it the role `environment`.

        The former one keeps running, since callers name the model in each request; stop it when none does any more.
        """
        return await promotion.promote(self, deployment_id, environment)

    async def roll_back(self, deployment_id: str, *, environment: str) -> Deployment:
        """Give the role back to the version that had it before this one, started if it is stopped. Returns that one."""
        return await promotion.roll_back(self, deployment_id, environment)

    async def predict(
        self, deployment_id: str, payload: Any, *, path: str | None = None, chunk_size: int | None = None
    ) -> list[Row]:
        """Predict. `payload` is a row (a dict), or a list of rows; returns one prediction per row."""
        if path is not None:
            raise InvalidInput("path", path, "Fiddler has one path for predictions; leave it out")
        rows = [payload] if isinstance(payload, Mapping) else payload
        if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
            raise InvalidInput("payload", type(payload).__name__, "must be a row (column -> value), or a list of rows")
        return await self.api.predict(deployment_id, [dict(row) for row in rows], chunk_size=chunk_size)

    # --- Fiddler's own ---------------------------------------------------------------------------------------------

    async def patch_deployment(
        self,
        deployment_id: str,
        *,
        active: bool | None = None,
        replicas: int | None = None,
        cpu: int | None = None,
        memory: int | None = None,
        doing: Doing = "change",
    ) -> Deployment:
        """The vendor's `ModelDeployment.update`: all of it in one change. cpu in milli-CPU, memory in MiB."""
        changed = await self.api.patch_deployment(
            deployment_id, active=active, replicas=replicas, cpu=cpu, memory=memory
        )
        return await self.noted(deployment_id, doing, changed.job_id)

    async def deploy_artifact(
        self, deployment_id: str, directory: Path, params: DeploymentParams | None = None, *, replace: bool = False
    ) -> Deployment:
        """Deploy the artifact in a directory to a model that exists, or replace the one that is deployed."""
        directory = checked_directory("directory", directory)
        async with self.api.prepared(directory) as prepared:
            job = await creation.deploy_once(
                self.api,
                deployment_id,
                lambda put: self.api.deploy_artifact(
                    deployment_id, prepared, params or DeploymentParams.checked(), replace=put
                ),
                replace=replace,
            )
        return await self.noted(deployment_id, "deploy", job)

    async def deploy_surrogate(
        self,
        deployment_id: str,
        dataset_id: str | None = None,
        params: DeploymentParams | None = None,
        *,
        replace: bool = False,
    ) -> Deployment:
        """Deploy a surrogate made from a dataset (v3: its UUID) to a model that exists, or replace it."""
        params = (params or DeploymentParams.checked()).model_copy(update={"artifact_type": ArtifactType.SURROGATE})
        if params.model_dump(exclude_none=True) == {"artifact_type": ArtifactType.SURROGATE}:
            params = DeploymentParams.checked()
        job = await creation.deploy_once(
            self.api,
            deployment_id,
            lambda put: self.api.deploy_surrogate(deployment_id, dataset_id, params, replace=put),
            replace=replace,
        )
        return await self.noted(deployment_id, "deploy", job)

    async def download_artifact(self, deployment_id: str, directory: Path) -> Path:
        """Unpack the deployed artifact into a new directory: keep it before replacing it, to be able to go back."""
        if await anyio.Path(directory).exists():
            raise InvalidInput("directory", str(directory), "exists already; give a new one")
        content = await self.api.download_artifact(deployment_id)
        await anyio.to_thread.run_sync(_unpack, content, directory)
        return directory

    async def get_job(self, job_id: str, *, verbose: bool = False) -> Job:
        """A job, with its tasks when `verbose`. Raises NotFound."""
        return await self.api.job(job_id, verbose=verbose)

    async def wait_for_job(
        self, job_id: str, *, timeout_seconds: float | None = None, gone_is_done: bool = False
    ) -> Job:
        """Wait until a job has succeeded.

        Args:
            job_id: Which one.
            timeout_seconds: When to give up; None: the client's `job_timeout_seconds`.
            gone_is_done: Whether a job that is not found any more has done its work (a deletion takes it along).

        Raises:
            DeploymentFailed: It ended as FAILURE or REVOKED.
            WaitTimeout: The time is over.
        """
        limit = self.job_timeout_seconds if timeout_seconds is None else timeout_seconds
        interval = 0.05
        with anyio.move_on_after(limit):
            while True:
                try:
                    job = await self.api.job(job_id)
                except NotFound:
                    if not gone_is_done:
                        raise
                    return Job(id=job_id, status=JobStatus.SUCCESS)
                if job.failed:
                    raise DeploymentFailed(str(job.info.get("resource_name") or job_id), job.reason)
                if not job.running:
                    return job
                await anyio.sleep(interval)
                interval = min(5.0, interval * 1.3)
        raise WaitTimeout(f"job {job_id} is still running after {limit:g} s; raise job_timeout_seconds on the block")

    # --- for this package's own modules ------------------------------------------------------------------------------

    async def noted(self, id: str, doing: Doing, job: str | None, **more: Any) -> Deployment:
        """Keep the job of a change where every process finds it, and return the deployment as it is now."""
        model = await self._with_description(id, None)
        notes = read_notes(model.description).started(job, doing).model_copy(update=more)
        await self.api.note(model, notes)
        return await self._look(id)

    async def ready(self, id: str, model: str) -> Deployment:
        """Wait until a deployment is ready; a stopped one is started first.

        Raises:
            DeploymentFailed: It failed, or is not ready after `job_timeout_seconds`.
        """
        deployment = await self.get(id)
        if deployment.status == "STOPPED":
            deployment = await self.start(id)
        if not deployment.ready:
            waiting = self.wait([id], lambda d: d.ready, model=model, timeout_seconds=self.job_timeout_seconds)
            try:
                async for seen in waiting:
                    deployment = seen[0]
            except WaitTimeout as error:  # what follows is ours to do: nothing was changed, and nothing will be
                reason = f"it is not ready after {self.job_timeout_seconds:g} s: look at its job, or raise "
                raise DeploymentFailed(id, reason + "job_timeout_seconds on the block") from error
        return deployment


def _unpack(content: bytes, directory: Path) -> None:
    """Into a neighbour first, so that a broken archive leaves no half directory. Takes plain and gzipped tars."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        inside = Path(temporary) / "artifact"
        with tarfile.open(fileobj=BytesIO(content)) as archive:
            archive.extractall(inside, filter="data")
        shutil.move(str(inside), str(directory))
