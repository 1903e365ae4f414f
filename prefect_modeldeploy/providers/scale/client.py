"""Scale's V4 API in our words."""

import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, ClassVar

from prefect_modeldeploy.deployments import (
    Autoscaling,
    Capability,
    Deployment,
    DeploymentSpec,
    DeploymentUpdate,
)
from prefect_modeldeploy.errors import AuthenticationFailed, Conflict, InvalidInput, NotFound, Problem, ProviderError
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.scale.catalog import Groups, Models, Templates, usage
from prefect_modeldeploy.providers.scale.roles import server_name, server_of, with_roles
from prefect_modeldeploy.providers.scale.schemas import (
    Deleted,
    DeploymentPatch,
    ScaleDeployment,
    Usage,
    checked,
)
from prefect_modeldeploy.providers.scale.servers import Servers
from prefect_modeldeploy.providers.scale.translate import (
    autoscaling_of,
    digest,
    mark_of,
    options_of,
    refuse,
    size,
    split_id,
    to_deployment,
    to_request,
    whole_configuration,
    whole_metadata,
    workers,
)
from prefect_modeldeploy.providers.scale.waiting import Patience
from prefect_modeldeploy.providers.scale.wire import at, given, items, patiently
from prefect_modeldeploy.transport import Transport, create_once

PREDICT_TIMEOUT_SECONDS = 120.0
"""A request may be held while workers start; the vendor's gateway was seen to give up after 30 s."""

TYPED_INFERENCE = ("completions", "chat-completions", "embeddings", "rerankings")

_Read = Callable[[ScaleDeployment], dict[str, Any]]


class ScaleClient(ServingClient):
    """Deployments of model instances; `models`, `templates`, `groups` and `servers` are the rest of the API.

    Args:
        transport: How the API is called.
        base_url: For the addresses of deployments.
        account_id: Account that owns what is created; None: the API key's own.
        probe: Payload that a deployment must answer while somebody waits for it; None: the vendor's word is enough.
    """

    provider: ClassVar[str] = "scale"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.CREATE,
            Capability.UPDATE,
            Capability.DELETE,
            Capability.LIST,
            Capability.SCALE,
            Capability.SCALE_TO_ZERO,
            Capability.WAKE,
            Capability.PROMOTE,
            Capability.ROLL_BACK,
            Capability.PREDICT,
        }
    )

    def __init__(
        self,
        transport: Transport,
        base_url: str,
        account_id: str | None = None,
        probe: Mapping[str, Any] | None = None,
    ) -> None:
        self._transport, self._base_url, self._account_id = transport, base_url, account_id
        self.probe = probe
        self.models = Models(transport, account_id)
        self.templates = Templates(transport, account_id)
        self.groups = Groups(transport, account_id)
        self.servers = Servers(transport)
        self._model_ids: dict[str, str] = {}
        self._model_names: dict[str, str] = {}

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment, by `<model id>/<deployment id>`.

        `ready` repeats the vendor's word, which says nothing about workers; `wait` asks the deployment itself.
        `environment` is the one whose model server serves from it.
        """
        [found] = await self._with_roles([self._translated(await self._get(deployment_id), split_id(deployment_id)[0])])
        return found

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return all deployments, or those of one model (id, or name if there is one of it)."""
        if model is None:
            everything = [self._translated(one) async for one in items(self._transport, "/v4/model-deployments")]
            return await self._with_roles(everything)
        return await self._with_roles(await self.listed(await self._model_id(model)))

    async def listed(self, model_id: str) -> list[Deployment]:
        """Return the deployments of a model by one list call: their environments are the labels of their creation."""
        path = at("v4", "models", model_id, "deployments")
        return [self._translated(one, model_id) async for one in items(self._transport, path)]

    async def wait(
        self,
        deployment_ids: Collection[str],
        until: Callable[[Deployment], bool],
        *,
        model: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> AsyncIterator[list[Deployment]]:
        """As every provider's, but READY counts only when the deployment has answered a request (`probe`).

        It may be listed late. `model` is not needed: the ids name the models, of which a new version has its own.
        """
        patience = Patience(self, deployment_ids, timeout_seconds)
        async for seen in patience.wait(deployment_ids, until, model=model, timeout_seconds=timeout_seconds):
            yield seen

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """None: the vendor tells nobody when the last request was."""
        return None

    async def usage(self, deployment_id: str, start: Any, end: Any, chunks: int = 1) -> Usage:
        """Tokens that a deployment used, in equal chunks of the period from `start` to `end` (datetimes)."""
        path = at("v4", "model-deployments", split_id(deployment_id)[1])
        return await usage(self._transport, path, start, end, chunks)

    # --- changing -------------------------------------------------------------------------------------------------

    async def create(self, spec: DeploymentSpec) -> Deployment:
        """Create a deployment of a model, or return the one that this very spec has created before.

        It is found by its name and our mark, before and after an answer was lost. The vendor keeps no names unique and
        knows no idempotency, so it is looked again afterwards: of what a request that seemed lost, or somebody else at
        the same moment, has made of this spec the oldest stays, and everybody deletes what else is their own.

        Raises:
            Conflict: The name is taken by a deployment that was created otherwise.
            InvalidInput: A field that V4 does not have, or a value that it cannot take.
            NotFound: There is no such model.
        """
        call = secrets.token_hex(8)
        request = to_request(spec, self._account_id, call)
        model_id = await self._model_id(spec.model)
        path = at("v4", "models", model_id, "deployments")

        async def look_up() -> dict[str, Any] | None:
            return await self._created_from(spec, model_id)

        async def look_again() -> dict[str, Any] | None:
            found: dict[str, Any] | None = await patiently(look_up)
            return found

        async def create() -> dict[str, Any]:
            return dict(await self._transport.call("POST", path, json=request.body()))

        made = await look_up()
        if made is None:
            made = await self._only_one(spec, model_id, call, await create_once(create, look_again))
        return self._translated(await self._until_found(model_id, made), model_id)

    async def update(self, deployment_id: str, update: DeploymentUpdate) -> Deployment:
        """Change a deployment in place. The backend rolls: the former workers serve until the new ones do.

        `version` and `environment` are labels of ours; another model needs another deployment.

        Raises:
            InvalidInput: A field that V4 does not have, or a value that it cannot take.
            Conflict: The vendor is still busy with an earlier change.
        """
        refuse(update)

        def changes(now: ScaleDeployment) -> dict[str, Any]:
            vendor = str((now.vendor_configuration or {}).get("vendor", "LAUNCH"))
            named = options_of(update.options or {}, vendor).model_dump(exclude_unset=True, exclude_none=True)
            parameters, metadata = named.pop("model_creation_parameters", None), named.pop("deployment_metadata", {})
            if (wanted := named.pop("vendor", vendor)) != vendor:
                raise InvalidInput("options.vendor", wanted, f"this deployment's vendor is {vendor} for good")
            labels = given(version=update.version, environment=update.environment)
            changed = {**named, **workers(update.autoscaling), **size(update.resources, vendor)}
            return {
                **whole_configuration(now, changed),
                **whole_metadata(now, metadata, labels),
                **given(model_creation_parameters=parameters),
            }

        return await self._patch(deployment_id, changes)

    async def scale(self, deployment_id: str, autoscaling: Autoscaling) -> Deployment:
        """Change the bounds of the workers or the requests per worker; fields left at None stay."""

        def changes(now: ScaleDeployment) -> dict[str, Any]:
            awake = {"woken_min_workers": None} if autoscaling.min_replicas else {}
            return {**whole_configuration(now, workers(autoscaling)), **whole_metadata(now, {}, awake)}

        return await self._patch(deployment_id, changes)

    async def scale_to_zero(self, deployment_id: str) -> Deployment:
        """Set min_workers to 0: idle workers go away and the next request wakes one.

        The vendor has no way to send workers away at once, and tells nobody how many there are.
        """

        def changes(now: ScaleDeployment) -> dict[str, Any]:
            least = (autoscaling_of(now.vendor_configuration) or Autoscaling()).min_replicas or 0
            mark = {"woken_min_workers": mark_of(now).get("woken_min_workers", least)}
            return {**whole_configuration(now, {"min_workers": 0}), **whole_metadata(now, {}, mark)}

        return await self._patch(deployment_id, changes)

    async def wake(self, deployment_id: str) -> Deployment:
        """Set min_workers back to what it was before `scale_to_zero`, at least 1."""

        def changes(now: ScaleDeployment) -> dict[str, Any]:
            former = mark_of(now).get("woken_min_workers")
            least = max(1, former if isinstance(former, int) else 1)
            most = (autoscaling_of(now.vendor_configuration) or Autoscaling()).max_replicas or 0
            changed = {"min_workers": least, **({} if most >= least else {"max_workers": least})}
            return {**whole_configuration(now, changed), **whole_metadata(now, {}, {"woken_min_workers": None})}

        return await self._patch(deployment_id, changes)

    async def delete(self, deployment_id: str) -> None:
        """Delete a deployment. Deleting one that is gone already is no error.

        Raises:
            Conflict: A model server sends its requests to it; the vendor would not say.
        """
        own_id = split_id(deployment_id)[1]
        if user := next((one for one in await self.servers.find() if one.model_deployment_id == own_id), None):
            text = f"model server {user.name!r} ({user.model_server_id}) serves from it; swap its backend first"
            raise Conflict(self.provider, "DELETE", Problem(text, code="in_use"))
        try:
            answer = await self._transport.call("DELETE", self._path(deployment_id))
        except NotFound:
            return
        if answer is not None and Deleted.read(answer).success is False:
            raise ProviderError(self.provider, "DELETE", Problem(f"deployment {own_id} was not deleted: {answer}"))

    # --- serving --------------------------------------------------------------------------------------------------

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request to a deployment.

        Args:
            deployment_id: Which one.
            payload: A JSON object, as the model takes it.
            path: None or "execute" for the model's own wire format; "completions", "chat-completions", "embeddings" or
                "rerankings" for the vendor's typed ones.

        Returns:
            The decoded answer; with `"stream": True` in the payload all events as one text, as at the vendor's client.
        """
        if not isinstance(payload, Mapping):
            hint = "Scale takes a JSON object, such as {'prompts': ['hello']}"
            raise InvalidInput("payload", type(payload).__name__, hint)
        if path in (None, "execute"):
            where = self._path(deployment_id) + "/execute"
        elif path in TYPED_INFERENCE:
            # The vendor's path has the deployment's id where all others have the model's.
            where = at("v4", "models", split_id(deployment_id)[1], str(path))
        else:
            raise InvalidInput("path", path, f"must be None, 'execute' or one of {list(TYPED_INFERENCE)}")
        options: dict[str, Any] = {"json": dict(payload), "timeout": PREDICT_TIMEOUT_SECONDS}
        if payload.get("stream") is True:
            return (await self._transport.send("POST", where, **options)).text
        return await self._transport.call("POST", where, **options)

    async def promote(self, deployment_id: str, *, environment: str) -> Deployment:
        """Let the model server of an environment serve from this deployment; made if there is none.

        The server is the one with the id or alias `environment`, else the one named `<model's name>-<environment>`.
        """
        deployment = await self.get(deployment_id)
        own_id = split_id(deployment_id)[1]
        model_name = await self._model_name(deployment.model_id)
        server = server_of(environment, model_name, await self.servers.find())
        if server is None:
            name = server_name(model_name, environment)
            server = await self.servers.create(name, own_id, alias=name)
        await self.servers.swap_backend(server.model_server_id, own_id)
        return deployment.model_copy(update={"environment": environment})

    async def roll_back(self, deployment_id: str, *, environment: str) -> Deployment:
        """Let the former deployment of an environment's model server serve again, and return that.

        Nothing changes when this deployment does not serve there any more. The vendor goes back one step.

        Raises:
            NotFound: There is no such server.
        """
        model_id, own_id = split_id(deployment_id)
        model_name = await self._model_name(model_id)
        server = server_of(environment, model_name, await self.servers.find())
        if server is None:
            name = server_name(model_name, environment)
            problem = f"no model server has the id or alias {environment!r} or the name {name!r}"
            raise NotFound(self.provider, "GET /v4/serving", Problem(problem, 404))
        served = await self.servers.roll_back(server.model_server_id, own_id)
        for deployment in await self.find():
            if split_id(deployment.id)[1] == served:
                return deployment
        raise NotFound(self.provider, "GET /v4/model-deployments", Problem(f"deployment {served} is not there", 404))

    # --- how ------------------------------------------------------------------------------------------------------

    def _translated(self, answer: Any, model_id: str | None = None) -> Deployment:
        return to_deployment(answer, self._base_url, model_id)

    def _path(self, deployment_id: str) -> str:
        model_id, own_id = split_id(deployment_id)
        return at("v4", "models", model_id, "deployments", own_id)

    async def _get(self, deployment_id: str) -> dict[str, Any]:
        return dict(await self._transport.call("GET", self._path(deployment_id)))

    async def _model_id(self, model: str) -> str:
        if model not in self._model_ids:
            self._model_ids[model] = await self.models.resolve(model)
        return self._model_ids[model]

    async def _patch(self, deployment_id: str, changes: _Read) -> Deployment:
        """Read, change and write whole objects: whether the vendor merges or replaces them is unknown.

        The body holds final values, so that sending it twice is the same as once.
        """
        now = ScaleDeployment.read(await self._get(deployment_id))
        if body := changes(now):
            patch = checked(DeploymentPatch, "update", {**body, "wait_for_ready": False})
            answer = await self._transport.call("PATCH", self._path(deployment_id), json=patch.body(), idempotent=True)
            return self._translated(answer, split_id(deployment_id)[0])
        return self._translated(now.raw, split_id(deployment_id)[0])

    async def _created_from(self, spec: DeploymentSpec, model_id: str) -> dict[str, Any] | None:
        """The oldest deployment of the spec's name that is not on its way out."""
        path = at("v4", "models", model_id, "deployments")
        async for one in items(self._transport, path, sort_by="created_at:asc"):
            found = ScaleDeployment.read(one)
            if found.name != spec.name or found.status.upper() == "DELETE_IN_PROGRESS":
                continue
            if mark_of(found).get("spec") == digest(spec):
                return one
            text = f"{spec.name!r} exists ({found.id}) and was created otherwise; choose another name, or delete it"
            raise Conflict(self.provider, f"POST {path}", Problem(text, code="name_taken"))
        return None

    async def _only_one(self, spec: DeploymentSpec, model_id: str, call: str, made: dict[str, Any]) -> dict[str, Any]:
        """The oldest deployment of this spec, which all that create it agree on; ours goes unless that is it."""
        path = at("v4", "models", model_id, "deployments")
        listed = [(one, ScaleDeployment.read(one)) async for one in items(self._transport, path)]
        same = [
            (str(found.raw.get("created_at")), str(found.id), mark_of(found).get("call"), one)
            for one, found in listed
            if mark_of(found).get("spec") == digest(spec)
            and found.name == spec.name
            and found.status.upper() != "DELETE_IN_PROGRESS"
        ]
        same.sort(key=lambda one: one[:2])
        for _, own_id, by, _ in same[1:]:
            if by == call:
                await self._transport.call("DELETE", at("v4", "models", model_id, "deployments", own_id))
        return same[0][-1] if same else made

    async def _until_found(self, model_id: str, made: dict[str, Any]) -> dict[str, Any]:
        """The new deployment as it is read: what is done next shall not meet a 404."""

        async def look() -> dict[str, Any] | None:
            try:
                return await self._get(f"{model_id}/{made['id']}")
            except NotFound:
                return None

        return await patiently(look) or made

    async def _model_name(self, model_id: str) -> str:
        if model_id not in self._model_names:
            self._model_names[model_id] = (await self.models.get(model_id)).name or model_id
        return self._model_names[model_id]

    async def _with_roles(self, found: list[Deployment]) -> list[Deployment]:
        try:
            servers = await self.servers.find() if found else []
        except (AuthenticationFailed, NotFound):
            # A key that may not see model servers, or a platform without them: the labels are all that there is.
            servers = []
        if not servers:
            return found
        model_ids = {one.model_id for one in found}
        if len(model_ids) == 1:
            names = {one: await self._model_name(one) for one in model_ids}
        else:
            names = {one.id: one.name for one in await self.models.find()}
        return with_roles(found, names, servers)
