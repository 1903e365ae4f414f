"""A small HTTP server that stands for a replica. Run it as a process: `python -m tests.traffic.model_server NAME`."""

import asyncio
import hashlib
import json
import socket
import sys

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_modeldeploy.local.programs.modeldeploy_replica.server import protocol_class

MEGABYTE = 1 << 20


def model(name: str) -> ASGIApp:
    """An app that says who it is and what it was asked; some paths behave in a special way."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"].split("/")[1:]:
            case ["status", code]:
                await answer(send, {"name": name}, int(code))
            case ["slow", seconds]:
                await asyncio.sleep(float(seconds))
                await answer(send, {"name": name})
            case ["stream", pieces, pause]:
                await start(send, 200, {"content-type": "text/event-stream"})
                for number in range(int(pieces)):
                    await piece(send, f"data: {number}\n\n".encode())
                    await asyncio.sleep(float(pause))
                await piece(send, b"", last=True)
            case ["megabytes", count]:
                await start(send, 200, {"content-length": str(int(count) * MEGABYTE)})
                for number in range(int(count)):
                    await piece(send, bytes([number]) * MEGABYTE)
                await piece(send, b"", last=True)
            case ["digest"]:
                digest, length = hashlib.sha256(), 0
                async for part in body(receive):
                    digest.update(part)
                    length += len(part)
                await answer(send, {"name": name, "sha256": digest.hexdigest(), "bytes": length})
            case _:
                asked = {"path": scope["path"], "query": scope["query_string"].decode(), "method": scope["method"]}
                headers = {key.decode(): value.decode() for key, value in scope["headers"]}
                await answer(send, {"name": name, **asked, "headers": headers})

    return app


async def answer(send: Send, content: object, status: int = 200) -> None:
    text = json.dumps(content).encode()
    await start(send, status, {"content-type": "application/json", "content-length": str(len(text))})
    await piece(send, text, last=True)


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def piece(send: Send, content: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": not last})


async def body(receive: Receive):
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    print(listener.getsockname()[1], flush=True)
    # As a replica: an answer that is cut off after its head could not be asked for again.
    config = uvicorn.Config(model(sys.argv[1]), http=protocol_class(), log_level="error", lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])
