"""Creating a deployment: a model version, then its artifact or surrogate; never twice, and nothing half-made left."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, Problem, ProviderError
from prefect_modeldeploy.providers.fiddler.api import Api
from prefect_modeldeploy.providers.fiddler.api3 import Api3, is_uuid
from prefect_modeldeploy.providers.fiddler.notes import Notes, read_notes, user_text, with_notes
from prefect_modeldeploy.providers.fiddler.specs import MODEL_FIELDS, Plan
from prefect_modeldeploy.providers.fiddler.wire import Model, ModelDeployment
from prefect_modeldeploy.transport import may_retry

if TYPE_CHECKING:
    from prefect_modeldeploy.providers.fiddler.client import FiddlerClient

APPEARS_SECONDS = 30.0
"""How long a new model version may take until it can be read."""

REQUIRED = ("schema", "spec")
"""Of a model that has no former version to copy from (`Model.create` of client 3.14.1)."""


async def create(client: "FiddlerClient", plan: Plan) -> Deployment:
    """Create what a plan says, or return what it made before. Raises Conflict, InvalidInput."""
    if not isinstance(client.api, Api3):
        return await _deploy_on_v2(client, plan)
    model, made = await _model_for(client.api, plan)
    id, notes = str(model.id), read_notes(model.description)
    deployed = await deployment_or_none(client.api, id) is not None
    if notes.spec != plan.digest and (notes.spec or deployed):
        raise _taken(plan)
    if notes.job and notes.spec == plan.digest:
        return await client.get(id)
    if not notes.spec and (given := plan.options.model_fields_set_by_user()):
        hint = f"{plan.label} exists, and deploying does not change it: leave it out"
        raise InvalidInput(f"options.{next(iter(given))}", next(iter(given.values())), hint)
    # A deployment without a noted job is what a killed process left: it is deployed again, to have a job to wait for.
    started = Notes(name=plan.spec.name, spec=plan.digest, made=notes.made)
    try:
        await client.api.note(model, started)
        return await _deploy(client, id, plan, replace=deployed)
    except Conflict:
        return await _deployed_by_another(client, id, plan)
    except ProviderError as error:
        hopeless = not error.effect_unknown and not may_retry(error, repeatable=True)
        if made and hopeless and await deployment_or_none(client.api, id) is None:
            await client.api.delete_model(id)
        raise


async def _deployed_by_another(client: "FiddlerClient", id: str, plan: Plan) -> Deployment:
    """The same spec was being created elsewhere: wait until that one has noted its job."""
    with anyio.move_on_after(APPEARS_SECONDS):
        while True:
            notes = read_notes((await client.v3.model(id)).description)
            if notes.spec != plan.digest:
                break
            if notes.job:
                return await client.get(id)
            await anyio.sleep(0.1)
    raise _taken(plan)


async def deploy_once(
    api: Api, id: str, send: Callable[[bool], Awaitable[str | None]], *, replace: bool = False
) -> str | None:
    """Deploy by POST (or, with `replace`, PUT) and return the job's id, also when an answer is lost on the way.

    After a lost answer nobody knows the job. When the deployment is there, the same artifact is put in its place, which
    changes nothing but names a job.

    Raises:
        Conflict: There is a deployment already, and nothing was lost.
    """
    lost = False
    for left in reversed(range(4)):
        try:
            return await send(replace)
        except ProviderError as error:
            if error.effect_unknown and left:
                lost = True
                replace = replace or await deployment_or_none(api, id) is not None
            elif replace or error.effect_unknown or error.problem.status_code not in (400, 409):
                raise
            elif lost:
                replace = True
            elif await deployment_or_none(api, id) is not None:
                raise Conflict("fiddler", f"deploy to {id}", error.problem) from error
            else:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


async def deployment_or_none(api: Api, id: str) -> ModelDeployment | None:
    """A model's deployment, or None when it has none."""
    try:
        return await api.deployment(id)
    except NotFound:
        return None


async def _deploy(client: "FiddlerClient", id: str, plan: Plan, *, replace: bool) -> Deployment:
    if plan.directory is not None:
        return await client.deploy_artifact(id, plan.directory, plan.params, replace=replace)
    dataset = await _dataset_id(client, id, plan.options.dataset)
    return await client.deploy_surrogate(id, dataset, plan.params, replace=replace)


async def _dataset_id(client: "FiddlerClient", id: str, dataset: str | None) -> str | None:
    if dataset is None or is_uuid(dataset) or not isinstance(client.api, Api3):
        return dataset
    found = {one.name: one.id for one in await client.api.datasets(id)}
    if dataset not in found:
        raise InvalidInput("options.dataset", dataset, f"the model has no such dataset; it has {sorted(found)}")
    return found[dataset]


async def _deploy_on_v2(client: "FiddlerClient", plan: Plan) -> Deployment:
    """v2 has no versions and keeps no notes: the model must exist, and must have no deployment."""
    if plan.spec.version != "1":
        raise InvalidInput("version", plan.spec.version, "this server has only the v2 API, which knows no versions")
    found = await client.api.models(plan.spec.model)
    if not found or found[0].id is None:
        raise InvalidInput("model", plan.spec.model, "there is no such model; on the v2 API it must exist")
    if await deployment_or_none(client.api, found[0].id) is not None:
        raise _taken(plan)
    return await _deploy(client, found[0].id, plan, replace=False)


def _taken(plan: Plan) -> Conflict:
    hint = "this version has a deployment of something else; give another version, or update that one"
    return Conflict("fiddler", f"create {plan.label}", Problem(hint, 409, "Conflict"))


async def _model_for(api: Api3, plan: Plan) -> tuple[Model, bool]:
    """The plan's model version, and whether it was created just now."""
    existing = await _existing(api, plan)
    if existing is not None:
        return existing, False
    if plan.options.dataset is not None:
        hint = "a surrogate is made from data of this very version: publish the data first"
        raise InvalidInput("version", plan.spec.version, hint)
    fields = await _fields(api, plan)
    try:
        created = await api.create_model(fields)
    except Conflict as conflict:
        # Somebody was faster, or an answer of ours was lost: look again, as long as a new version may stay hidden.
        return await _appears(api, plan, conflict), False
    return await _appears(api, plan, NotFound("fiddler", f"GET {plan.label}", Problem("did not appear"))), bool(created)


async def _appears(api: Api3, plan: Plan, otherwise: ProviderError) -> Model:
    with anyio.move_on_after(APPEARS_SECONDS):
        while True:
            found = await _existing(api, plan)
            if found is not None:
                return found
            await anyio.sleep(0.1)
    raise otherwise


async def _existing(api: Api3, plan: Plan) -> Model | None:
    found = await api.models(plan.spec.model, plan.spec.version)
    if not found:
        return None
    try:
        return await api.model(str(found[0].id))
    except NotFound:
        return None


async def _fields(api: Api3, plan: Plan) -> dict[str, Any]:
    """What `Model.create` sends: the fields given, else those of the newest version, as the vendor's `duplicate`."""
    given = plan.options.model_fields_set_by_user()
    project_id = await api.project_id()
    newest = await api.newest(plan.spec.model)
    if newest is not None:
        copied = {name: (newest.model_extra or {}).get(name, getattr(newest, name, None)) for name in MODEL_FIELDS}
        copied["description"] = user_text(newest.description) or None
        given = {**{name: value for name, value in copied.items() if value is not None}, **given}
        project_id = project_id or (newest.project.id if newest.project else None)
    for name in REQUIRED:
        if name not in given:
            raise InvalidInput(f"options.{name}", None, f"{plan.spec.model} has no version to copy it from: give it")
    if project_id is None:
        raise InvalidInput("project", None, f"{plan.spec.model} is new: set the project on the credentials block")
    ours = Notes(name=plan.spec.name, spec=plan.digest, made=True)
    return {
        "input_type": "structured",
        "task": "not_set",
        **given,
        "name": plan.spec.model,
        "project_id": project_id,
        "version": plan.spec.version,
        "description": with_notes(given.get("description"), ours),
    }
