"""Model servers of V4: a stable name whose backend can be swapped and rolled back, each exactly once."""

from typing import Any

from prefect_modeldeploy.errors import Conflict, Problem, ProviderError
from prefect_modeldeploy.providers.scale.schemas import ScaleServer
from prefect_modeldeploy.providers.scale.wire import at, given, patiently
from prefect_modeldeploy.transport import Transport, create_once


class Servers:
    """Model servers. The vendor has no way to delete one or to change its alias."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, name: str, model_deployment_id: str, alias: str | None = None) -> ScaleServer:
        """Create a server, or return the one of that name and alias.

        Raises:
            Conflict: The name has another alias, or the alias another name.
        """
        body = given(name=name, model_deployment_id=model_deployment_id, alias=alias)

        async def look_up() -> ScaleServer | None:
            for server in await self.find():
                if server.name == name or (alias is not None and server.alias == alias):
                    if (server.name, server.alias or None) != (name, alias):
                        text = f"server {server.model_server_id} has name {server.name!r} and alias {server.alias!r}"
                        raise Conflict("scale", "POST /v4/serving", Problem(text, code="name_taken"))
                    return server
            return None

        async def create() -> ScaleServer:
            return ScaleServer.read(await self._transport.call("POST", "/v4/serving", json=body))

        existing = await look_up()
        return existing if existing is not None else await create_once(create, lambda: patiently(look_up))

    async def find(self) -> list[ScaleServer]:
        """Return all servers: the vendor's list has no pages."""
        found = await self._transport.call("GET", "/v4/serving")
        return [ScaleServer.read(one) for one in found] if isinstance(found, list) else []

    async def get(self, server_id: str) -> ScaleServer:
        """Return a server. Raises NotFound."""
        return ScaleServer.read(await self._transport.call("GET", at("v4", "serving", server_id)))

    async def get_by_alias(self, alias: str) -> ScaleServer:
        """Return the server that has this alias. Raises NotFound."""
        return ScaleServer.read(await self._transport.call("GET", at("v4", "serving", "a", alias)))

    async def backend(self, server_id: str) -> str:
        """Id of the deployment that serves now: the vendor's, without the model's."""
        answer = await self._transport.call("GET", at("v4", "serving", server_id, "deployment"))
        return str(answer["model_deployment_id"])

    async def swap_backend(self, server_id: str, model_deployment_id: str) -> str:
        """Let another deployment serve; returns the id of the one that did before.

        Swapping to the deployment that serves already changes nothing. That matters: sent twice, a swap would make the
        new deployment its own predecessor, and a rollback would lead nowhere.
        """
        former = await self.backend(server_id)
        if former == model_deployment_id:
            return former
        path, body = at("v4", "serving", server_id, "backend"), {"new_model_deployment_id": model_deployment_id}

        async def swap() -> str:
            answer = await self._transport.call("PUT", path, json=body, idempotent=False)
            return str((answer or {}).get("old_model_deployment_id") or former)

        async def swapped() -> str | None:
            return former if await self.backend(server_id) == model_deployment_id else None

        return await create_once(swap, swapped)

    async def roll_back(self, server_id: str, from_deployment: str) -> str:
        """Let the deployment before this one serve again; returns its id.

        Nothing changes when `from_deployment` does not serve any more: sent twice, a rollback could lead forward again.

        Raises:
            ProviderError: There is none before it, in the vendor's words.
        """
        current = await self.backend(server_id)
        if current != from_deployment:
            return current

        async def roll_back() -> str:
            answer = await self._transport.call("POST", at("v4", "serving", server_id, "rollback"), idempotent=False)
            return str(answer["rolled_back_to_deployment"])

        async def rolled_back() -> str | None:
            now = await self.backend(server_id)
            return now if now != from_deployment else None

        served = await create_once(roll_back, rolled_back)
        if served == from_deployment:
            problem = Problem(f"the server's former deployment is {served} itself: swap its backend instead")
            raise ProviderError("scale", f"POST /v4/serving/{server_id}/rollback", problem)
        return served

    async def execute(self, server_id: str, payload: dict[str, Any]) -> Any:
        """Send a request to the server's backend."""
        return await self._transport.call("POST", at("v4", "serving", server_id, "execute"), json=payload)

    async def execute_alias(self, alias: str, payload: dict[str, Any]) -> Any:
        """Send a request to the backend of the server that has this alias."""
        return await self._transport.call("POST", at("v4", "serving", "a", alias, "execute"), json=payload)
