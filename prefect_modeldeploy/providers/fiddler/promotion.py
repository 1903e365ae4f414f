"""Promotion at Fiddler, which has none: the role is a note with the model version, and both versions keep running.

A version that takes a role writes it down with the time and the id of the one that had it; only then does the other
one lose its note. A process that dies between the two leaves two claims, of which the later one counts.
"""

from typing import TYPE_CHECKING

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import InvalidInput, NotFound
from prefect_modeldeploy.providers.fiddler.api3 import Api3
from prefect_modeldeploy.providers.fiddler.notes import Notes, read_notes, stamp
from prefect_modeldeploy.providers.fiddler.wire import Model

if TYPE_CHECKING:
    from prefect_modeldeploy.providers.fiddler.client import FiddlerClient


async def promote(client: "FiddlerClient", id: str, environment: str) -> Deployment:
    """Give a version the role once it is ready. Doing it again changes nothing. Raises DeploymentFailed, NotFound."""
    api = client.needs_v3("promote")
    model = await api.model(id)
    await client.ready(id, model.name)
    holder = await _holder(api, model, environment)
    if holder is None or str(holder.id) != id:
        await _hand_over(api, holder, id, environment, former=str(holder.id) if holder else None)
    return await client.get(id)


async def roll_back(client: "FiddlerClient", id: str, environment: str) -> Deployment:
    """Give the role back to the former version, and return it. When another one has the role by now, that one is kept.

    Raises:
        DeploymentFailed: The former version does not get ready; the role stays where it is.
        InvalidInput: No version has the role, or nothing had it before.
    """
    api = client.needs_v3("roll back")
    model = await api.model(id)
    holder, former = await _holder(api, model, environment), read_notes(model.description).former
    if holder is None:
        raise InvalidInput("deployment_id", id, f"no version of {model.name} has the role {environment}")
    if str(holder.id) != id:
        return await client.get(str(holder.id))
    if former is None:
        raise InvalidInput(
            "deployment_id", id, f"is the first one that had the role {environment}; promote another one"
        )
    try:
        await client.ready(former, model.name)
    except NotFound as error:
        raise InvalidInput("deployment_id", id, f"the former version {former} is gone; promote another one") from error
    await _hand_over(api, model, former, environment, former=None)
    return await client.get(former)


async def _holder(api: Api3, of: Model, environment: str) -> Model | None:
    """Which version of the same model in the same project has the role."""
    claims: list[tuple[str, Model]] = []
    for ref in await api.models(of.name):
        model = await api.model(str(ref.id))
        notes = read_notes(model.description)
        same_project = not (model.project and of.project) or model.project.id == of.project.id
        if same_project and notes.environment == environment and notes.since:
            claims.append((notes.since, model))
    return max(claims, key=lambda claim: claim[0])[1] if claims else None


async def _hand_over(api: Api3, holder: Model | None, to: str, environment: str, *, former: str | None) -> None:
    taker = await api.model(to)
    news: dict[str, str | None] = {"environment": environment, "since": stamp()}
    if former:
        news["former"] = former
    await api.note(taker, _changed(taker, news))
    if holder is not None:
        loser = await api.model(str(holder.id))
        await api.note(loser, _changed(loser, {"environment": None, "since": None}))


def _changed(model: Model, news: dict[str, str | None]) -> Notes:
    return read_notes(model.description).model_copy(update=news)


def without_older_claims(found: list[Deployment]) -> list[Deployment]:
    """The deployments, with a role only at the version of a model that took it last."""
    latest: dict[tuple[str, ...], tuple[str, str]] = {}
    for one in found:
        model = one.raw.get("model") or {}
        key = (str((model.get("project") or {}).get("id")), one.model_id, one.environment or "")
        claim = (read_notes(model.get("description")).since or "", one.id)
        latest[key] = max(claim, latest.get(key, claim))
    keep = {id for _, id in latest.values()}
    return [one if one.id in keep else one.model_copy(update={"environment": None}) for one in found]
