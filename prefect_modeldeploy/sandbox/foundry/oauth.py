"""The token endpoint: client credentials, in and out."""

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_modeldeploy.sandbox.emulator import Refusal

if TYPE_CHECKING:
    from prefect_modeldeploy.sandbox.foundry.emulator import FoundryEmulator

SCOPES = frozenset({"api:models-read", "api:models-write", "api:models-execute"})
TOKEN_SECONDS = 3600.0


class OAuth:
    """Gives tokens to the one application that there is, and knows them again."""

    def __init__(self, emulator: "FoundryEmulator") -> None:
        self._emulator = emulator

    def routes(self) -> list[Route]:
        """The two paths."""
        return [
            Route("/multipass/api/oauth2/token", self._token, methods=["POST"]),
            Route("/multipass/api/oauth2/revoke_token", self._revoke, methods=["POST"]),
        ]

    def scopes(self, token: str) -> frozenset[str]:
        """What a token allows. Raises Refusal for one that is unknown, or has ended."""
        emulator = self._emulator
        if token == emulator.world.facts["token"]:
            return SCOPES
        found = emulator.world["tokens"].get(token)
        if found is None or emulator.clock.now() >= found["ends_at"]:
            raise Refusal(401, "The token is not valid.", "Default:Unauthorized")
        return frozenset(found["scopes"])

    async def _token(self, request: Request) -> Response:
        form = await self._form(request)
        if form.get("grant_type") != "client_credentials":
            return _no("unsupported_grant_type")
        asked = frozenset(form.get("scope", "").split()) - {"offline_access"}
        if asked - SCOPES:
            return _no("invalid_scope")
        if not self._known(form):
            return _no("invalid_client", 401)
        emulator = self._emulator
        token, life = emulator.new_secret("foundry-oauth"), emulator.token_seconds
        ends_at = emulator.clock.now() + life
        emulator.world["tokens"][token] = {"ends_at": ends_at, "scopes": sorted(asked or SCOPES)}
        ours = life / (emulator.clock.speed or 1.0)
        return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": max(1, int(ours))})

    async def _revoke(self, request: Request) -> Response:
        form = await self._form(request)
        if not self._known(form):
            return _no("invalid_client", 401)
        self._emulator.world["tokens"].pop(form.get("token", ""), None)
        return JSONResponse({})

    def _known(self, form: dict[str, str]) -> bool:
        facts = self._emulator.world.facts
        return (form.get("client_id"), form.get("client_secret")) == (facts["client_id"], facts["client_secret"])

    @staticmethod
    async def _form(request: Request) -> dict[str, str]:
        return dict(parse_qsl((await request.body()).decode(errors="replace")))


def _no(error: str, status: int = 400) -> Response:
    return JSONResponse({"error": error}, status)
