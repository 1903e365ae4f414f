"""From a truss on disk to an archive at Baseten: checked here, packed the same way every time, uploaded to S3."""

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import quote

import anyio
import yaml
from pydantic import SecretStr

from prefect_modeldeploy.deployments import DeploymentSpec, Resources
from prefect_modeldeploy.errors import InvalidInput, Problem, ProviderError
from prefect_modeldeploy.providers.baseten.answers import UploadTicket
from prefect_modeldeploy.providers.baseten.signing import sign_put
from prefect_modeldeploy.providers.baseten.words import PROVIDER
from prefect_modeldeploy.transport import RetryPolicy, Transport

LARGEST_BYTES = 5 * 1024**3
"""What S3 takes in one PUT."""

_CHUNK = 1024 * 1024
_IGNORED = frozenset({".git", "__pycache__", ".DS_Store"})
_PACKED = (".tgz", ".tar.gz", ".tar")


@dataclass(frozen=True)
class Truss:
    """A packed truss.

    Args:
        config: Its config.yaml, parsed.
        raw_config: The text of it.
        file: The archive, open for reading.
        bytes: Its length.
        digest: SHA-256 of it, hexadecimal.
    """

    config: dict[str, Any]
    raw_config: str
    file: IO[bytes]
    bytes: int
    digest: str


def pack(spec: DeploymentSpec) -> Truss:
    """Read and pack what `spec.source` names: a directory with a config.yaml, or an archive of one.

    The spec's `env` and `resources` become part of the configuration. Close the file of the result.

    Raises:
        InvalidInput: There is no truss, or its configuration is none.
    """
    if spec.source is None:
        raise InvalidInput("source", None, "name a directory with a truss (config.yaml, model/), or an archive of one")
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return _pack_directory(path, spec)
    if path.is_file() and path.name.endswith(_PACKED):
        return _take_archive(path, spec)
    raise InvalidInput("source", spec.source, "is neither a directory nor a .tgz; it must hold a truss")


def _pack_directory(path: Path, spec: DeploymentSpec) -> Truss:
    try:
        raw = (path / "config.yaml").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("source", spec.source, f"config.yaml cannot be read: {error}") from None
    config, changed = _configured(_parsed(raw, spec), spec)
    if changed:
        raw = yaml.safe_dump(config, sort_keys=False)
    file = TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with GzipFile(fileobj=file, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
            for member in _members(path):
                name = str(member.relative_to(path))
                if name == "config.yaml":
                    _add_text(tar, name, raw)
                else:
                    tar.add(member, name, recursive=False, filter=_anonymous)
        return _measured(file, config, raw)
    except BaseException:
        file.close()
        raise


def _take_archive(path: Path, spec: DeploymentSpec) -> Truss:
    try:
        with tarfile.open(path) as tar:
            member = next(name for name in tar.getnames() if name in ("config.yaml", "./config.yaml"))
            found = tar.extractfile(member)
            raw = found.read().decode() if found else ""
    except (tarfile.TarError, OSError, StopIteration, UnicodeDecodeError) as error:
        raise InvalidInput("source", spec.source, f"has no config.yaml at its top: {error}") from None
    config, changed = _configured(_parsed(raw, spec), spec)
    if changed:
        raise InvalidInput("source", spec.source, "env and resources need a directory: an archive is not rewritten")
    return _measured(path.open("rb"), config, raw)


def _parsed(raw: str, spec: DeploymentSpec) -> dict[str, Any]:
    try:
        config = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise InvalidInput("source", spec.source, f"config.yaml is no YAML: {error}") from None
    if not isinstance(config, dict):
        raise InvalidInput("source", spec.source, "config.yaml must hold a mapping")
    return config


def _configured(config: dict[str, Any], spec: DeploymentSpec) -> tuple[dict[str, Any], bool]:
    """The configuration with the spec's variables and resources, and whether they changed it."""
    changed = dict(config)
    if spec.env:
        changed["environment_variables"] = {**(config.get("environment_variables") or {}), **spec.env}
    if spec.resources and (resources := _truss_resources(spec.resources)):
        changed["resources"] = {**(config.get("resources") or {}), **resources}
    return changed, changed != config


def _truss_resources(resources: Resources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if resources.cpu_millicores is not None:
        found["cpu"] = f"{resources.cpu_millicores}m"
    if resources.memory_mib is not None:
        found["memory"] = f"{resources.memory_mib}Mi"
    if resources.gpu_count and not resources.gpu_type:
        raise InvalidInput("resources.gpu_type", None, "gpu_count needs the type, such as A10G")
    if resources.gpu_type and resources.gpu_count != 0:
        found["accelerator"] = f"{resources.gpu_type}:{resources.gpu_count or 1}"
        found["use_gpu"] = True
    return found


def _members(path: Path) -> list[Path]:
    return sorted(member for member in path.rglob("*") if not _IGNORED.intersection(member.relative_to(path).parts))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes every time, whoever packs: no times, no owners."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(_anonymous(member), io.BytesIO(data))


def _measured(file: IO[bytes], config: dict[str, Any], raw: str) -> Truss:
    file.seek(0)
    digest, length = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        length += len(chunk)
    if length > LARGEST_BYTES:
        file.close()
        raise InvalidInput("source", f"{length} bytes", "an archive of more than 5 GiB; load weights at start instead")
    return Truss(config, raw, file, length, digest.hexdigest())


class _Stream:
    """The archive as httpx sends it; each try starts at its beginning."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._file.seek(0)
        while chunk := await anyio.to_thread.run_sync(self._file.read, _CHUNK):
            yield chunk


async def upload(truss: Truss, ticket: UploadTicket, policy: RetryPolicy | None, *, allow_http: bool = False) -> None:
    """Put the archive where the ticket says. Does nothing when none is wanted.

    Raises:
        ProviderError: The ticket is incomplete, or S3 refused.
    """
    if ticket.creds is None:
        return
    try:
        key, secret = ticket.creds["aws_access_key_id"], ticket.creds["aws_secret_access_key"]
    except KeyError as error:
        raise ProviderError(PROVIDER, "POST /v1/prepare_model_upload", Problem(f"no {error} in creds")) from None
    region = ticket.s3_region or "us-west-2"
    path = f"/{quote(ticket.s3_key or '', safe='/-_.~')}"
    if ticket.endpoint_url:
        base = f"{ticket.endpoint_url.rstrip('/')}/{ticket.s3_bucket}"
    else:
        base = f"https://{ticket.s3_bucket}.s3.{region}.amazonaws.com"
    headers = sign_put(f"{base}{path}", truss.digest, region, key, secret, ticket.creds.get("aws_session_token"))
    headers["content-length"] = str(truss.bytes)
    secrets = [SecretStr(value) for value in ticket.creds.values()]
    async with Transport(
        "baseten's S3", base, secrets=secrets, policy=policy, timeout=600.0, allow_http=allow_http
    ) as transport:
        await transport.send("PUT", path, content=_Stream(truss.file), headers=headers)
