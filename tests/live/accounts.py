"""Which environment variables name an account, and a deployment there that may be tried.

| variable                   | meaning                                                                         |
|----------------------------|---------------------------------------------------------------------------------|
| as in `blocks/create_*.py` | credentials and addresses                                                       |
| <PROVIDER>_LIVE_DEPLOYMENT | our id of a deployment that exists: it is read, and asked                       |
| <PROVIDER>_LIVE_PAYLOAD    | what it is asked, as JSON. Default: {}                                          |
| MODELDEPLOY_LIVE_CHANGE    | 1: it is also scaled by one replica, and back. That can cost money for a while  |
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from prefect_modeldeploy import (
    BasetenCredentials,
    FiddlerCredentials,
    FoundryCredentials,
    GradientCredentials,
    ScaleCredentials,
)
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials

Given = Mapping[str, str]


@dataclass(frozen=True)
class Account:
    """A provider's variables. `fields` are those of its block: field -> variable."""

    block: Callable[..., ServingCredentials]
    required: Mapping[str, str]
    optional: Mapping[str, str]
    scaled: str = "max_replicas"
    """What is changed and changed back."""


ACCOUNTS = {
    "baseten": Account(
        BasetenCredentials,
        {"api_key": "BASETEN_API_KEY"},
        {"base_url": "BASETEN_BASE_URL", "inference_url": "BASETEN_INFERENCE_URL"},
    ),
    "fiddler": Account(
        FiddlerCredentials,
        {"base_url": "FIDDLER_URL", "token": "FIDDLER_TOKEN"},
        {"project": "FIDDLER_PROJECT", "organization": "FIDDLER_ORGANIZATION"},
        scaled="min_replicas",
    ),
    "foundry": Account(
        FoundryCredentials,
        {"base_url": "FOUNDRY_BASE_URL", "token": "FOUNDRY_TOKEN"},
        {},
    ),
    "gradient": Account(
        GradientCredentials,
        {"api_key": "PAPERSPACE_API_KEY", "project_id": "GRADIENT_PROJECT"},
        {"api": "GRADIENT_API", "base_url": "GRADIENT_BASE_URL", "endpoint_key": "GRADIENT_ENDPOINT_KEY"},
        scaled="min_replicas",
    ),
    "scale": Account(
        ScaleCredentials,
        {"api_key": "SCALE_API_KEY"},
        {"account_id": "SCALE_ACCOUNT_ID", "base_url": "SCALE_BASE_URL", "api": "SCALE_API"},
    ),
}


@dataclass(frozen=True)
class Live:
    """A client of a real account, and what may be tried there."""

    client: ServingClient
    deployment: str
    payload: Any
    scaled: str


@asynccontextmanager
async def live(provider: str, given: Given = os.environ) -> AsyncIterator[Live]:
    """Open the account that the variables name; skip the test, and say which are missing, when they do not."""
    account, deployment = ACCOUNTS[provider], f"{provider.upper()}_LIVE_DEPLOYMENT"
    missing = [name for name in (*account.required.values(), deployment) if not given.get(name)]
    if missing:
        pytest.skip(f"CANNOT TEST {provider.upper()} LIVE: set {', '.join(missing)} (see tests/live/accounts.py)")
    variables = {**account.required, **account.optional}
    block = account.block(**{field: given[name] for field, name in variables.items() if given.get(name)})
    payload = json.loads(given.get(f"{provider.upper()}_LIVE_PAYLOAD") or "{}")
    async with block.get_client() as client:
        yield Live(client, given[deployment], payload, account.scaled)
