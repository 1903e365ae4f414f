"""What counts as a failure: the one table.

| what the proxy saw | outcome | counts as a request? |
|---|---|---|
| answer 1xx, 2xx, 3xx | `ok` | yes |
| answer 4xx (other than the next three rows) | `ok`; its class is compared apart | yes |
| answer 401, 403 | excluded `unauthorized`, and an alarm: the arm's credentials are wrong | no |
| answer 429 | excluded `rate_limited` | no |
| answer 5xx by the arm | `failed` | yes |
| the arm did not answer in time, or fell silent | `failed` | yes |
| the arm reset the connection, or its answer is not HTTP | `failed` | yes |
| no server of the arm could be reached | `failed` | yes |
| the client went away or was too slow | excluded `client_abort` | no |
| held by the activator while the deployment woke | excluded `parked` | no |
| ... and not answered in the end | excluded `parked_failed` | no |
| the arm was forced by a header | excluded `forced`: the choice was not random | no |
| sent to both arms (shadow) | excluded `shadowed`; what the copy came to is excluded `shadow_...` on its arm | no |
| the proxy's own answers and errors | excluded `proxy` | no |

A retried request counts once, by its last attempt. The letters are HAProxy's termination states (its manual,
section 8.5).
"""

from dataclasses import dataclass

from prefect_modeldeploy.traffic.access_log import Kind
from prefect_modeldeploy.traffic.haproxy_config import ACTIVATOR

ALARM = "unauthorized"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a request counts; if so, whether it failed; if not, why."""

    counts: bool
    failed: bool = False
    excluded: str | None = None


OK = Outcome(True)
FAILED = Outcome(True, failed=True)


def outcome_of(request: Kind) -> Outcome:
    """Look a request up in the table above."""
    cause, phase = request.termination[:1], request.termination[1:2]
    if request.shadowed:
        return Outcome(False, excluded="shadowed")
    if request.arm is None or request.upstream is None:
        return Outcome(False, excluded="proxy")
    if request.forced:
        return Outcome(False, excluded="forced")
    if cause in "Cc":
        return Outcome(False, excluded="client_abort")
    if request.server == ACTIVATOR:
        broken = request.status >= 500 or request.status < 100 or cause != "-"
        return Outcome(False, excluded="parked_failed" if broken else "parked")
    if cause in "Ss" or (cause == "P" and phase == "H"):
        return FAILED
    if cause != "-":
        return Outcome(False, excluded="proxy")
    if request.status in (401, 403):
        return Outcome(False, excluded=ALARM)
    if request.status == 429:
        return Outcome(False, excluded="rate_limited")
    return FAILED if request.status >= 500 else OK
