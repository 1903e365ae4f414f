"""Bodies and queries of the V4 API as the vendor documents them; unknown fields are ignored, as FastAPI does."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=500)]
ModelType = Literal["COMPLETION", "CHAT_COMPLETION", "AGENT", "EMBEDDING", "RERANKING", "GENERIC", "BUNDLE"]
ModelVendor = Literal[
    "OPENAI", "COHERE", "GOOGLE", "VERTEX_AI", "ANTHROPIC", "LAUNCH", "LLMENGINE", "BEDROCK", "FIREWORKS_AI", "OTHER"
]
EndpointType = Literal["SYNC", "ASYNC", "STREAMING", "BATCH"]
GPUType = Literal[
    "nvidia-tesla-t4",
    "nvidia-ampere-a10",
    "nvidia-ampere-a100",
    "nvidia-ampere-a100e",
    "nvidia-hopper-h100",
    "nvidia-hopper-h100-1g20gb",
    "nvidia-hopper-h100-3g40gb",
]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """The fields that the request had."""
        return self.model_dump(exclude_unset=True)


class LaunchConfiguration(Body):
    """vendor LAUNCH."""

    vendor: Literal["LAUNCH"] = "LAUNCH"
    min_workers: int = 0
    max_workers: int = 1
    per_worker: int = 10


class LLMEngineConfiguration(Body):
    """vendor LLMENGINE."""

    vendor: Literal["LLMENGINE"] = "LLMENGINE"
    min_workers: int = 0
    max_workers: int = 1
    per_worker: int = 10
    cpus: int = 3
    memory: str = "8Gi"
    storage: str = "16Gi"
    gpus: int = 0
    gpu_type: GPUType | None = None
    high_priority: bool = False
    num_shards: int = 4
    checkpoint_path: str | None = None
    model_name: str | None = None
    base_model_name: str | None = None
    inference_framework_image_tag: str | None = None


Configuration = Annotated[LaunchConfiguration | LLMEngineConfiguration, Field(discriminator="vendor")]


class NewDeployment(Body):
    """POST of a deployment."""

    name: Text
    account_id: str | None = None
    model_creation_parameters: dict[str, Any] | None = None
    deployment_metadata: dict[str, Any] | None = None
    vendor_configuration: Configuration | None = None
    wait_for_ready: bool = True


class DeploymentPatch(Body):
    """PATCH of a deployment."""

    name: Text | None = None
    model_creation_parameters: dict[str, Any] | None = None
    deployment_metadata: dict[str, Any] | None = None
    vendor_configuration: Configuration | None = None
    wait_for_ready: bool = True


class NewModel(Body):
    """POST of a model."""

    account_id: Text
    name: Text
    model_type: ModelType
    model_vendor: ModelVendor | None = None
    model_template_id: str | None = None
    base_model_id: str | None = None
    base_model_metadata: dict[str, Any] | None = None
    model_creation_parameters: dict[str, Any] | None = None
    model_group_id: str | None = None
    display_name: str | None = None
    description: str | None = None
    model_card: str | None = None
    training_data_card: str | None = None


class ModelPatch(Body):
    """PATCH of a model."""

    name: Text | None = None
    model_type: ModelType | None = None
    model_vendor: ModelVendor | None = None
    model_template_id: str | None = None
    base_model_id: str | None = None
    base_model_metadata: dict[str, Any] | None = None
    model_creation_parameters: dict[str, Any] | None = None
    model_group_id: str | None = None
    display_name: str | None = None
    description: str | None = None
    model_card: str | None = None
    training_data_card: str | None = None


class Bundle(Body):
    """The image of a template."""

    registry: str
    image: str
    tag: str
    command: list[str] | None = None
    env: dict[str, str] | None = None
    healthcheck_route: str | None = None
    predict_route: str | None = None
    streaming_command: list[str] | None = None
    streaming_predict_route: str | None = None
    readiness_initial_delay_seconds: int | None = None


class TemplateConfiguration(Body):
    """What a template launches."""

    vendor: Literal["LAUNCH"] = "LAUNCH"
    bundle_config: Bundle
    endpoint_config: dict[str, Any] | None = None
    fine_tuning_job_bundle_config: dict[str, Any] | None = None


class NewTemplate(Body):
    """POST of a template."""

    account_id: Text
    name: Text
    endpoint_type: EndpointType
    model_type: ModelType
    vendor_configuration: TemplateConfiguration
    endpoint_protocol: Literal["SGP", "COHERE", "VLLM"] | None = None
    model_creation_parameters_schema: dict[str, Any] | None = None
    model_request_parameters_schema: dict[str, Any] | None = None


class NewGroup(Body):
    """POST of a model group."""

    account_id: Text
    name: Text
    description: str | None = None


class GroupPatch(Body):
    """PATCH of a model group."""

    name: Text | None = None
    description: str | None = None


class NewServer(Body):
    """POST of a model server."""

    name: Text
    model_deployment_id: Text
    alias: Text | None = None


class NewBackend(Body):
    """PUT of a server's backend."""

    new_model_deployment_id: Text


class Paging(Body):
    """The query of lists."""

    account_id: str | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    sort_by: str | None = None


class ModelPaging(Paging):
    """The query of the list of models."""

    model_group_id: str | None = None
    model_type: ModelType | None = None
    view: str | None = None


class UsagePeriod(Body):
    """The query of usage statistics."""

    chunks: Annotated[int, Field(ge=1, le=1000)]
    start_date: str
    end_date: str


class Prompt(Body):
    """POST of a completion or a chat completion."""

    prompt: str
    chat_history: list[Any] | None = None


class Texts(Body):
    """POST of embeddings."""

    texts: list[str]


class Ranking(Body):
    """POST of rerankings."""

    query: str
    chunks: list[str]
