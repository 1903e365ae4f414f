"""An image of this very Python and a small model server, made without any registry."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import docker

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = {"site-packages", "test", "__pycache__", "idlelib", "tkinter", "ensurepip", "lib2to3"}


COMMAND = (f"/python/bin/python{VERSION}", "-I", "/srv/model_server.py")


def build(engine: docker.DockerClient, name: str, *changes: str) -> None:
    """Import the file system, with the server as its command, and further instructions of a Dockerfile."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "root.tar"
        write(path)
        repository, _, tag = name.partition(":")
        command = f"CMD {json.dumps(COMMAND)}"
        engine.api.import_image_from_file(str(path), repository=repository, tag=tag, changes=[command, *changes])


def write(path: Path) -> None:
    """A file system with the interpreter, its libraries and the server."""
    with tarfile.open(path, "w") as tar:
        _fill(tar)


def _fill(tar: tarfile.TarFile) -> None:
    python, library = Path(sys.base_prefix) / "bin" / f"python{VERSION}", Path(sys.base_prefix) / "lib"
    tar.add(python.resolve(), f"python/bin/python{VERSION}")
    tar.add(library / f"python{VERSION}", f"python/lib/python{VERSION}", filter=_kept)
    modules = list((library / f"python{VERSION}" / "lib-dynload").glob("*.so"))
    for needed in _libraries([python.resolve(), *modules]):
        tar.add(os.path.realpath(needed), needed.lstrip("/"))
    tar.add(Path(__file__).with_name("model_server.py"), "srv/model_server.py")


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = set(Path(entry.name).parts)
    return None if parts & LEFT_OUT or entry.name.endswith(".a") else entry


def _libraries(files: list[Path]) -> set[str]:
    said = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(/\S+\.so\S*) \(0x", said))
