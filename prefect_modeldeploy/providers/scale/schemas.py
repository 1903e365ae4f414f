"""The V4 API's objects: requests are checked strictly, answers are read tolerantly.

Source of every field: the vendor's OpenAPI document of "Get Deployment" (EGP API V4 0.1.0) and its official client
scale-gp 0.1.0a62. Documented answers are 200 and 422 only; see `ScaleProblem`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_modeldeploy.errors import InvalidInput

GPUType = Literal[
    "nvidia-tesla-t4",
    "nvidia-ampere-a10",
    "nvidia-ampere-a100",
    "nvidia-ampere-a100e",
    "nvidia-hopper-h100",
    "nvidia-hopper-h100-1g20gb",
    "nvidia-hopper-h100-3g40gb",
]
ModelType = Literal["COMPLETION", "CHAT_COMPLETION", "AGENT", "EMBEDDING", "RERANKING", "GENERIC", "BUNDLE"]
ModelVendor = Literal[
    "OPENAI", "COHERE", "GOOGLE", "VERTEX_AI", "ANTHROPIC", "LAUNCH", "LLMENGINE", "BEDROCK", "FIREWORKS_AI", "OTHER"
]
EndpointType = Literal["SYNC", "ASYNC", "STREAMING", "BATCH"]
IdentityType = Literal["user", "service_account"]

R = TypeVar("R", bound="Request")


class Request(BaseModel):
    """Base of what is sent: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def body(self) -> dict[str, Any]:
        """The fields that were given: the vendor's own defaults hold for the others."""
        return self.model_dump(mode="json", exclude_unset=True)


class Answer(BaseModel):
    """Base of what is read: unknown fields are kept, fields of a wrong type are left at their default.

    `raw` is the vendor's object, whole.
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    raw: dict[str, Any] = Field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, raw: Any) -> Self:
        """Read an answer; never raises."""
        known = dict(raw) if isinstance(raw, Mapping) else {}
        try:
            return cls.model_validate({**known, "raw": known})
        except ValidationError as error:
            wrong = {problem["loc"][0] for problem in error.errors()}
            fitting = {name: value for name, value in known.items() if name not in wrong}
            return cls.model_validate({**fitting, "raw": known})


def checked(kind: type[R], field: str, given: Mapping[str, Any]) -> R:
    """Make a request; raises InvalidInput that names the offending field below `field`."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([field, *(str(part) for part in first["loc"])])
        raise InvalidInput(path, first["input"], first["msg"]) from None


# --- vendor configurations --------------------------------------------------------------------------------------------


class LaunchConfiguration(Request):
    """vendor_configuration of a deployment on Launch; size and image come from the model's template."""

    vendor: Literal["LAUNCH"] = Field("LAUNCH", description="Which variant this is.")
    min_workers: int = Field(0, ge=0, description="Workers that always run; 0 allows scale to zero.")
    max_workers: int = Field(1, ge=0, description="Upper bound of workers.")
    per_worker: int = Field(10, ge=1, description="Concurrent requests per worker that the autoscaler aims at.")


class LLMEngineConfiguration(Request):
    """vendor_configuration of a deployment on LLM Engine."""

    vendor: Literal["LLMENGINE"] = Field("LLMENGINE", description="Which variant this is.")
    min_workers: int = Field(0, ge=0, description="Workers that always run; 0 allows scale to zero.")
    max_workers: int = Field(1, ge=0, description="Upper bound of workers.")
    per_worker: int = Field(10, ge=1, description="Concurrent requests per worker that the autoscaler aims at.")
    cpus: int = Field(3, ge=1, description="Whole CPUs per worker.")
    memory: str = Field("8Gi", description="Memory per worker, a Kubernetes quantity.")
    storage: str = Field("16Gi", description="Disk per worker, a Kubernetes quantity.")
    gpus: int = Field(0, ge=0, description="GPUs per worker.")
    gpu_type: GPUType | None = Field(None, description="Which GPU.")
    high_priority: bool = Field(False, description="Whether it is scheduled before others.")
    num_shards: int = Field(4, ge=1, description="Into how many parts the model is cut.")
    checkpoint_path: str | None = Field(None, description="Where the weights are.")
    model_name: str | None = Field(None, description="Name of the model at LLM Engine.")
    base_model_name: str | None = Field(None, description="Name of the model that it was tuned from.")
    inference_framework_image_tag: str | None = Field(None, description="Tag of the inference server's image.")


Configuration = LaunchConfiguration | LLMEngineConfiguration
CONFIGURATIONS: dict[str, type[Configuration]] = {"LAUNCH": LaunchConfiguration, "LLMENGINE": LLMEngineConfiguration}


# --- deployments ------------------------------------------------------------------------------------------------------


class NewDeployment(Request):
    """Body of POST /v4/models/{model_instance_id}/deployments."""

    name: str = Field(min_length=1, description="Name of the deployment; the vendor does not say that it is unique.")
    account_id: str | None = Field(None, description="Account that owns it; default: the selected one.")
    model_creation_parameters: dict[str, Any] | None = Field(None, description="As the template's schema asks.")
    deployment_metadata: dict[str, Any] | None = Field(None, description="Anything; ours is under `modeldeploy`.")
    vendor_configuration: LaunchConfiguration | LLMEngineConfiguration | None = Field(
        None, discriminator="vendor", description="Workers, and for LLMENGINE their size."
    )
    wait_for_ready: Literal[False] = Field(
        False, description="Never true: the vendor's default blocks the call until READY, and its client then re-posts."
    )


class DeploymentPatch(Request):
    """Body of PATCH; whether objects are merged or replaced is unknown, so they are always sent whole."""

    name: str | None = Field(None, min_length=1, description="New name.")
    model_creation_parameters: dict[str, Any] | None = Field(None, description="As the template's schema asks.")
    deployment_metadata: dict[str, Any] | None = Field(None, description="Anything.")
    vendor_configuration: dict[str, Any] | None = Field(None, description="The whole configuration.")
    wait_for_ready: Literal[False] = Field(False, description="Never true, as at creation.")


class ScaleDeployment(Answer):
    """`ModelDeploymentResponse`, the answer of every operation on a deployment."""

    id: str = Field("", description="Unique identifier.")
    name: str = Field("", description="Name.")
    status: str = Field("", description="Status: a free string in the vendor's schema.")
    created_at: datetime | None = Field(None, description="When it was created.")
    account_id: str = Field("", description="Account that owns it.")
    created_by_user_id: str = Field("", description="Who created it.")
    created_by_identity_type: IdentityType | str = Field("", description="What kind of identity created it.")
    model_instance_id: str | None = Field(None, description="Model that it serves.")
    model_endpoint_id: str | None = Field(None, description="The Launch endpoint behind it.")
    model_creation_parameters: dict[str, Any] | None = Field(None, description="As given at creation.")
    deployment_metadata: dict[str, Any] | None = Field(None, description="As given.")
    vendor_configuration: dict[str, Any] | None = Field(
        None, description="A LaunchConfiguration or LLMEngineConfiguration as JSON; unknown vendors are kept."
    )

    @property
    def configuration(self) -> Configuration | None:
        """The vendor configuration, typed; None when it is of an unknown kind or breaks its own rules."""
        given = self.vendor_configuration or {}
        kind = CONFIGURATIONS.get(str(given.get("vendor")))
        if kind is None:
            return None
        known = {name: value for name, value in given.items() if name in kind.model_fields and value is not None}
        try:
            return kind.model_validate(known)
        except ValidationError:
            return None


class ValidationProblem(Answer):
    """One entry of a 422's `detail` (`ValidationError` in the vendor's schema)."""

    loc: tuple[str | int, ...] = Field((), description="Where: body or query, then the path of the field.")
    msg: str = Field("", description="What is wrong.")
    type: str = Field("", description="The kind of error.")
    input: Any = Field(None, description="What was sent.")
    ctx: dict[str, Any] | None = Field(None, description="Bounds and the like.")


class Deleted(Answer):
    """Answer of every DELETE."""

    count: int = Field(0, description="How many were deleted.")
    success: bool = Field(False, description="Whether it worked.")


# --- models, templates, groups ----------------------------------------------------------------------------------------


class NewModel(Request):
    """Body of POST /v4/models. A new version of a model is a new model: V4 has no versions."""

    name: str = Field(min_length=1, description="Name of the model.")
    model_type: ModelType = Field(description="What it answers.")
    account_id: str | None = Field(None, description="Account that owns it; default: the block's.")
    model_vendor: ModelVendor | None = Field(None, description="Who serves it; LAUNCH for one's own images.")
    model_template_id: str | None = Field(None, description="Template that it is made from.")
    base_model_id: str | None = Field(None, description="Model that it was tuned from.")
    base_model_metadata: dict[str, Any] | None = Field(None, description="What is known of that model.")
    model_creation_parameters: dict[str, Any] | None = Field(None, description="As the template's schema asks.")
    model_group_id: str | None = Field(None, description="Group that it belongs to.")
    display_name: str | None = Field(None, description="For people.")
    description: str | None = Field(None, description="For people.")
    model_card: str | None = Field(None, description="Markdown.")
    training_data_card: str | None = Field(None, description="Markdown.")


class ModelPatch(Request):
    """Body of PATCH /v4/models/{id}: any of the fields of a new model but the account."""

    name: str | None = Field(None, min_length=1, description="New name.")
    model_type: ModelType | None = Field(None, description="What it answers.")
    model_vendor: ModelVendor | None = Field(None, description="Who serves it.")
    model_template_id: str | None = Field(None, description="Template that it is made from.")
    base_model_id: str | None = Field(None, description="Model that it was tuned from.")
    base_model_metadata: dict[str, Any] | None = Field(None, description="What is known of that model.")
    model_creation_parameters: dict[str, Any] | None = Field(None, description="As the template's schema asks.")
    model_group_id: str | None = Field(None, description="Group that it belongs to.")
    display_name: str | None = Field(None, description="For people.")
    description: str | None = Field(None, description="For people.")
    model_card: str | None = Field(None, description="Markdown.")
    training_data_card: str | None = Field(None, description="Markdown.")


class ScaleModel(Answer):
    """A model instance."""

    id: str = Field("", description="Unique identifier.")
    name: str = Field("", description="Name; not known to be unique.")
    model_type: ModelType | str = Field("", description="What it answers.")
    model_vendor: ModelVendor | str | None = Field(None, description="Who serves it.")
    account_id: str = Field("", description="Account that owns it.")
    created_at: datetime | None = Field(None, description="When it was created.")
    created_by_user_id: str = Field("", description="Who created it.")
    created_by_identity_type: IdentityType | str = Field("", description="What kind of identity created it.")
    deployment_count: int | None = Field(None, description="How many deployments it has.")
    request_schema: dict[str, Any] | None = Field(None, description="JSON schema of its requests.")
    response_schema: dict[str, Any] | None = Field(None, description="JSON schema of its answers.")
    supports_multi_turn: bool | None = Field(None, description="Whether it holds conversations.")
    model_template_id: str | None = Field(None, description="Template that it was made from.")
    model_group_id: str | None = Field(None, description="Group that it belongs to.")
    deployments: list[ScaleDeployment] | None = Field(None, description="With view=Deployments.")
    model_group: "ScaleGroup | None" = Field(None, description="With view=ModelGroup.")


class Bundle(Request):
    """What a template runs: an image and how to talk to it."""

    registry: str = Field(description="Registry of the image.")
    image: str = Field(description="Name of the image.")
    tag: str = Field(description="Tag of the image.")
    command: list[str] | None = Field(None, description="What is started in it.")
    env: dict[str, str] | None = Field(None, description="Environment variables. No secrets.")
    healthcheck_route: str | None = Field(None, description="Default at the vendor: /readyz.")
    predict_route: str | None = Field(None, description="Default at the vendor: /predict.")
    streaming_command: list[str] | None = Field(None, description="What is started for streaming.")
    streaming_predict_route: str | None = Field(None, description="Default at the vendor: /generate_streaming.")
    readiness_initial_delay_seconds: int | None = Field(None, ge=0, description="Default at the vendor: 120 s.")


class EndpointConfiguration(Request):
    """What a template's deployments get per worker."""

    cpus: int | None = Field(None, ge=1, description="Whole CPUs.")
    memory: str | None = Field(None, description="A Kubernetes quantity.")
    storage: str | None = Field(None, description="A Kubernetes quantity.")
    gpus: int | None = Field(None, ge=0, description="GPUs.")
    gpu_type: GPUType | None = Field(None, description="Which GPU.")
    min_workers: int | None = Field(None, ge=0, description="Workers that always run.")
    max_workers: int | None = Field(None, ge=0, description="Upper bound of workers.")
    per_worker: int | None = Field(None, ge=1, description="Concurrent requests per worker.")
    endpoint_type: EndpointType | None = Field(None, description="How it is called.")
    high_priority: bool | None = Field(None, description="Whether it is scheduled before others.")


class TemplateConfiguration(Request):
    """vendor_configuration of a template."""

    vendor: Literal["LAUNCH"] = Field("LAUNCH", description="The only one.")
    bundle_config: Bundle = Field(description="What runs.")
    endpoint_config: EndpointConfiguration | None = Field(None, description="On what it runs.")
    fine_tuning_job_bundle_config: dict[str, Any] | None = Field(None, description="How it is tuned.")


class NewTemplate(Request):
    """Body of POST /v4/model-templates; there is no PATCH."""

    name: str = Field(min_length=1, description="Name of the template.")
    endpoint_type: EndpointType = Field(description="How its deployments are called.")
    model_type: ModelType = Field(description="What its models answer.")
    vendor_configuration: TemplateConfiguration = Field(description="What runs, and on what.")
    account_id: str | None = Field(None, description="Account that owns it; default: the block's.")
    endpoint_protocol: Literal["SGP", "COHERE", "VLLM"] | None = Field(None, description="Calling convention.")
    model_creation_parameters_schema: dict[str, Any] | None = Field(None, description="What models may be given.")
    model_request_parameters_schema: dict[str, Any] | None = Field(None, description="What requests may be given.")


class ScaleTemplate(Answer):
    """A model template."""

    id: str = Field("", description="Unique identifier.")
    name: str = Field("", description="Name.")
    endpoint_type: EndpointType | str = Field("", description="How its deployments are called.")
    model_type: ModelType | str = Field("", description="What its models answer.")
    vendor_configuration: dict[str, Any] | None = Field(None, description="What runs, and on what.")
    account_id: str = Field("", description="Account that owns it.")
    created_at: datetime | None = Field(None, description="When it was created.")


class NewGroup(Request):
    """Body of POST /v4/model-groups."""

    name: str = Field(min_length=1, description="Name of the group.")
    description: str | None = Field(None, description="For people.")
    account_id: str | None = Field(None, description="Account that owns it; default: the block's.")


class GroupPatch(Request):
    """Body of PATCH /v4/model-groups/{id}."""

    name: str | None = Field(None, min_length=1, description="New name.")
    description: str | None = Field(None, description="For people.")


class ScaleGroup(Answer):
    """A group of models that have one base model."""

    id: str = Field("", description="Unique identifier.")
    name: str = Field("", description="Name.")
    description: str | None = Field(None, description="For people.")
    account_id: str = Field("", description="Account that owns it.")
    created_at: datetime | None = Field(None, description="When it was created.")


# --- model servers, usage ---------------------------------------------------------------------------------------------


class ScaleServer(Answer):
    """A model server: a stable name for one deployment."""

    model_server_id: str = Field("", description="Unique identifier.")
    name: str = Field("", description="For people; not known to be unique.")
    account_id: str = Field("", description="Account that owns it.")
    alias: str | None = Field(None, description="A second address of the server.")
    model_deployment_id: str | None = Field(None, description="Its backend; of a swap's answer, maybe the former one.")


class UsagePoint(Answer):
    """Tokens of one chunk of a period."""

    date: datetime | None = Field(None, description="Start of the chunk.")
    prompt_tokens: int = Field(0, description="Tokens in.")
    response_tokens: int = Field(0, description="Tokens out.")
    summary_tokens: int = Field(0, description="Both.")


class Usage(Answer):
    """Tokens used over a period. The vendor counts no requests, latencies, errors or workers."""

    data: list[UsagePoint] = Field(default_factory=list, description="One entry a chunk.")
    start_date: datetime | None = Field(None, description="Start of the first chunk.")
    end_date: datetime | None = Field(None, description="Start of the last chunk.")
