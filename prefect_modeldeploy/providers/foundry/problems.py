"""Foundry's error envelope, and what its error names mean.

    {"errorCode": "INVALID_ARGUMENT", "errorName": "ThreadCountTooHigh", "errorInstanceId": "...", "parameters": {...}}

`Problem.code` is the errorName; `Problem.parameters` are the vendor's, with `errorCode` and `errorInstanceId` added.
404, 429 and 503 may come without a body. The header `QoS-Retry-Hint: do-not-retry` is a veto, which is heeded.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from prefect_modeldeploy.errors import Problem
from prefect_modeldeploy.transport import retry_after

KNOWN: Mapping[str, str] = {
    # 400 INVALID_ARGUMENT
    "ThreadCountTooHigh": "the thread count is above what this enrollment allows (maxThreadCount)",
    "InvalidGpuCount": "the GPU count must be from 1 to the most for the GPU type (maxGpuCount)",
    "GpuTypeNotAvailable": "the resource queue has no such GPU; use one of availableGpuTypes",
    "ReservedEnvironmentVariable": "the environment variable's name is reserved by the runtime; rename it",
    "DeploymentSourceNotImportedIntoProject": "import the source into the model's project first",
    "DeploymentSourceCannotExportResourceMarkings": "the source does not allow to export the model's markings",
    "DeploymentSourceNotEnabledForComputeModules": "enable the source for compute modules first",
    "UnsupportedLiveDeployment": "the API cannot express this kind of live deployment (a Modeling Objective's)",
    "UnsupportedModelSource": "the API cannot handle where this model version comes from",
    "InferenceFailure": "the model itself failed",
    "InferenceInvalidInput": "the input does not fit the model's API (errorType)",
    "InvalidModelApi": "the model API is not valid",
    "CondaSolveFailureForProvidedPackages": "conda cannot solve these requirements",
    "InvalidDisplayName": "the name is not allowed",
    "InvalidFunctionApiName": "the API name of the function is not allowed",
    "ApiFeaturePreviewUsageOnly": "the request lacked preview=true",
    "InvalidPageSize": "the page size is not allowed",
    "InvalidPageToken": "the page token is not valid",
    # 401 UNAUTHORIZED
    "MissingCredentials": "no token was sent",
    # 403 PERMISSION_DENIED
    "CreateLiveDeploymentPermissionDenied": "the user may not create live deployments of this model",
    "ReplaceLiveDeploymentPermissionDenied": "the user may not change this live deployment",
    "StartLiveDeploymentPermissionDenied": "the user may not start this live deployment",
    "DisableLiveDeploymentPermissionDenied": "the user may not disable this live deployment",
    "TransformJsonLiveDeploymentPermissionDenied": "the user may not send requests to this live deployment",
    "CreateModelPermissionDenied": "the user may not create models in this folder",
    "CreateModelVersionPermissionDenied": "the user may not publish versions of this model",
    "PromoteVersionModelPermissionDenied": "the user may not promote versions to this model",
    "ApiUsageDenied": "the token lacks an operation scope (missingScope), or the user may not use the API",
    # 404 NOT_FOUND
    "LiveDeploymentNotFound": "no such live deployment, or the user may not see it",
    "ModelNotFound": "no such model, or the user may not see it",
    "ModelVersionNotFound": "no such model version, or the user may not see it",
    "ModelFunctionNotFound": "the model has no function",
    # 409 CONFLICT
    "LiveDeploymentSourcesCannotBeUpdatedWhileRunning": "stop the deployment before its sources are changed",
    "ResourceNameAlreadyExists": "the folder has a resource of this name already",
    # 5xx
    "InferenceTimeout": "the model did not answer in 5 minutes",
}
"""What an error name means, in words a user can act on."""


def read_error(response: httpx.Response) -> Problem:
    """Read Foundry's envelope; anything else as it is."""
    problem = _read(response)
    return replace(problem, final=True) if response.headers.get("qos-retry-hint") == "do-not-retry" else problem


def _read(response: httpx.Response) -> Problem:
    delay, status = retry_after(response), response.status_code
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return Problem(_without_envelope(response), status, retry_after=delay)
    name, code = body.get("errorName"), body.get("errorCode")
    if name is None and code is None and isinstance(body.get("error"), str):  # the token endpoint speaks OAuth2
        text = str(body.get("error_description") or body["error"])
        return Problem(text[:500], status, body["error"], retry_after=delay)
    given = body.get("parameters")
    parameters: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    said = [str(body["errorDescription"])] if body.get("errorDescription") else []
    known = [KNOWN[name]] if isinstance(name, str) and name in KNOWN else []
    details = [f"{key}={value!r}" for key, value in parameters.items()]
    text = "; ".join([*(said or known), *details]) or str(code or response.reason_phrase)
    envelope = {key: body[key] for key in ("errorCode", "errorInstanceId") if key in body and key not in parameters}
    return Problem(text[:500], status, str(name or code or "") or None, {**parameters, **envelope}, delay)


def _without_envelope(response: httpx.Response) -> str:
    if response.status_code == 404 and not response.content:
        return "not found, without a body: this instance may not have the API at all (it is in preview)"
    return response.text[:500] or response.reason_phrase
