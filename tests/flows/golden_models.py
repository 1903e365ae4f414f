"""What emulated deployments answer in the tests of golden sets."""

from typing import Any


def worse(payload: dict[str, Any]) -> dict[str, Any]:
    """Every third answer is not what it was."""
    right = sum(payload["x"])
    return {"sum": right if right % 3 else right + 1, "echo": payload}
