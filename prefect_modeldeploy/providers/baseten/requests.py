"""What Baseten accepts, typed and bounded, so that a wrong value is refused here, by name, before anything is sent.

Bounds: the vendor's documentation (autoscaling overview, rolling deployments). Only fields that are set are sent.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefect_modeldeploy.errors import InvalidInput


class Body(BaseModel):
    """Base of all request bodies: unknown fields are refused, unset ones are not sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def sent(self) -> dict[str, Any]:
        """The JSON body: exactly the fields that were set."""
        return self.model_dump(mode="json", exclude_unset=True)


B = TypeVar("B", bound=BaseModel)


def checked(model: type[B], fields: Mapping[str, Any], prefix: str = "") -> B:
    """Build a request body from fields.

    Raises:
        InvalidInput: Names the field and says what is accepted.
    """
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([*([prefix] if prefix else []), *(str(part) for part in first["loc"])])
        raise InvalidInput(where or prefix or model.__name__, first.get("input"), str(first["msg"])) from None


class AutoscalingSettings(Body):
    """How a deployment scales. None, or left out, leaves a setting as it is: Baseten cannot clear one."""

    min_replica: int | None = Field(None, ge=0, description="Replicas that always run; 0 lets it scale to zero.")
    max_replica: int | None = Field(None, ge=1, description="Never more replicas.")
    autoscaling_window: int | None = Field(None, ge=10, le=3600, description="Seconds that load is averaged over.")
    scale_down_delay: int | None = Field(None, ge=0, le=3600, description="Seconds without need before less.")
    concurrency_target: int | None = Field(None, ge=1, description="Requests per replica before more.")
    target_utilization_percentage: int | None = Field(None, ge=1, le=100, description="Percent of that target.")
    target_in_flight_tokens: int | None = Field(None, ge=1, description="Early access; needs Baseten's consent.")
    max_scale_down_rate: int | None = Field(None, ge=1, le=50, description="Percent of replicas a step.")

    @model_validator(mode="after")
    def _min_max(self) -> Self:
        if self.min_replica is not None and self.max_replica is not None and self.min_replica > self.max_replica:
            raise ValueError(f"min_replica={self.min_replica} must not be above max_replica={self.max_replica}")
        return self


class BackpressureSettings(Body):
    """What happens to requests that find all replicas busy."""

    policy: Literal["QUEUE_ON_FULL", "REJECT_ON_FULL"] | None = Field(description="None clears the policy.")


class RollingDeployConfig(Body):
    """How a rolling promotion moves. Exactly one of surge and unavailable may be other than zero."""

    rolling_deploy_strategy: Literal["REPLICA"] | None = Field(None, description="Replica by replica.")
    max_surge_percent: int | None = Field(None, ge=0, le=50, description="Percent of replicas added first.")
    max_unavailable_percent: int | None = Field(None, ge=0, le=50, description="Percent of replicas removed first.")
    stabilization_time_seconds: int | None = Field(None, ge=0, le=3600, description="Seconds after each shift.")
    replica_overhead_percent: int | None = Field(None, ge=0, le=500, description="Percent provisioned beforehand.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        surge, unavailable = self.max_surge_percent, self.max_unavailable_percent
        if surge and unavailable:
            raise ValueError("only one of max_surge_percent and max_unavailable_percent may be above 0")
        if surge == 0 and unavailable == 0:
            raise ValueError("one of max_surge_percent and max_unavailable_percent must be above 0")
        return self


class PromotionSettings(Body):
    """How an environment promotes."""

    rolling_deploy: bool | None = Field(None, description="Replica by replica, with pause, resume and cancel.")
    promotion_cleanup_strategy: Literal["KEEP", "SCALE_TO_ZERO", "DEACTIVATE"] | None = Field(
        None, description="What becomes of the former deployment."
    )
    redeploy_on_promotion: bool | None = Field(None, description="Every promotion makes a copy with a new id.")
    rolling_deploy_config: RollingDeployConfig | None = Field(None, description="How a rolling promotion moves.")


class ScheduleSettings(Body):
    """All overrides of a schedule. Every field is sent; None stores no override."""

    min_replica: int = Field(ge=0, description="Replicas that always run.")
    max_replica: int = Field(ge=1, description="Never more replicas.")
    autoscaling_window: int | None = Field(None, ge=10, le=3600, description="Seconds that load is averaged over.")
    scale_down_delay: int | None = Field(None, ge=0, le=3600, description="Seconds without need before less.")
    concurrency_target: int | None = Field(None, ge=1, description="Requests per replica before more.")
    target_utilization_percentage: int | None = Field(None, ge=1, le=100, description="Percent of that target.")
    target_in_flight_tokens: int | None = Field(None, ge=1, description="Early access.")
    max_scale_down_rate: int | None = Field(None, ge=1, le=50, description="Percent of replicas a step.")


class Schedule(Body):
    """A time at which other settings hold."""

    id: str | None = Field(None, description="Of the schedule to replace; None makes a new one.")
    name: str = Field(min_length=1, description="Name.")
    enabled: bool = Field(True, description="Whether it runs.")
    autoscaling_settings: ScheduleSettings = Field(description="What holds meanwhile.")
    cadence: Literal["DAILY", "HOURLY", "ONE_TIME"] = Field(description="How often.")
    weekdays: list[str] | None = Field(None, description="SUNDAY to SATURDAY; DAILY and HOURLY need them.")
    start_hour: int | None = Field(None, ge=0, le=23, description="Hour in the schedules' time zone.")
    start_minute: int | None = Field(None, ge=0, le=59, description="Minute.")
    end_hour: int | None = Field(None, ge=0, le=23, description="Hour.")
    end_minute: int | None = Field(None, ge=0, le=59, description="Minute.")
    start_at: datetime | None = Field(None, description="ONE_TIME: start, with a time zone.")
    end_at: datetime | None = Field(None, description="ONE_TIME: end, with a time zone.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = ("start_at", "end_at") if self.cadence == "ONE_TIME" else ("weekdays", "start_minute", "end_minute")
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.cadence} needs {', '.join(missing)}")
        return self

    def sent(self) -> dict[str, Any]:
        """As the vendor takes it: a schedule's settings are complete, nulls included."""
        body = self.model_dump(mode="json", exclude_none=True)
        return body | {"enabled": self.enabled, "autoscaling_settings": self.autoscaling_settings.model_dump()}


class ScheduleChanges(Body):
    """Changes to an environment's schedules; those that are not named stay."""

    timezone: str | None = Field(None, description="IANA name; all schedules share it.")
    schedules: list[Schedule] | None = Field(None, description="To create or replace.")
    delete_schedules: list[str] | None = Field(None, description="Ids to delete.")

    def sent(self) -> dict[str, Any]:
        """As the vendor takes it."""
        body = self.model_dump(mode="json", exclude_unset=True, exclude={"schedules"})
        return body | ({"schedules": [schedule.sent() for schedule in self.schedules]} if self.schedules else {})


class EnvironmentChanges(Body):
    """What to change on an environment; what is left out stays."""

    autoscaling_settings: AutoscalingSettings | None = Field(None, description="Pushed to its deployment.")
    promotion_settings: PromotionSettings | None = Field(None, description="How it promotes.")
    autoscaling_schedule_settings: ScheduleChanges | None = Field(None, description="Schedules.")
    request_backpressure_settings: BackpressureSettings | None = Field(None, description="Backpressure.")
    traffic_routing_settings: dict[str, Any] | None = Field(None, description="Shadow rules; in development.")

    def sent(self) -> dict[str, Any]:
        """As the vendor takes it."""
        body = self.model_dump(mode="json", exclude_unset=True, exclude={"autoscaling_schedule_settings"})
        schedules = self.autoscaling_schedule_settings
        return body | ({"autoscaling_schedule_settings": schedules.sent()} if schedules else {})


class PromotionEnvironmentUpdate(EnvironmentChanges):
    """Changes to the environment that come with a promotion and stay when it has succeeded."""

    region: str | None = Field(None, description="Region of the promoted deployment; '' is global.")
    instance_type_id: str | None = Field(None, description="Instance type of the promoted deployment.")


class PromoteOptions(Body):
    """What a promotion may say besides which deployment."""

    scale_down_previous_deployment: bool | None = Field(None, description="The vendor's default is True.")
    preserve_env_instance_type: bool | None = Field(None, description="The vendor's default is True.")
    environment_settings_update: PromotionEnvironmentUpdate | None = Field(None, description="Stays afterwards.")
    promotion_settings_override: PromotionSettings | None = Field(None, description="For this promotion only.")

    @model_validator(mode="after")
    def _instance_type(self) -> Self:
        update = self.environment_settings_update
        if update is not None and update.instance_type_id and self.preserve_env_instance_type is not False:
            raise ValueError("environment_settings_update.instance_type_id needs preserve_env_instance_type=False")
        return self


class DeploymentPayload(Body):
    """What a new deployment is, besides its archive."""

    config: dict[str, Any] = Field(description="The truss's config.yaml, parsed.")
    raw_config: str | None = Field(None, description="Its text.")
    user_env: dict[str, Any] | None = Field(None, description="About the client.")
    environment_name: str | None = Field(None, description="Environment to promote it to when it is up.")
    create_environment_if_missing: bool | None = Field(None, description="The vendor will change the default: say it.")
    region: str | None = Field(None, description="Region.")
    preserve_env_instance_type: bool | None = Field(None, description="Keep the environment's instance type.")
    deploy_timeout_minutes: int | None = Field(None, ge=10, le=1440, description="Minutes until it gives up.")
    deployment_name: str | None = Field(None, min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")
    labels: dict[str, Any] | None = Field(None, description="Labels.")
    is_development: bool | None = Field(None, description="The model's one development deployment.")
    autoscaling_settings: AutoscalingSettings | None = Field(None, description="How it scales.")
    request_backpressure_settings: BackpressureSettings | None = Field(None, description="Backpressure.")
    autoscaling_schedule_settings: ScheduleChanges | None = Field(None, description="For the environment.")
    promotion_settings_override: PromotionSettings | None = Field(None, description="For its promotion.")
    instance_type_id: str | None = Field(None, description="Instead of the one in config.")

    @model_validator(mode="after")
    def _development(self) -> Self:
        if self.is_development and (self.environment_name or self.deployment_name):
            raise ValueError("a development deployment takes neither environment_name nor deployment_name")
        return self


class LogQuery(Body):
    """Which lines of a log."""

    start_epoch_millis: int | None = Field(None, ge=0, description="Default: 30 minutes before the end.")
    end_epoch_millis: int | None = Field(None, ge=0, description="Default: now. At most 7 days after the start.")
    direction: Literal["asc", "desc"] | None = Field(None, description="Order.")
    limit: int | None = Field(None, ge=1, le=1000, description="Default: 500.")
    min_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = Field(None, description="Drops lines without.")
    replica: str | None = Field(None, description="Of this replica (5 characters).")
    request_id: str | None = Field(None, description="Of this inference request.")
    component: str | None = Field(None, description="Of this component.")
    search_pattern: str | None = Field(None, max_length=256, description="RE2.")
    includes: list[str] | None = Field(None, max_length=8, description="All of them must be in the line.")
    excludes: list[str] | None = Field(None, max_length=8, description="None of them may be.")


class MetricQuery(Body):
    """Which metrics, over which time."""

    mode: Literal["CURRENT", "SUMMARY", "SERIES"] | None = Field(None, description="Default: CURRENT.")
    start_epoch_millis: int | None = Field(None, ge=0, description="Default: an hour before the end.")
    end_epoch_millis: int | None = Field(None, ge=0, description="Default: now. At most 7 days after the start.")
    metrics: list[str] | None = Field(None, description="Names; the vendor refuses unknown ones.")

    @model_validator(mode="after")
    def _current_has_no_window(self) -> Self:
        if self.mode in (None, "CURRENT") and (self.start_epoch_millis or self.end_epoch_millis):
            raise ValueError("mode=CURRENT takes no start and no end; use SUMMARY or SERIES")
        return self


class StartupQuery(Body):
    """Which cold starts."""

    start_epoch_millis: int = Field(ge=0, description="Start.")
    end_epoch_millis: int = Field(ge=0, description="End.")
    min_duration_ms: int | None = Field(None, ge=0, description="Only those that took so long.")
    cursor: str | None = Field(None, description="Of the page before.")
    limit: int | None = Field(None, ge=1, le=100, description="Default: 50.")
    outcomes: list[Literal["SUCCESS", "FAILED", "STALLED"]] | None = Field(None, description="Only these.")
    phase: str | None = Field(None, description="Only those that spent time in it.")
    search: str | None = Field(None, description="Replica id, or part of the deployment's name.")
    sort_by: Literal["OUTCOME", "STARTED_AT", "READY_AT", "DURATION"] | None = Field(None, description="Order.")
    direction: Literal["asc", "desc"] | None = Field(None, description="Direction of the order.")


class AsyncRequest(Body):
    """A request that is answered later, at a webhook."""

    model_input: Any = Field(description="What predict takes.")
    webhook_endpoint: str | None = Field(None, description="https URL that gets the answer.")
    priority: int | None = Field(None, ge=0, le=2, description="0 is the highest.")
    max_time_in_queue_seconds: int | None = Field(None, ge=10, le=259200, description="Default: 600.")
    inference_retry_config: dict[str, int] | None = Field(
        None, description="max_attempts 1-10, initial_delay_ms 0-10000, max_delay_ms 0-60000."
    )
