"""Foundry's own operations, one method each, in the vendor's terms; `FoundryClient` speaks ours.

Every request carries `preview=true`. Scopes: `api:models-read` for what gets and lists, `api:models-execute` for
`transform_json`, `api:models-write` for the rest.
"""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from prefect_modeldeploy.errors import InvalidInput, Problem, ProviderError
from prefect_modeldeploy.providers.foundry.model_api import NewFunction, NewVersion
from prefect_modeldeploy.providers.foundry.types import (
    DirectTarget,
    LiveDeployment,
    ModelFunction,
    ModelVersion,
    RuntimeConfiguration,
    VersionPage,
    checked,
    checked_rid,
)
from prefect_modeldeploy.transport import Transport

M = TypeVar("M", bound=BaseModel)

TRANSFORM_SECONDS = 310.0
"""Foundry gives up after 5 minutes (InferenceTimeout); a little longer than that."""

MOST_PAGES = 1000
"""Of a list. A server that goes on for longer repeats itself."""

_LIVE, _MODELS = "/v2/models/liveDeployments", "/v2/models"


class FoundryApi:
    """Calls one stack. All methods raise ProviderError (its subclass says what kind) and InvalidInput.

    Args:
        transport: To `https://<stack>/api`, with authentication.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # --- live deployments -----------------------------------------------------------------------------------------

    async def create_live_deployment(self, model: str, branch: str, runtime: RuntimeConfiguration) -> LiveDeployment:
        """Deploy the newest version on a branch. There can be one per model and branch; not safe to repeat."""
        target = checked(DirectTarget, "deploymentType", {"model_rid": model, "branch": branch})
        body = {"deploymentType": target.wire(), "runtimeConfiguration": runtime.wire()}
        return await self._read(LiveDeployment, "POST", _LIVE, json=body)

    async def live_deployment(self, rid: str) -> LiveDeployment:
        """Return one. Foundry has no answer for kinds that it cannot express (UnsupportedLiveDeployment)."""
        return await self._read(LiveDeployment, "GET", self._live(rid))

    async def live_deployments(self, model: str, branch: str | None = None) -> list[LiveDeployment]:
        """Return all of a model, or the one of a branch. Not paged. Kinds that the API cannot express are left out."""
        params = {"modelRid": checked_rid("model", model), **({"branch": branch} if branch else {})}
        answer = await self._call("GET", _LIVE, params=params)
        found = answer.get("data") if isinstance(answer, dict) else None
        return [_understood(LiveDeployment, one, f"GET {_LIVE}") for one in found or []]

    async def replace_live_deployment(
        self, rid: str, runtime: RuntimeConfiguration | Mapping[str, Any]
    ) -> LiveDeployment:
        """Replace the whole runtime configuration. `sources` may differ only while it is DISABLED (else Conflict)."""
        config = runtime.wire() if isinstance(runtime, RuntimeConfiguration) else dict(runtime)
        return await self._read(LiveDeployment, "PUT", self._live(rid), json={"runtimeConfiguration": config})

    async def start_live_deployment(self, rid: str) -> None:
        """Start a disabled one; nothing happens when it is starting or running."""
        await self._call("POST", f"{self._live(rid)}/start", idempotent=True)

    async def disable_live_deployment(self, rid: str) -> None:
        """Take all replicas away; model and configuration stay."""
        await self._call("POST", f"{self._live(rid)}/disable", idempotent=True)

    async def transform_json(self, rid: str, inputs: Mapping[str, Any]) -> Any:
        """Send one request to the model; returns the whole answer, `{"output": {...}}`."""
        if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
            raise InvalidInput("payload", type(inputs).__name__, "must map the names of the model's inputs to values")
        path, body = f"{self._live(rid)}/transformJson", {"input": dict(inputs)}
        return await self._call("POST", path, json=body, timeout=TRANSFORM_SECONDS)

    # --- models and versions --------------------------------------------------------------------------------------

    async def create_model(self, name: str, parent_folder: str) -> str:
        """Create a container of versions in a folder and return its RID. Conflict: ResourceNameAlreadyExists."""
        if not name:
            raise InvalidInput("name", name, "must not be empty")
        body = {"name": name, "parentFolderRid": checked_rid("parent_folder", parent_folder)}
        answer = await self._call("POST", _MODELS, json=body)
        return _rid_of(answer, f"POST {_MODELS}")

    async def model(self, model: str) -> str:
        """Return the model's RID, if it exists and may be seen."""
        path = self._model(model)
        return _rid_of(await self._call("GET", path), f"GET {path}")

    async def promote_version(self, model: str, source_version: str, branch: str | None = None) -> ModelVersion:
        """Copy a version, of this or another model, to the branch as its newest; not safe to repeat."""
        body = {"sourceModelVersionRid": checked_rid("version", source_version)}
        if branch is not None:
            body["branch"] = branch
        return await self._read(ModelVersion, "POST", f"{self._model(model)}/promoteVersion", json=body)

    async def create_version(self, model: str, version: NewVersion) -> ModelVersion:
        """Publish a version. On which branch it lands is not documented: it may go live at once."""
        return await self._read(ModelVersion, "POST", f"{self._model(model)}/versions", json=version.wire())

    async def version(self, model: str, version: str) -> ModelVersion:
        """Return one version."""
        return await self._read(ModelVersion, "GET", f"{self._model(model)}/versions/{_part('version', version)}")

    async def versions(
        self, model: str, branch: str | None = None, *, page_size: int | None = None
    ) -> list[ModelVersion]:
        """Return all versions on a branch (None: the default one). Their order is not documented."""
        params: dict[str, str | int] = {"branch": branch} if branch else {}
        if page_size is not None:
            params["pageSize"] = page_size
        found, tokens, path = list[ModelVersion](), set[str](), f"{self._model(model)}/versions"
        for _ in range(MOST_PAGES):
            page = await self._read(VersionPage, "GET", path, params=params)
            found += page.data
            if not page.next_page_token or page.next_page_token in tokens:
                return found
            tokens.add(page.next_page_token)
            params = {**params, "pageToken": page.next_page_token}
        raise ProviderError("foundry", f"GET {path}", Problem(f"the list did not end after {MOST_PAGES} pages"))

    # --- functions that wrap a model ------------------------------------------------------------------------------

    async def create_function(self, model: str, function: NewFunction) -> ModelFunction:
        """Make the model callable as a function."""
        if not function.display_name:
            raise InvalidInput("function.display_name", function.display_name, "is required to create a function")
        return await self._read(ModelFunction, "POST", f"{self._model(model)}/function", json=function.wire())

    async def function(self, model: str) -> ModelFunction:
        """Return the model's function."""
        return await self._read(ModelFunction, "GET", f"{self._model(model)}/function")

    async def replace_function(self, model: str, function: NewFunction) -> ModelFunction:
        """Replace the model's function; its display name stays."""
        if function.display_name is not None:
            raise InvalidInput("function.display_name", function.display_name, "cannot be changed; leave it at None")
        return await self._read(ModelFunction, "PUT", f"{self._model(model)}/function", json=function.wire())

    # --- how ------------------------------------------------------------------------------------------------------

    def _live(self, rid: str) -> str:
        return f"{_LIVE}/{_part('deployment_id', rid)}"

    def _model(self, rid: str) -> str:
        return f"{_MODELS}/{_part('model', rid)}"

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        params = {**options.pop("params", {}), "preview": "true"}
        return await self._transport.call(method, path, params=params, **options)

    async def _read(self, model: type[M], method: str, path: str, **options: Any) -> M:
        return _understood(model, await self._call(method, path, **options), f"{method} {path}")


def _part(field: str, rid: str) -> str:
    return quote(checked_rid(field, rid), safe="")


def _rid_of(answer: Any, operation: str) -> str:
    rid = answer.get("rid") if isinstance(answer, dict) else None
    if not isinstance(rid, str):
        raise ProviderError("foundry", operation, Problem("the answer has no rid"))
    return rid


def _understood(model: type[M], answer: Any, operation: str) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        # The values stay out of the message: environment variables are among them.
        wrong = ", ".join(".".join(map(str, problem["loc"])) or "the whole" for problem in error.errors())
        raise ProviderError("foundry", operation, Problem(f"the answer cannot be understood: {wrong}")) from None
