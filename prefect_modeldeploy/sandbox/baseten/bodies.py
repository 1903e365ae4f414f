"""What the emulator takes, written from the vendor's OpenAPI, apart from our client's own models."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Bodies that declare no further keys refuse them."""

    model_config = ConfigDict(extra="forbid")


class Open(BaseModel):
    """Bodies that do not say so ignore them."""

    model_config = ConfigDict(extra="ignore")


class Name(Strict):
    """A rename of a model."""

    name: str = Field(min_length=1, max_length=255)


class DeploymentName(Strict):
    """A rename of a deployment."""

    name: str = Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")


class Autoscaling(Strict):
    """Null is the same as left out."""

    min_replica: int | None = Field(None, ge=0, le=1000)
    max_replica: int | None = Field(None, ge=1, le=1000)
    autoscaling_window: int | None = Field(None, ge=10, le=3600)
    scale_down_delay: int | None = Field(None, ge=0, le=3600)
    concurrency_target: int | None = Field(None, ge=1, le=1_000_000)
    target_utilization_percentage: int | None = Field(None, ge=1, le=100)
    target_in_flight_tokens: int | None = Field(None, ge=1, le=10**12)
    max_scale_down_rate: int | None = Field(None, ge=1, le=50)

    def passed(self) -> dict[str, Any]:
        """What was set."""
        return self.model_dump(exclude_none=True)


class Backpressure(Strict):
    """Null clears."""

    policy: Literal["QUEUE_ON_FULL", "REJECT_ON_FULL"] | None = None


class RollingConfig(Open):
    """Of a rolling promotion."""

    rolling_deploy_strategy: Literal["REPLICA"] | None = None
    max_surge_percent: int | None = Field(None, ge=0, le=50)
    max_unavailable_percent: int | None = Field(None, ge=0, le=50)
    stabilization_time_seconds: int | None = Field(None, ge=0, le=3600)
    replica_overhead_percent: int | None = Field(None, ge=0, le=500)


class PromotionSettings(Open):
    """Null is the same as left out; canary ramps are no more."""

    redeploy_on_promotion: bool | None = None
    rolling_deploy: bool | None = None
    promotion_cleanup_strategy: Literal["KEEP", "SCALE_TO_ZERO", "DEACTIVATE"] | None = None
    rolling_deploy_config: RollingConfig | None = None
    ramp_up_while_promoting: Literal[False] | None = None
    ramp_up_duration_seconds: int | None = Field(None, ge=0, le=86400)


class OneSchedule(Strict):
    """A schedule: its details are kept as they come."""

    id: str | None = None
    name: str = Field(min_length=1)
    enabled: bool
    autoscaling_settings: dict[str, Any]
    cadence: Literal["DAILY", "HOURLY", "ONE_TIME"]
    weekdays: list[str] | None = None
    start_hour: int | None = Field(None, ge=0, le=23)
    start_minute: int | None = Field(None, ge=0, le=59)
    end_hour: int | None = Field(None, ge=0, le=23)
    end_minute: int | None = Field(None, ge=0, le=59)
    start_at: str | None = None
    end_at: str | None = None


class Schedules(Strict):
    """Changes to the schedules of an environment."""

    timezone: str | None = None
    schedules: list[OneSchedule] | None = None
    delete_schedules: list[str] | None = None


class EnvironmentPatch(Strict):
    """Changes to an environment."""

    autoscaling_settings: Autoscaling | None = None
    promotion_settings: PromotionSettings | None = None
    autoscaling_schedule_settings: Schedules | None = None
    request_backpressure_settings: Backpressure | None = None
    traffic_routing_settings: dict[str, Any] | None = None


class NewEnvironment(Open):
    """A new environment."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    autoscaling_settings: Autoscaling | None = None
    promotion_settings: PromotionSettings | None = None
    request_backpressure_settings: Backpressure | None = None


class PromotionUpdate(Open):
    """Changes to the environment that come with a promotion."""

    region: str | None = None
    instance_type_id: str | None = None
    autoscaling_settings: Autoscaling | None = None
    request_backpressure_settings: Backpressure | None = None
    autoscaling_schedule_settings: Schedules | None = None
    promotion_settings: PromotionSettings | None = None


class Promote(Open):
    """A promotion to production."""

    scale_down_previous_production: bool = True
    preserve_env_instance_type: bool = True
    environment_settings_update: PromotionUpdate | None = None
    promotion_settings_override: PromotionSettings | None = None

    @property
    def scale_down(self) -> bool:
        """Whether the former deployment is scaled down."""
        return self.scale_down_previous_production

    @model_validator(mode="after")
    def _type(self) -> "Promote":
        update = self.environment_settings_update
        if update is not None and update.instance_type_id and self.preserve_env_instance_type:
            raise ValueError("instance_type_id may not be combined with preserve_env_instance_type")
        return self


class PromoteTo(Promote):
    """A promotion to any environment."""

    deployment_id: str
    scale_down_previous_deployment: bool = True

    @property
    def scale_down(self) -> bool:
        """Whether the former deployment is scaled down."""
        return self.scale_down_previous_deployment


class Payload(Open):
    """A new deployment."""

    config: dict[str, Any]
    raw_config: str | None = None
    user_env: dict[str, Any] | None = None
    environment_name: str | None = None
    create_environment_if_missing: bool = True
    region: str | None = None
    preserve_env_instance_type: bool = True
    deploy_timeout_minutes: int | None = Field(None, ge=10, le=1440)
    deployment_name: str | None = Field(None, min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")
    labels: dict[str, Any] | None = None
    is_development: bool = False
    autoscaling_settings: Autoscaling | None = None
    request_backpressure_settings: Backpressure | None = None
    autoscaling_schedule_settings: Schedules | None = None
    promotion_settings_override: PromotionSettings | None = None
    instance_type_id: str | None = None


class Prepare(Open):
    """Asks for the credentials of an upload."""

    deployment: Payload
    name: str | None = Field(None, min_length=1, max_length=255)
    team_id: str | None = None
    model_id: str | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _one(self) -> "Prepare":
        if (self.name is None) == (self.model_id is None):
            raise ValueError("exactly one of name and model_id is required")
        return self


class DeploymentSource(Open):
    """Where a deployment of a model comes from."""

    kind: Literal["model_archive"]
    deployment: Payload
    s3_key: str | None = None


class ModelSource(DeploymentSource):
    """Where a new model comes from."""

    name: str = Field(min_length=1, max_length=255)
    disable_archive_download: bool = False


class NewModel(Open):
    """A new model."""

    source: ModelSource


class NewDeployment(Open):
    """A new deployment of a model."""

    source: DeploymentSource


class Filter(Open):
    """By exact name."""

    name: str | None = None


class ConfigQuery(Open):
    """Which form of the configuration."""

    output_format: Literal["raw", "parsed", "both"] = "both"


class LogsQuery(Open):
    """Which lines of a log."""

    start_epoch_millis: int | None = Field(None, ge=0, le=10**15)
    end_epoch_millis: int | None = Field(None, ge=0, le=10**15)
    direction: Literal["asc", "desc"] = "desc"
    limit: int = Field(500, ge=1, le=1000)
    min_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None
    replica: str | None = None
    request_id: str | None = None
    component: str | None = None
    search_pattern: str | None = Field(None, max_length=256)
    includes: list[str] = Field(default_factory=list, max_length=8)
    excludes: list[str] = Field(default_factory=list, max_length=8)


class MetricsQuery(Open):
    """Which metrics."""

    mode: Literal["CURRENT", "SUMMARY", "SERIES"] = "CURRENT"
    start_epoch_millis: int | None = Field(None, ge=0, le=10**15)
    end_epoch_millis: int | None = Field(None, ge=0, le=10**15)
    metrics: list[str] = Field(default_factory=list)


class StartupsQuery(Open):
    """Which cold starts."""

    start_epoch_millis: int = Field(ge=0, le=10**15)
    end_epoch_millis: int = Field(ge=0, le=10**15)
    limit: int = Field(50, ge=1, le=100)
    direction: Literal["asc", "desc"] = "desc"


class NewSecret(Open):
    """A secret."""

    name: str = Field(min_length=1, max_length=255)
    value: str


class AsyncPredict(Open):
    """A request that is answered later."""

    model_input: Any = None
    webhook_endpoint: str | None = None
    priority: int = Field(0, ge=0, le=2)
    max_time_in_queue_seconds: int = Field(600, ge=10, le=259200)
    inference_retry_config: dict[str, int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _input(cls, value: Any) -> Any:
        if isinstance(value, dict) and "model_input" not in value:
            raise ValueError("model_input is required")
        return value


class GraphQL(Open):
    """What truss sends besides REST."""

    query: str
    variables: dict[str, Any] | None = None


class Audience(Strict):
    """Who may manage an environment's name."""

    is_restricted: bool
    user_ids: list[str] | None = None


class EnvironmentGroup(Strict):
    """A change of that."""

    manage_access: Audience
