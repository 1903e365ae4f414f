"""Creating a deployment from a truss on disk: once, whatever gets lost on the way.

The marker is a label with a digest of the spec and of the archive. A deployment of that name with the same marker is
the one that this very spec has created; with another marker, or none, the name is taken.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import anyio

from prefect_modeldeploy.deployments import DeploymentSpec
from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, Problem, ProviderError
from prefect_modeldeploy.providers.baseten.answers import Model
from prefect_modeldeploy.providers.baseten.api import ManagementApi
from prefect_modeldeploy.providers.baseten.archive import Truss, pack, upload
from prefect_modeldeploy.providers.baseten.requests import DeploymentPayload, checked
from prefect_modeldeploy.providers.baseten.words import PROVIDER, to_settings
from prefect_modeldeploy.transport import Logger, RetryPolicy, create_once

MARKER = "modeldeploy-spec"
VERSION = "modeldeploy-version"

_OPTIONS = frozenset(DeploymentPayload.model_fields) - {
    "config", "raw_config", "deployment_name", "autoscaling_settings", "is_development",
}  # fmt: skip


class Creation:
    """Creates deployments.

    Args:
        api: The management API.
        visible_seconds: How long something new may not be found by those who look for it.
        policy: Of the upload.
        logger: Where the steps are told.
        allow_http: Whether a stand-in for S3 may listen on plain http elsewhere than on loopback.
    """

    def __init__(
        self,
        api: ManagementApi,
        visible_seconds: float,
        policy: RetryPolicy | None,
        logger: Logger,
        *,
        allow_http: bool = False,
    ) -> None:
        self._api, self._visible, self._policy, self._logger = api, visible_seconds, policy, logger
        self._allow_http = allow_http

    async def create(self, spec: DeploymentSpec, model: Model | None) -> dict[str, Any]:
        """Create the deployment, or find it; `model` is None when a new one is to be made.

        Raises:
            Conflict: The name is taken by something else.
            InvalidInput: The spec cannot work; nothing was sent.
        """
        options = _options(spec)
        truss = await anyio.to_thread.run_sync(pack, spec)
        try:
            marker = _marker(spec, truss)
            payload = _payload(spec, truss, marker, options)
            if model is not None and (found := await self._find(model.id, spec.name, marker)) is not None:
                return await self._seen(found)
            ticket = await self._api.prepare_upload(
                payload, name=None if model else spec.model, model=model.id if model else None
            )
            await upload(truss, ticket, self._policy, allow_http=self._allow_http)
        finally:
            truss.file.close()

        tries = 0

        async def post() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            try:
                if model is None:
                    answer = await self._api.create_model(spec.model, payload, ticket.s3_key)
                else:
                    answer = await self._api.create_deployment(model.id, payload, ticket.s3_key)
            except ProviderError as error:
                # Refused: somebody else has just created the same, or our own first try worked and shows only now.
                if error.effect_unknown or error.problem.status_code not in (400, 409):
                    raise
                if (found := await self._look(spec, model, marker, self._visible if tries > 1 else 0.0)) is None:
                    raise
                return found
            return dict(answer["deployment"])

        async def look() -> dict[str, Any] | None:
            return await self._look(spec, model, marker, self._visible)

        made = await create_once(post, look, logger=self._logger)
        return await self._seen(made if model else await self._in_first_model(spec, made))

    async def _in_first_model(self, spec: DeploymentSpec, made: dict[str, Any]) -> dict[str, Any]:
        """Whether models' names are unique is not documented: of several made at once the first stays, ours goes."""
        models = sorted(await self._api.models(name=spec.model), key=lambda one: (str(one.created_at), one.id))
        if not models or models[0].id == made["model_id"]:
            return made
        self._logger.warning("%s has several models; ours goes, %s stays", spec.model, models[0].id)
        await self._api.delete_model(made["model_id"])
        return await self.create(spec, models[0])

    async def _look(
        self, spec: DeploymentSpec, model: Model | None, marker: str, seconds: float
    ) -> dict[str, Any] | None:
        """Look for what may have been created, for so long: it may be hidden at first."""
        until, pause = time.monotonic() + seconds, 0.1
        while True:
            ids = [model.id] if model else [one.id for one in await self._api.models(name=spec.model)]
            for model_id in ids:
                if (found := await self._find(model_id, spec.name, marker)) is not None:
                    return found
            if time.monotonic() + pause > until:
                return None
            await anyio.sleep(pause)
            pause = min(2.0, pause * 1.5)

    async def _find(self, model_id: str, name: str, marker: str) -> dict[str, Any] | None:
        try:
            named = await self._api.deployments(model_id, name=name)
        except NotFound:
            return None
        for raw in named:
            if (raw.get("labels") or {}).get(MARKER) == marker:
                return raw
        if named:
            problem = Problem(f"{name} exists, made from another spec; give this one another name", 409)
            raise Conflict(PROVIDER, f"create {name}", problem)
        return None

    async def _seen(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Wait until a new deployment is found by its id: at first it is a 404, for others too."""
        until, pause = time.monotonic() + self._visible, 0.05
        while True:
            try:
                return await self._api.deployment(raw["model_id"], raw["id"])
            except NotFound as error:
                if time.monotonic() + pause > until:
                    self._logger.warning("%s; it was created, and may be found later", error)
                    return raw
            await anyio.sleep(pause)
            pause = min(2.0, pause * 1.5)


def _options(spec: DeploymentSpec) -> Mapping[str, Any]:
    for name, value in spec.options.items():
        if name not in _OPTIONS:
            raise InvalidInput(f"options.{name}", value, f"Baseten has {', '.join(sorted(_OPTIONS))}")
    return spec.options


def _marker(spec: DeploymentSpec, truss: Truss) -> str:
    text = spec.model_dump_json(exclude={"source"}) + truss.digest
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _payload(spec: DeploymentSpec, truss: Truss, marker: str, options: Mapping[str, Any]) -> DeploymentPayload:
    fields: dict[str, Any] = {
        "config": truss.config,
        "raw_config": truss.raw_config,
        "deployment_name": spec.name,
        **options,
        "labels": {**(options.get("labels") or {}), MARKER: marker, VERSION: spec.version},
    }
    if spec.autoscaling is not None:
        fields["autoscaling_settings"] = to_settings(spec.autoscaling)
    if spec.resources is not None and spec.resources.instance_type:
        fields["instance_type_id"] = spec.resources.instance_type
    if "environment_name" in fields:
        # Said outright: the vendor has announced that the default will change.
        fields.setdefault("create_environment_if_missing", True)
    return checked(DeploymentPayload, fields, "options")
