"""Everything that this package raises on purpose.

    ModelDeployError
     ├── InvalidInput             a field has a value that cannot work; nothing was changed   (also a ValueError)
     ├── UnsupportedOperation     the provider lacks this capability; no request was sent
     ├── ProviderError            the serving system said no
     │    ├── AuthenticationFailed     401, 403
     │    ├── NotFound                 404
     │    ├── Conflict                 409, or a name that is taken
     │    ├── RateLimited              429
     │    └── ProviderUnavailable      5xx, connect errors, timeouts
     ├── DeploymentFailed         a deployment reached FAILED while somebody waited for it
     ├── WaitTimeout              a deadline passed before the condition held                 (also a TimeoutError)
     ├── GatewayError             the proxy could not be started or configured
     │    └── StaleEpoch               another rollout has taken over this endpoint
     ├── NodeError                the local serving node could not be started or reached
     ├── FleetError               some deployments of a fleet could not be done; the others were
     └── RolloutError             a rollout cannot go on; its record says where it stands
          ├── RolloutInProgress        the endpoint has a rollout already
          ├── RolloutsFrozen           the target's freeze calendar lets no rollout begin now
          └── RolloutsHalted           the red button is pressed; no rollout may begin

Catch `ModelDeployError` for all of them. A message names the field or the object, the value, and what to do next;
it never holds a secret.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


class ModelDeployError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidInput(ModelDeployError, ValueError):
    """A value that cannot work was passed; nothing was changed.

    Args:
        field: Name of the offending field, dotted for nested ones (`plan.steps`).
        value: The value as passed. Never pass a secret here.
        hint: What would be accepted.
    """

    def __init__(self, field: str, value: object, hint: str) -> None:
        super().__init__(f"{field}={value!r}: {hint}")
        self.field, self.value, self.hint = field, value, hint


class UnsupportedOperation(ModelDeployError):
    """The provider declares no such capability; raised before any request is sent."""

    def __init__(self, provider: str, capability: str, hint: str = "") -> None:
        super().__init__(f"{provider} does not support {capability.lower()}" + (f": {hint}" if hint else ""))
        self.provider, self.capability = provider, capability


@dataclass(frozen=True, slots=True)
class Problem:
    """What a serving system's error envelope said, in its own words."""

    message: str
    status_code: int | None = None
    code: str | None = None
    parameters: dict[str, Any] | None = None
    retry_after: float | None = None
    """Seconds to wait before trying again, as the vendor asked; None if it did not say."""
    final: bool = False
    """The vendor asked not to try again, whatever the status says."""


class ProviderError(ModelDeployError):
    """A serving system refused or failed a call.

    Attributes:
        provider: Name of the provider.
        operation: What was tried, e.g. `POST /v1/deployments`.
        problem: The vendor's own words.
        effect_unknown: True when the request may have taken effect although no answer came back.
    """

    def __init__(self, provider: str, operation: str, problem: Problem, *, effect_unknown: bool = False) -> None:
        status = f" [{problem.status_code}]" if problem.status_code else ""
        code = f" {problem.code}:" if problem.code else ""
        super().__init__(f"{provider}: {operation} failed{status}:{code} {problem.message}")
        self.provider, self.operation, self.problem = provider, operation, problem
        self.effect_unknown = effect_unknown

    @property
    def retry_after(self) -> float | None:
        """Seconds that the vendor asked to wait, if it did."""
        return self.problem.retry_after


class AuthenticationFailed(ProviderError):
    """401 or 403: the credentials are wrong, expired or too weak."""


class NotFound(ProviderError):
    """404: no such model, deployment or endpoint."""


class Conflict(ProviderError):
    """409: the name is taken by something different, or the state does not allow the call."""


class RateLimited(ProviderError):
    """429: too many calls."""


class ProviderUnavailable(ProviderError):
    """5xx, a connect error or a timeout: may work later."""


class DeploymentFailed(ModelDeployError):
    """A deployment failed while somebody waited for it.

    Attributes:
        deployment_id: Which one.
        reason: The provider's reason, with the tail of the log where there is one.
    """

    def __init__(self, deployment_id: str, reason: str) -> None:
        super().__init__(f"deployment {deployment_id} failed: {reason}")
        self.deployment_id, self.reason = deployment_id, reason


class WaitTimeout(ModelDeployError, TimeoutError):
    """A deadline passed before the awaited condition held."""


class GatewayError(ModelDeployError):
    """The proxy could not be found, started or configured."""


class StaleEpoch(GatewayError):
    """A newer rollout owns this endpoint; the caller must stop changing it."""


class NodeError(ModelDeployError):
    """The local serving node could not be started or reached."""


class FleetError(ModelDeployError):
    """Some deployments of a fleet could not be done; the others were."""


class RolloutError(ModelDeployError):
    """A rollout cannot go on."""


class RolloutInProgress(RolloutError):
    """The endpoint has a rollout already."""


class RolloutsFrozen(RolloutError):
    """The target's freeze calendar lets no rollout begin now; nothing was changed.

    Attributes:
        until: When it will, in UTC.
    """

    def __init__(self, endpoint: str, until: datetime) -> None:
        when = f"{until:%Y-%m-%d %H:%M} UTC"
        super().__init__(f"{endpoint} is frozen until {when}; roll_back is free, and so is a change of the calendar")
        self.until = until


class RolloutsHalted(RolloutError):
    """Somebody halted all rollouts; nothing was changed."""
