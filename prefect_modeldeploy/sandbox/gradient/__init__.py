"""Paperspace Gradient: REST v1 (`/v1`), the retired GraphQL API (`/graphql`) with its log host (`/jobs/logs`), and the
endpoints of the deployments (`/endpoints/<id>/...`).

Behaviour of the vendor that nobody knows, and what the emulator does; our client relies on none of it.

| unknown                                        | here                                                              |
|------------------------------------------------|-------------------------------------------------------------------|
| how an upsert without deploymentId finds its   | by (projectId, config.name) among those that are not deleted;     |
| deployment                                     | with a deploymentId, a new name renames, a taken one is 409       |
| upsert into another project                    | 404 when the deployment is not of that project                    |
| validation messages                            | 400 BAD_REQUEST "Input validation failed" with issues and paths   |
| the error of an unknown machine type           | the spec version's `error`, never applied                         |
| free machines (the docs: not allowed)          | the same `error`                                                  |
| limit of replicas                              | 100 a deployment; more is the same `error`                        |
| strategy of an update, overlap of runs         | the old run is listed and serves until the new one is healthy     |
| a change of replicas alone                     | a new spec version with a new run, like any other upsert          |
| the endpoint while disabled or starting        | 503 INTERNAL_SERVER_ERROR; unknown endpoints 404                  |
| the endpoint's form                            | a host without a scheme there; here with a path, on this port     |
| what cpu, memory and gpu metrics show          | load from requests in flight, the same on every instance          |
| which shape a metric has                       | requests_total a value, rates a list, cpu/memory/gpu per instance |
| samples                                        | 60 buckets or less of the timeframe, none before the creation     |
| what one replica can take                      | the autoscaler aims at 4 requests in flight per replica           |
| default size of a page                         | 10                                                                |
| order of the history                           | by creation, newest first unless order=asc                        |
| replicas: 0 together with autoscaling          | disabled                                                          |
| rate limits                                    | none; faults make them                                            |
| the answer to a bad key                        | 401 UNAUTHORIZED; GraphQL: 200 with UNAUTHENTICATED               |
| HTTP status of GraphQL errors                  | 200                                                               |
| GraphQL: a name that is taken, a missing id    | BAD_USER_INPUT; NOT_FOUND                                         |
| GraphQL: reading what REST has written         | the first port, machineType as instanceType                       |
| the end of a log                               | the log host closes every answer with PSEOF                       |
| a secret that does not exist as basicAuthKey   | nobody gets in: 401                                               |
"""

from prefect_modeldeploy.sandbox.gradient.emulator import GradientEmulator

EMULATOR = GradientEmulator
