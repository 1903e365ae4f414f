"""What Baseten answers, typed. Read tolerantly: unknown keys and unknown words are kept, missing ones become None.

Names and meanings are the vendor's (OpenAPI of 2026-08-22 and the `baseten` SDK 0.13.1). `raw` of our own `Deployment`
holds the whole answer besides.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of all answers: every field may be missing, and more may come."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class AutoscalingState(Answer):
    """How a deployment scales (`AutoscalingSettingsV1`)."""

    min_replica: int = Field(0, description="Minimum number of replicas.")
    max_replica: int = Field(1, description="Maximum number of replicas.")
    autoscaling_window: int | None = Field(None, description="Seconds of traffic that decisions look at.")
    scale_down_delay: int | None = Field(None, description="Seconds before any active replica is scaled down.")
    concurrency_target: int | None = Field(None, description="Requests per replica before scaling up.")
    target_utilization_percentage: int | None = Field(None, description="Target utilization in percent.")
    target_in_flight_tokens: int | None = Field(None, description="Target of in-flight tokens (early access).")
    max_scale_down_rate: int | None = Field(None, description="Percent of replicas that one window may remove.")


class Backpressure(Answer):
    """What happens to requests that find all replicas busy."""

    policy: str | None = Field(None, description="QUEUE_ON_FULL, REJECT_ON_FULL, or none.")


class VendorDeployment(Answer):
    """A deployment of a model (`DeploymentV1`)."""

    id: str = Field(description="Unique identifier of the deployment.")
    created_at: datetime | None = Field(None, description="Time the deployment was created.")
    name: str = Field("", description="Name of the deployment.")
    model_id: str = Field("", description="Unique identifier of the model.")
    is_production: bool = Field(False, description="Whether it is the production deployment of the model.")
    is_development: bool = Field(False, description="Whether it is the development deployment of the model.")
    status: str = Field("", description="The vendor's word; see the table in `words.py`.")
    active_replica_count: int = Field(0, description="Number of active replicas.")
    autoscaling_settings: AutoscalingState | None = Field(None, description="None until it has been deployed.")
    instance_type_name: str | None = Field(None, description="Name of the instance type that it runs on.")
    environment: str | None = Field(None, description="The environment associated with the deployment.")
    request_backpressure_settings: Backpressure | None = Field(None, description="Since August 2026.")
    labels: dict[str, Any] | None = Field(None, description="Key-value labels that were given at creation.")


class Model(Answer):
    """A model: the home of deployments and environments."""

    id: str = Field(description="Unique identifier.")
    name: str = Field("", description="Name.")
    created_at: datetime | None = Field(None, description="Time of creation.")
    deployments_count: int = Field(0, description="How many deployments it has.")
    production_deployment_id: str | None = Field(None, description="Deployment that serves production.")
    development_deployment_id: str | None = Field(None, description="The development deployment.")
    instance_type_name: str | None = Field(None, description="Instance type of the production deployment.")
    team_name: str | None = Field(None, description="Team that owns it.")


class InProgressPromotion(Answer):
    """A promotion that is under way."""

    status: str = Field(description="RELEASING, RAMPING_UP, RAMPING_DOWN, PAUSED, SUCCEEDED, FAILED or CANCELED.")
    percent_traffic_to_new_version: int = Field(0, description="Percent of the traffic at the candidate.")
    error_message: str | None = Field(None, description="Why it failed.")
    rolling_deploy: bool | None = Field(None, description="Whether it is a rolling deploy.")


class RollingDeploy(Answer):
    """How a rolling promotion moves."""

    rolling_deploy_strategy: str | None = Field(None, description="REPLICA.")
    max_surge_percent: int | None = Field(None, description="Percent of replicas that are added first.")
    max_unavailable_percent: int | None = Field(None, description="Percent of replicas that are removed first.")
    stabilization_time_seconds: int | None = Field(None, description="Seconds to wait after each shift.")
    replica_overhead_percent: int | None = Field(None, description="Percent added to the former one beforehand.")


class PromotionState(Answer):
    """How an environment promotes."""

    redeploy_on_promotion: bool | None = Field(None, description="Whether every promotion makes a copy.")
    rolling_deploy: bool | None = Field(None, description="Whether promotions are rolling.")
    promotion_cleanup_strategy: str | None = Field(None, description="KEEP, SCALE_TO_ZERO or DEACTIVATE.")
    rolling_deploy_config: RollingDeploy | None = Field(None, description="How a rolling promotion moves.")
    ramp_up_while_promoting: bool | None = Field(None, description="Deprecated.")
    ramp_up_duration_seconds: int | None = Field(None, description="Deprecated.")


class Environment(Answer):
    """A named role of a model, such as production."""

    name: str = Field(description="Name.")
    model_id: str = Field("", description="Model it belongs to.")
    created_at: datetime | None = Field(None, description="Time of creation.")
    current_deployment: VendorDeployment | None = Field(None, description="What serves it.")
    candidate_deployment: VendorDeployment | None = Field(None, description="What is being promoted to it.")
    in_progress_promotion: InProgressPromotion | None = Field(None, description="The promotion, if one runs.")
    autoscaling_settings: AutoscalingState | None = Field(None, description="What its deployment scales by.")
    promotion_settings: PromotionState | None = Field(None, description="How it promotes.")
    instance_type: dict[str, Any] | None = Field(None, description="Its instance type.")
    request_backpressure_settings: Backpressure | None = Field(None, description="Since August 2026.")


class Retried(Answer):
    """What became of a retry; `retried=False` comes with a reason, not with an error."""

    retried: bool = Field(description="Whether the retry was started.")
    reason: str | None = Field(None, description="Why not.")
    deployment: VendorDeployment | None = Field(None, description="The deployment.")


class LogLine(Answer):
    """A line of a log."""

    timestamp: str = Field(description="Nanoseconds since the epoch, as a string.")
    message: str = Field("", description="The line.")
    replica: str | None = Field(None, description="Five characters.")
    request_id: str | None = Field(None, description="Which inference request.")
    level: str | None = Field(None, description="DEBUG, INFO, WARNING or ERROR.")


class MetricDescriptor(Answer):
    """A metric; its position is the index of its values."""

    name: str = Field(description="Canonical name.")
    unit_hint: str | None = Field(None, description="PER_SECOND, SECONDS, BYTES, MEBIBYTES, COUNT, RATIO...")
    kind: str | None = Field(None, description="GAUGE, COUNTER (a total over the step) or HISTOGRAM.")
    label_sets: list[dict[str, str]] = Field(default_factory=list, description="One a series.")


class MetricValues(Answer):
    """The values of a step, by descriptor and series; None where there are no data."""

    start_epoch_millis: int = Field(description="Start of the step; it lasts until the next one's.")
    values: list[list[float | None]] = Field(default_factory=list, description="By descriptor, by series.")


class Metrics(Answer):
    """Metrics over a stretch of time."""

    start_epoch_millis: int = Field(description="Start.")
    end_epoch_millis: int = Field(description="End.")
    mode: str = Field("CURRENT", description="CURRENT, SUMMARY or SERIES.")
    step_seconds: int | None = Field(None, description="Seconds a step; only of a SERIES.")
    metric_descriptors: list[MetricDescriptor] = Field(default_factory=list, description="The metrics.")
    metric_values: list[MetricValues] = Field(default_factory=list, description="One a step.")


class UploadTicket(Answer):
    """Where an archive may be uploaded, and with which temporary credentials."""

    creds: dict[str, str] | None = Field(None, description="None: nothing needs to be uploaded.", repr=False)
    s3_bucket: str | None = Field(None, description="Bucket.")
    s3_key: str | None = Field(None, description="Key, which the creation names afterwards.")
    s3_region: str | None = Field(None, description="AWS region.")
    endpoint_url: str | None = Field(None, description="Not of the vendor: where a stand-in for S3 listens.")
