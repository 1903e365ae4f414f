"""Which providers can stand behind one endpoint: the matrix of the docs, from what the providers' blocks declare."""

from collections.abc import Mapping
from typing import Literal

from prefect_modeldeploy.errors import UnsupportedOperation
from prefect_modeldeploy.providers.base import ServingCredentials

Fit = Literal["native", "adapter", "refused"]


def fit(stable: ServingCredentials, canary: ServingCredentials) -> Fit:
    """How a stable version and a canary at these providers can share an endpoint.

    `native`: both go straight through the proxy. `adapter`: bodies of at least one are translated by the node.
    `refused`: at least one fits no gateway; nothing is sent.
    """
    try:
        wires = {stable.wire(), canary.wire()}
    except UnsupportedOperation:
        return "refused"
    return "adapter" if "adapter" in wires else "native"


def matrix(blocks: Mapping[str, ServingCredentials]) -> str:
    """A Markdown table of every pair of providers: the stable version's in the rows, the canary's in the columns."""
    lines = [f"| stable \\ canary | {' | '.join(blocks)} |", "|---" * (len(blocks) + 1) + "|"]
    for name, stable in blocks.items():
        lines.append(f"| **{name}** | {' | '.join(fit(stable, canary) for canary in blocks.values())} |")
    return "\n".join(lines)
