"""A model in a container, with nothing but the standard library: PID 1 of the tests' image."""

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ready_at = time.monotonic() + float(os.environ.get("START_SECONDS", "0"))
ERROR_RATE = float(os.environ.get("ERROR_RATE", "0"))
in_flight = threading.Semaphore(1000)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/healthz" and time.monotonic() > ready_at else 503, {})

    def do_POST(self) -> None:
        global ready_at
        with in_flight:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/crash":
                os._exit(7)
            if self.path == "/unwell":
                ready_at = time.monotonic() + payload["seconds"]
            said = {"echo": payload, "version": os.environ.get("VERSION"), "replica": socket.gethostname()}
            self._answer(500 if random.random() < ERROR_RATE else 200, said)

    def _answer(self, status: int, said: object) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Silence."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    if "CRASH" in os.environ:
        sys.exit(f"no model here, and the key is {os.environ.get('API_KEY')}")
    if "EAT_MEMORY" in os.environ:
        print(len(b"x" * (1 << 30)))
    server = Server(("", 8000), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"version {os.environ.get('VERSION')} serves", flush=True)
    server.serve_forever(poll_interval=0.02)
    for _ in range(1000):  # what is in flight is answered
        in_flight.acquire()
    print("bye", flush=True)
    os._exit(0)


main()
