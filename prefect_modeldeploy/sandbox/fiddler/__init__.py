"""Fiddler's v3 and v2 APIs, at the root of a port (the vendor's client allows no path prefix).

What is unknown about the vendor, and what the emulator does. Our client relies on none of it.

| unknown                                         | the emulator                                                     |
|-------------------------------------------------|------------------------------------------------------------------|
| when new values become visible                  | in the answer to the change; pods follow when its job succeeds   |
| whether a deployment exists during its first job | yes, at once (the fate `late` hides it for some reads)           |
| a change that changes nothing                   | is a job like any other                                          |
| a change while a job runs                       | is taken; the later job is the one that counts                   |
| the former pods during a change, or if it fails | keep serving, but not when an artifact is deployed               |
| PATCH with fields other than the four           | they are ignored                                                 |
| code and message of values out of bounds        | 400 `BadRequest` naming the field                                |
| defaults of omitted fields                      | 1 replica, 100 milli-CPU, 256 MiB, md-base/python/python-311:1.0.0 |
| PUT deploy without a deployment                 | 404 `ObjectNotFound`                                             |
| POST deploy of another kind than is deployed    | 400 "already has artifact", as for the same kind                 |
| predict on an inactive or failed deployment     | 400 `BadRequest` "is not active"                                 |
| predict when the model itself fails             | 500 `ModelServeError`                                            |
| predict while pods start                        | 503 `ServiceUnavailable`                                         |
| a job cancelled                                 | the fate `fail` whose reason begins with REVOKED                 |
| an artifact without package.py                  | its job fails with `ModelServeError`                             |
| what a list of models holds                     | id, name and version only                                        |
| deleting a model twice                          | the same job, then 404                                           |
| a file completed twice                          | 400 `BadRequest`                                                 |
| status of POST model, project, file             | 200                                                              |
| v2 on a new server                              | served from the same world; a name is its newest version         |
| artifacts larger than 4 MiB                     | kept in memory only; after a restart they cannot be downloaded   |
| rate limits, Retry-After                        | none but by faults                                               |

The model's callable is asked once per row, and what it answers is the row, or its output column.
"""

from prefect_modeldeploy.sandbox.fiddler.emulator import FiddlerEmulator

EMULATOR = FiddlerEmulator

__all__ = ["EMULATOR", "FiddlerEmulator"]
