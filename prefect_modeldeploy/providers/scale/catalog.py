"""Models, templates and groups of V4, and how many tokens they used."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from prefect_modeldeploy.errors import InvalidInput, NotFound
from prefect_modeldeploy.providers.scale.schemas import (
    GroupPatch,
    ModelPatch,
    NewGroup,
    NewModel,
    NewTemplate,
    Request,
    ScaleGroup,
    ScaleModel,
    ScaleTemplate,
    Usage,
)
from prefect_modeldeploy.providers.scale.wire import at, create_by_name, given, items
from prefect_modeldeploy.transport import Transport

View = Literal["Deployments", "ModelGroup"]


class _Part:
    def __init__(self, transport: Transport, account_id: str | None) -> None:
        self._transport, self._account_id = transport, account_id

    def _owned(self, request: Request) -> dict[str, Any]:
        body = request.body()
        account = body.get("account_id") or self._account_id
        if not account:
            raise InvalidInput("account_id", None, "is needed to create this; set it on the block or in the request")
        return {**body, "account_id": account}

    async def _delete(self, *path: str) -> None:
        try:
            await self._transport.call("DELETE", at(*path))
        except NotFound:
            return


class Models(_Part):
    """Model instances: what deployments serve. A new version of a model is a new one."""

    async def create(self, new: NewModel) -> ScaleModel:
        """Create a model, or return the one of that name if it is the same. Raises Conflict."""
        body = self._owned(new)
        return ScaleModel.read(
            await create_by_name(self._transport, "/v4/models", body, {"model_type": new.model_type})
        )

    async def get(self, model_id: str, views: Iterable[View] = ()) -> ScaleModel:
        """Return a model; `views` adds its deployments and its group. Raises NotFound."""
        query = given(view=",".join(views) or None)
        return ScaleModel.read(await self._transport.call("GET", at("v4", "models", model_id), params=query))

    async def find(
        self,
        *,
        model_group_id: str | None = None,
        model_type: str | None = None,
        views: Iterable[View] = (),
        sort_by: str | None = None,
    ) -> list[ScaleModel]:
        """Return all models, or those of a group or a type."""
        query = given(
            model_group_id=model_group_id, model_type=model_type, sort_by=sort_by, view=",".join(views) or None
        )
        return [ScaleModel.read(one) async for one in items(self._transport, "/v4/models", **query)]

    async def update(self, model_id: str, patch: ModelPatch) -> ScaleModel:
        """Change a model's fields; its deployments are not touched."""
        path = at("v4", "models", model_id)
        return ScaleModel.read(await self._transport.call("PATCH", path, json=patch.body(), idempotent=True))

    async def delete(self, model_id: str) -> None:
        """Delete a model; what becomes of its deployments is not documented. One that is gone is no error."""
        await self._delete("v4", "models", model_id)

    async def resolve(self, name_or_id: str) -> str:
        """Return the id of the model that has this id or name.

        Raises:
            NotFound: There is none.
            InvalidInput: Several have this name.
        """
        try:
            found = await self.get(name_or_id)
        except NotFound as error:
            named = [one for one in await self.find() if one.name == name_or_id]
            if not named:
                raise error from None
            if len(named) > 1:
                ids = sorted(one.id for one in named)
                raise InvalidInput("model", name_or_id, f"is the name of several models; give one of {ids}") from None
            return named[0].id
        return found.id or name_or_id

    async def usage(self, model_name: str, start: datetime, end: datetime, chunks: int = 1) -> Usage:
        """Tokens that all deployments of the models of this name used."""
        return await usage(self._transport, at("v4", "models", model_name), start, end, chunks)


class Templates(_Part):
    """Model templates: image and size that models share. They cannot be changed."""

    async def create(self, new: NewTemplate) -> ScaleTemplate:
        """Create a template, or return the one of that name if it is the same. Raises Conflict."""
        return ScaleTemplate.read(await create_by_name(self._transport, "/v4/model-templates", self._owned(new)))

    async def get(self, template_id: str) -> ScaleTemplate:
        """Return a template. Raises NotFound."""
        return ScaleTemplate.read(await self._transport.call("GET", at("v4", "model-templates", template_id)))

    async def find(self) -> list[ScaleTemplate]:
        """Return all templates."""
        return [ScaleTemplate.read(one) async for one in items(self._transport, "/v4/model-templates")]

    async def delete(self, template_id: str) -> None:
        """Delete a template. One that is gone is no error."""
        await self._delete("v4", "model-templates", template_id)


class Groups(_Part):
    """Model groups: models that have one base model."""

    async def create(self, new: NewGroup) -> ScaleGroup:
        """Create a group, or return the one of that name if it is the same. Raises Conflict."""
        return ScaleGroup.read(await create_by_name(self._transport, "/v4/model-groups", self._owned(new)))

    async def get(self, group_id: str) -> ScaleGroup:
        """Return a group. Raises NotFound."""
        return ScaleGroup.read(await self._transport.call("GET", at("v4", "model-groups", group_id)))

    async def find(self) -> list[ScaleGroup]:
        """Return all groups."""
        return [ScaleGroup.read(one) async for one in items(self._transport, "/v4/model-groups")]

    async def update(self, group_id: str, patch: GroupPatch) -> ScaleGroup:
        """Change a group's fields."""
        path = at("v4", "model-groups", group_id)
        return ScaleGroup.read(await self._transport.call("PATCH", path, json=patch.body(), idempotent=True))

    async def delete(self, group_id: str) -> None:
        """Delete a group. One that is gone is no error."""
        await self._delete("v4", "model-groups", group_id)

    async def add_model(self, group_id: str, model_id: str) -> ScaleModel:
        """Put a model into a group; doing it twice is the same."""
        path = at("v4", "model-groups", group_id, "models", model_id)
        return ScaleModel.read(await self._transport.call("POST", path, idempotent=True))

    async def usage(self, group_id: str, start: datetime, end: datetime, chunks: int = 1) -> Usage:
        """Tokens that the models of the group used."""
        return await usage(self._transport, at("v4", "model-groups", group_id), start, end, chunks)


async def usage(transport: Transport, path: str, start: datetime, end: datetime, chunks: int) -> Usage:
    """Token usage below a path, in equal chunks of a period."""
    if chunks < 1:
        raise InvalidInput("chunks", chunks, "must be at least 1")
    if end <= start:
        raise InvalidInput("end", end.isoformat(), f"must be after start={start.isoformat()}")
    query: Mapping[str, Any] = {"chunks": chunks, "end_date": _stamp(end), "start_date": _stamp(start)}
    return Usage.read(await transport.call("GET", path + "/usage-statistics", params=query))


def _stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
