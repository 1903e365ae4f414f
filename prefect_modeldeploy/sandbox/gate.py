"""The door of an emulator: writes the journal, lets faults strike, and hangs up without a word when told to."""

import asyncio
import socket
import struct
import time
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prefect_modeldeploy.sandbox.emulator import Emulator, Refusal
from prefect_modeldeploy.sandbox.faults import Fault
from prefect_modeldeploy.sandbox.journal import Request

_TRANSPORT = "modeldeploy.transport"


class Protocol(HttpToolsProtocol):
    """uvicorn's, which also tells the application its connection, so that a fault can cut it."""

    def on_message_begin(self) -> None:
        """A request starts (the parser calls this)."""
        super().on_message_begin()
        self.scope["extensions"] = {_TRANSPORT: {"transport": self.transport}}


class TooLarge(Exception):
    """The body is longer than the emulator takes."""


class Gate:
    """The ASGI application in front of an emulator's."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._app = emulator, emulator.app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            return
        emulator, shared = self._emulator, self._emulator.shared
        try:
            body = await _read(receive, emulator.longest_body)
        except TooLarge:
            await emulator.envelope(Refusal(413, "Request Entity Too Large"))(scope, receive, send)
            return
        entry = shared.journal.open(emulator.name, scope, body, emulator.secrets)
        fault = shared.faults.draw(emulator.name, scope["method"], scope["path"])
        entry.fault = fault.id if fault else None
        started = time.monotonic()
        try:
            await self._answer(scope, _replay(body, receive), send, fault, entry)
        finally:
            entry.seconds = round(time.monotonic() - started, 6)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, fault: Fault | None, entry: Request) -> None:
        match fault.kind if fault else None:
            case "status":
                assert fault is not None
                entry.status = fault.status
                await self._told(fault)(scope, receive, send)
            case "lost_request" | "reset":
                assert fault is not None
                await asyncio.sleep(fault.seconds)
                await _hang_up(scope, receive, reset=fault.kind == "reset")
            case "lost_answer" | "slow_answer":
                assert fault is not None
                kept: list[Message] = []

                async def keep(message: Message) -> None:
                    kept.append(message)

                await self._handle(scope, receive, keep, entry)
                await asyncio.sleep(fault.seconds)
                if fault.kind == "lost_answer":
                    await _hang_up(scope, receive, reset=False)
                    return
                for message in kept:
                    await send(message)
            case _:
                await asyncio.sleep(fault.seconds if fault else 0)
                await self._handle(scope, receive, send, entry)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, entry: Request) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            await send(message)

        try:
            await self._emulator.authenticate(HttpRequest(scope, receive))
        except Refusal as refusal:
            await self._emulator.envelope(refusal)(scope, receive, noting)
            return
        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            # Starlette raises it again when it has answered; what is raised here without an answer is not recorded yet.
            if entry.status is None:
                await self._emulator.crashed(error)(scope, receive, noting)

    def _told(self, fault: Fault) -> Response:
        answer: Response
        if fault.body is None:
            answer = self._emulator.envelope(Refusal(fault.status, "the sandbox was told to answer so"))
        elif isinstance(fault.body, str):
            answer = PlainTextResponse(fault.body, fault.status)
        else:
            answer = JSONResponse(fault.body, fault.status)
        if fault.retry_after is not None:
            answer.headers["retry-after"] = f"{fault.retry_after:g}"
        answer.headers.update(fault.headers)
        return answer


async def _read(receive: Receive, most: int) -> bytes:
    parts, length = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > most:
            raise TooLarge
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    transport: asyncio.Transport = scope["extensions"][_TRANSPORT]["transport"]
    if reset and (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        continue
