"""How the control API says no: a code that programs read, a sentence that people read."""

from typing import Any

from pydantic import ValidationError

from prefect_modeldeploy.errors import InvalidInput, ModelDeployError

STATUS_CODES = {
    "invalid": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "stale_epoch": 409,
    "not_ready": 409,
    "in_use": 409,
    "unavailable": 503,
}


class Refused(ModelDeployError):
    """The node refuses a call; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status_code = code, STATUS_CODES[code]


def invalid(error: ValidationError, prefix: str = "") -> InvalidInput:
    """The first complaint of pydantic, as ours: field, value, hint."""
    first: Any = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in (prefix, *first["loc"]) if part != "") or "body"
    return InvalidInput(field, first["input"], first["msg"])
