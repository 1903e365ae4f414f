"""A private registry on loopback with one image, which Docker's engine pulls: the reading half of the registry API."""

import base64
import gzip
import hashlib
import json
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.docker import image

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
DOCKER = "application/vnd.docker"
MANIFEST = f"{DOCKER}.distribution.manifest.v2+json"


@contextmanager
def private_registry(user: str, password: str) -> Iterator[str]:
    """Yields the address of a registry that has `model:1`, and shows it to this user only."""
    manifest, blobs = _image()
    allowed = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    documents = {"/v2/": ("application/json", b"{}"), "/v2/model/manifests/1": (MANIFEST, manifest)}
    documents[f"/v2/model/manifests/{_digest(manifest)}"] = (MANIFEST, manifest)
    documents |= {f"/v2/model/blobs/{_digest(blob)}": ("application/octet-stream", blob) for blob in blobs}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers["Authorization"] == allowed:
                kind, body = documents.get(self.path, ("text/plain", b"no such thing"))
                self.send_response(200 if self.path in documents else 404)
            else:
                kind, body = "application/json", b'{"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}'
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="tests"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def _image() -> tuple[bytes, tuple[bytes, bytes]]:
    """Manifest, and the configuration and the one layer that it names."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "root.tar"
        image.write(path)
        tar = path.read_bytes()
    layer = gzip.compress(tar, compresslevel=1)
    configuration = json.dumps(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Cmd": image.COMMAND},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
        }
    ).encode()
    described = [(f"{DOCKER}.container.image.v1+json", configuration), (f"{DOCKER}.image.rootfs.diff.tar.gzip", layer)]
    one, other = ({"mediaType": kind, "size": len(blob), "digest": _digest(blob)} for kind, blob in described)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": one, "layers": [other]}
    return json.dumps(manifest).encode(), (configuration, layer)


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
