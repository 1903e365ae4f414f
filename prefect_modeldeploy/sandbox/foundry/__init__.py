"""Palantir Foundry: live deployments, models, versions, functions, and OAuth2 client credentials.

What the vendor does is unknown in these cases; the client may not rely on what the emulator does:

| unknown behaviour                                   | the emulator |
|-----------------------------------------------------|---|
| a second deployment of the same model and branch    | 409 Default:Conflict (a test's subclass allows it) |
| a deployment on a branch without versions           | 400 Default:InvalidArgument |
| state right after creation                          | STARTING for 60 s, although the vendor's example shows ACTIVE |
| state and version while a new version comes live    | ACTIVE with the former version for 90 s |
| an upgrade that fails                               | stays ACTIVE with the former version |
| replace of a DISABLED one                           | new configuration, stays DISABLED |
| replace of a FAILED one, start of a FAILED one      | starts anew |
| replace of a running one                            | applied at once, nothing restarts |
| disable                                             | DISABLED at once; again: nothing |
| transformJson on DISABLED or FAILED                 | 400 InferenceFailure |
| transformJson on a cold one                         | held until a replica is there, then InferenceTimeout |
| HTTP status of TIMEOUT                              | 500 |
| promote within one model and one branch             | allowed |
| promote without a branch, branch of Version.create  | master |
| default cpu, memory                                 | not set, not shown |
| bounds of replicas                                  | 0 <= minReplicas <= maxReplicas, 1 <= maxReplicas <= 100 |
| most threads, GPUs of the queue, reserved variables | 256; T4 and A10G up to 4, V100 up to 8; see `bodies.py` |
| unknown fields of a body                            | 400 Default:InvalidArgument |
| a name that no error is documented for              | Default:InvalidArgument, Default:NotFound, Default:Conflict |
| inputs of a model API without inputs                | not checked |
| order, size of a page of versions                   | newest first, 100 (1 to 500) |
| whether a listed source exists                      | not checked |
| errors of the token endpoint                        | OAuth2's own, {"error": ...} (RFC 6749 5.2) |
| scopes of a token that none were asked for          | all of models |

A deployment is DEGRADED when a fate holds it there: `fate(timeline="create", stage="DEGRADED", outcome="stuck")`;
a new version stays away with `fate(timeline="upgrade", outcome="stuck")`, and is unseen in lists with
`fate(timeline="version", outcome="late")`. `expires_in` is in our seconds, so that it is true at every speed.
"""

from prefect_modeldeploy.sandbox.foundry.emulator import FoundryEmulator

EMULATOR = FoundryEmulator

__all__ = ["EMULATOR", "FoundryEmulator"]
