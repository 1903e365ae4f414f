"""Palantir Foundry: live deployments of models (`/api/v2/models/liveDeployments`), a preview API.

A *direct* live deployment serves the newest version on one branch of one model. There is no call that deploys a
version: a version is made live by promoting (copying) it to the branch that the deployment tracks. Hence:

| ours              | Foundry's                                                                            |
|-------------------|--------------------------------------------------------------------------------------|
| model             | the model's RID                                                                      |
| environment       | a branch of the model (`FoundryCredentials.branches`; else the branch of that name)   |
| deployment        | the live deployment of a (model, branch); there is at most one                        |
| promote, roll back| `promoteVersion` to the branch, of the new version, of the former one                 |
| scale to zero     | `minReplicas: 0`: replicas go after the scale-down delay without load, a request wakes |
| stop, start       | `disable`, `start`                                                                   |
| name              | an environment variable of the deployment, since Foundry has no names for them        |

The normative table; anything that promoteVersion or a replace has started is over when the live version is the newest
one on the branch, which is compared by RID, and never by ACTIVE alone:

| vendor's `state`, `isReady`, and more         | status         | ready | may receive traffic          |
|-----------------------------------------------|----------------|-------|------------------------------|
| STARTING                                      | STARTING       | no    | no                           |
| ACTIVE, isReady, newest version of the branch | READY          | yes   | yes                          |
| ACTIVE, not isReady, minReplicas 0            | SCALED_TO_ZERO | no    | yes (the request wakes it)   |
| ACTIVE, not isReady, minReplicas 1 or more    | WAKING         | no    | no                           |
| ACTIVE, an older version than the branch's    | UPDATING       | no    | if isReady, or minReplicas 0 |
| DEGRADED                                      | DEGRADED       | no    | yes (a replica is ready)     |
| DEGRADED, an older version than the branch's  | UPDATING       | no    | yes                          |
| FAILED                                        | FAILED         | no    | no                           |
| DISABLED                                      | STOPPED        | no    | no                           |
| any other word                                | UNKNOWN        | no    | no                           |

Source of vendor facts: the API reference at https://www.palantir.com/docs/foundry/api/v2/models-v2-resources and the
official client foundry-platform-sdk 1.111.0, as of August 2026.
"""

from prefect_modeldeploy.providers.foundry.api import FoundryApi
from prefect_modeldeploy.providers.foundry.client import FoundryClient
from prefect_modeldeploy.providers.foundry.credentials import FoundryCredentials

__all__ = ["FoundryApi", "FoundryClient", "FoundryCredentials"]
