"""New models and deployments, and the stand-in for S3 that takes their archives."""

import hashlib
from typing import Any, ClassVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_modeldeploy.providers.baseten.signing import ALGORITHM, canonical_query, signature
from prefect_modeldeploy.sandbox.baseten.bodies import Filter, ModelSource, NewDeployment, NewModel, Payload, Prepare
from prefect_modeldeploy.sandbox.baseten.core import AUTOSCALING, INSTANCE_TYPES, first, merged
from prefect_modeldeploy.sandbox.baseten.promoting import Promoting
from prefect_modeldeploy.sandbox.emulator import Refusal
from prefect_modeldeploy.sandbox.world import Record

BUCKET = "baseten-sandbox-uploads"
REGION = "us-west-2"


class Creating(Promoting):
    """Prepare, upload, create."""

    unique_models: ClassVar[bool] = True

    async def prepare(self, request: Request) -> Response:
        """POST /v1/prepare_model_upload."""
        asked = await self.body(request, Prepare)
        if asked.model_id is not None:
            self.find_model(asked.model_id)
        self.check_payload(asked.deployment)
        if asked.dry_run:
            return JSONResponse({"creds": None, "s3_bucket": None, "s3_key": None, "s3_region": None})
        ticket = self.ticket()
        keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        return JSONResponse(
            {
                "creds": {name: ticket[name] for name in keys},
                "s3_bucket": ticket["s3_bucket"],
                "s3_key": ticket["s3_key"],
                "s3_region": REGION,
                "endpoint_url": ticket["endpoint_url"],
            }
        )

    def ticket(self) -> Record:
        """Where an archive may be put."""
        facts = self.world.facts
        key = f"uploads/{self.world.new_id('upload', 12)}/model.tgz"
        self.world["uploads"][key] = {"key": key, "bytes": None, "sha256": None}
        return {
            "aws_access_key_id": facts["s3_access_id"],
            "aws_secret_access_key": facts["s3_secret"],
            "aws_session_token": facts["s3_session_token"],
            "s3_bucket": BUCKET,
            "s3_key": key,
            "endpoint_url": f"{self.own_url}/s3",
        }

    def check_payload(self, payload: Payload) -> None:
        """What the server refuses before anything is uploaded."""
        if payload.is_development and (payload.environment_name or payload.deployment_name):
            raise Refusal(400, "A development deployment takes no environment_name and no deployment_name.")
        self.instance_type(payload)

    def instance_type(self, payload: Payload) -> str:
        """The instance type that a payload asks for."""
        resources = payload.config.get("resources")
        named = resources.get("instance_type") if isinstance(resources, dict) else None
        wanted = payload.instance_type_id or named
        if wanted is None:
            accelerator = str((resources or {}).get("accelerator") or "") if isinstance(resources, dict) else ""
            kind = accelerator.partition(":")[0]
            return next((name for name, one in INSTANCE_TYPES.items() if kind and one["gpu_type"] == kind), "1x4")
        if not isinstance(wanted, str) or wanted not in INSTANCE_TYPES:
            raise Refusal(400, f"Unknown instance type {wanted!r}.", "VALIDATION_ERROR")
        return wanted

    async def create_model(self, request: Request) -> Response:
        """POST /v1/models."""
        source = (await self.body(request, NewModel)).source
        model, deployment = self.new_model(source)
        return JSONResponse({"model": self.model_view(model), "deployment": self.view(deployment)})

    async def create_deployment(self, request: Request) -> Response:
        """POST /v1/models/{model}/deployments."""
        model = self.model_of(request)
        source = (await self.body(request, NewDeployment)).source
        deployment = self.new_deployment(model, source.deployment, source.s3_key)
        return JSONResponse({"model": self.model_view(model), "deployment": self.view(deployment)})

    def new_model(self, source: ModelSource) -> tuple[Record, Record]:
        """A model with its first deployment, which serves production unless it is a development one."""
        if self.unique_models and first(self.world["models"].values(), name=source.name):
            raise Refusal(400, f"A model named {source.name} already exists.", "VALIDATION_ERROR")
        self.check_payload(source.deployment)
        self._check_upload(source.s3_key)
        model = self.add_model(source.name)
        return model, self.new_deployment(model, source.deployment, source.s3_key)

    def add_model(self, name: str) -> Record:
        """A model with an empty production environment."""
        record: Record = {"id": self.world.new_id("model", 8), "name": name, "created_at": self.clock.stamp()}
        self.world["models"][record["id"]] = record
        self.make_environment(record, "production")
        return record

    def new_deployment(self, model: Record, payload: Payload, s3_key: str | None) -> Record:
        """A deployment, promoted to an environment when the payload names one."""
        self.settle_all(model)
        self.check_payload(payload)
        self._check_upload(s3_key)
        others = self.deployments_of(model)
        name = payload.deployment_name or f"deployment-{self.world.count('name-' + model['id'])}"
        if payload.deployment_name and first(others, name=name):
            raise Refusal(400, f"A deployment named {name} already exists.", "VALIDATION_ERROR")
        takes = None if payload.is_development else payload.environment_name
        initial = not payload.is_development and not self.production_of(model) and not others
        env = self._environment_for(model, takes, payload) if takes and not initial else None
        record = self.add_deployment(model, name, payload, "push" if env and env["current"] else "create", s3_key)
        if initial:
            production = self.world["environments"][f"{model['id']}/production"]
            production.update(current=record["id"], instance_type=record["instance_type"])
            production["autoscaling"] = dict(record["autoscaling"])
        elif env is not None:
            override = payload.promotion_settings_override
            settings = merged(env["promotion_settings"], override.model_dump() if override else {})
            given = payload.autoscaling_settings.passed() if payload.autoscaling_settings else {}
            self.release_to(env, record, settings, {"autoscaling_settings": given}, scale_down=True)
        return record

    def add_deployment(self, model: Record, name: str, payload: Payload, timeline: str, s3_key: str | None) -> Record:
        """The record itself; a development deployment replaces the former one."""
        if payload.is_development:
            name = "development"
            for other in self.deployments_of(model):
                if other["is_development"]:
                    del self.world["deployments"][other["id"]]
        autoscaling = {**AUTOSCALING, **(payload.autoscaling_settings.passed() if payload.autoscaling_settings else {})}
        backpressure = payload.request_backpressure_settings
        record: Record = {
            "id": self.world.new_id("deployment"),
            "name": name,
            "model_id": model["id"],
            "created_at": self.clock.stamp(),
            "is_development": payload.is_development,
            "labels": payload.labels or {},
            "config": payload.config,
            "raw_config": payload.raw_config,
            "instance_type": self.instance_type(payload),
            "autoscaling": autoscaling,
            "backpressure": backpressure.policy if backpressure else None,
            "s3_key": s3_key,
            "pending": None,
        }
        self.world["deployments"][record["id"]] = record
        self.enter(record, timeline)
        self.audit("MODEL_DEPLOYED", record, deployment_id=record["id"], deployment_name=name)
        return record

    def _environment_for(self, model: Record, name: str, payload: Payload) -> Record:
        env = self.world["environments"].get(f"{model['id']}/{name}")
        if env is None:
            if not payload.create_environment_if_missing:
                raise Refusal(400, f"Environment {name} does not exist.", "VALIDATION_ERROR")
            self.from_query({"name": name}, Filter)
            env = self.make_environment(model, name)
        if env["promotion"]:
            raise Refusal(400, f"Environment {name} already has an in progress promotion.", "VALIDATION_ERROR")
        return env

    def _check_upload(self, s3_key: str | None) -> None:
        upload = self.world["uploads"].get(s3_key or "")
        if upload is None or upload["bytes"] is None:
            raise Refusal(400, f"No archive was uploaded to {s3_key}.", "VALIDATION_ERROR")

    # --- the stand-in for S3 ---------------------------------------------------------------------------------------

    async def s3(self, request: Request) -> Response:
        """PUT of an object, and of its parts; the signature is checked as Amazon does."""
        body = await request.body()
        self._check_signature(request, body)
        key = request.path_params["key"]
        upload = self.world["uploads"].get(key)
        if upload is None or request.path_params["bucket"] != BUCKET:
            raise S3Refusal(403, "AccessDenied", "Access Denied")
        query = request.query_params
        if request.method == "POST" and "uploads" in query:
            upload["parts"] = {}
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{key}</Key>"
                f"<UploadId>{hashlib.sha256(key.encode()).hexdigest()[:32]}</UploadId></InitiateMultipartUploadResult>"
            )
        if request.method == "POST":
            parts = upload.pop("parts", {})
            upload.update(bytes=sum(parts.values()), sha256="of parts")
            return _xml(f"<CompleteMultipartUploadResult><Key>{key}</Key></CompleteMultipartUploadResult>")
        plain = _without_chunks(body) if _is_chunked(request) else body
        if "partNumber" in query:
            upload.setdefault("parts", {})[query["partNumber"]] = len(plain)
        else:
            upload.update(bytes=len(plain), sha256=hashlib.sha256(plain).hexdigest())
        return Response(status_code=200, headers={"etag": f'"{hashlib.md5(plain).hexdigest()}"'})  # noqa: S324

    def _check_signature(self, request: Request, body: bytes) -> None:
        facts, headers = self.world.facts, {name.lower(): value for name, value in request.headers.items()}
        fields = _authorization(headers.get("authorization", ""))
        key, _, scope = fields.get("Credential", "").partition("/")
        if key != facts["s3_access_id"] or headers.get("x-amz-security-token") != facts["s3_session_token"]:
            raise S3Refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
        signed, digest = fields.get("SignedHeaders", ""), headers.get("x-amz-content-sha256", "")
        named = signed.split(";")
        if "host" not in named or "x-amz-date" not in headers or any(name not in headers for name in named):
            raise S3Refusal(403, "AccessDenied", "A signed header is missing")
        path = quote(request.scope["path"], safe="/-_.~")
        query = canonical_query(list(request.query_params.multi_items()))
        found = signature(request.method, path, query, headers, signed, digest, scope, facts["s3_secret"])
        if found != fields.get("Signature"):
            raise S3Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
        if len(digest) == 64 and digest != hashlib.sha256(body).hexdigest():
            raise S3Refusal(400, "XAmzContentSHA256Mismatch", "The provided x-amz-content-sha256 does not match")

    async def download(self, request: Request) -> Response:
        """The presigned address of an archive; large archives are not kept, so this tells what was uploaded."""
        if request.query_params.get("signature") != self.world.facts["download_secret"]:
            raise S3Refusal(403, "AccessDenied", "Access Denied")
        upload = self.world["uploads"].get(request.path_params["key"])
        if upload is None:
            raise S3Refusal(404, "NoSuchKey", "The specified key does not exist.")
        return JSONResponse(upload)


class S3Refusal(Refusal):
    """Amazon's envelope is XML."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, message, code, s3=True)


def s3_error(refusal: Refusal) -> Response:
    """An error as S3 answers it."""
    return _xml(f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>", refusal.status)


def _xml(text: str, status: int = 200) -> Response:
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>{text}', status, media_type="application/xml")


def _authorization(header: str) -> dict[str, Any]:
    scheme, _, rest = header.partition(" ")
    if scheme != ALGORITHM:
        return {}
    return dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)


def _is_chunked(request: Request) -> bool:
    return request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")


def _without_chunks(body: bytes) -> bytes:
    """The payload of Amazon's `aws-chunked` encoding: `<hex length>;...\\r\\n<bytes>\\r\\n` until a length of 0."""
    found, at = bytearray(), 0
    while (end := body.find(b"\r\n", at)) >= 0:
        try:
            length = int(body[at:end].partition(b";")[0], 16)
        except ValueError:
            raise S3Refusal(400, "IncompleteBody", "The chunks cannot be read") from None
        if length == 0:
            break
        found += body[end + 2 : end + 2 + length]
        at = end + 2 + length + 2
    return bytes(found)
