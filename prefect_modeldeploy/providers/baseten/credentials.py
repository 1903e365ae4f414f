"""Baseten's block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator, model_validator

from prefect_modeldeploy.deployments import Deployment
from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.providers.base import ServingClient, ServingCredentials, address_of
from prefect_modeldeploy.providers.baseten.client import BasetenClient
from prefect_modeldeploy.providers.baseten.inference import check_inference_url
from prefect_modeldeploy.providers.baseten.reading import (
    INFERENCE_URL,
    MANAGEMENT_URL,
    PREDICT_TIMEOUT_SECONDS,
    VISIBLE_SECONDS,
)
from prefect_modeldeploy.providers.baseten.words import console_url, split_id
from prefect_modeldeploy.traffic.arm import RemoteArm, Wire
from prefect_modeldeploy.urls import check_base_url


class BasetenCredentials(ServingCredentials):
    """How to reach Baseten, and as whom.

    Attributes:
        api_key: An API key of a person or a workspace.
        base_url: Address of the management API.
        inference_url: Address of a model.
        allow_http: Allow plain http to another machine.
        predict_timeout_seconds: For one prediction.
        visible_seconds: How long something new may not be found.

    Example:
        ```python
        from prefect_modeldeploy.providers.baseten import BasetenCredentials

        baseten = BasetenCredentials.load("BLOCK_NAME")
        async with baseten.get_client() as client:
            deployments = await client.find(model="my-model")
        ```
    """

    _block_type_name = "Baseten Credentials"
    _block_type_slug = "baseten-credentials"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/prefect-modeldeploy/prefect-modeldeploy/blob/main/prefect_modeldeploy/docs/providers/baseten.md"  # type: ignore[assignment]
    _description = "Deploys, promotes, scales and calls models on Baseten."

    client_class: ClassVar[type[ServingClient]] = BasetenClient

    api_key: SecretStr = Field(description="API key: personal, or of a workspace with the right to manage.")
    base_url: str = Field(MANAGEMENT_URL, description="Address of the management API.")
    inference_url: str = Field(
        INFERENCE_URL, description="Address of a model, with {model_id} in it; without it, /model-<id> is added."
    )
    allow_http: bool = Field(False, description="Allow plain http to another machine: the key goes in clear.")
    predict_timeout_seconds: float = Field(
        PREDICT_TIMEOUT_SECONDS, gt=0, description="Seconds that one prediction may take, waking from zero included."
    )
    visible_seconds: float = Field(
        VISIBLE_SECONDS,
        ge=0,
        description="Seconds for which Baseten is asked again for what it does not find: it may be new.",
    )

    @field_validator("api_key")
    @classmethod
    def _some_key(cls, api_key: SecretStr) -> SecretStr:
        value = api_key.get_secret_value()
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("must be a key without blanks, as Baseten's settings page shows it")
        return api_key

    @model_validator(mode="after")
    def _addresses(self) -> "BasetenCredentials":
        check_base_url("base_url", self.base_url, allow_http=self.allow_http)
        check_inference_url(self.inference_url, allow_http=self.allow_http)
        return self

    def console_url(self, deployment_id: str) -> str | None:
        """The deployment's page at app.baseten.co."""
        try:
            return console_url(*split_id(deployment_id))
        except InvalidInput:  # it has not been created yet
            return None

    def wire(self) -> Wire:
        """The model's own JSON goes in and out."""
        return "native"

    def arm(self, deployment: Deployment) -> RemoteArm:
        """The deployment's own `/predict`, whatever its environment: Baseten's inference API."""
        headers = {"Authorization": SecretStr(f"Api-Key {self.api_key.get_secret_value()}")}
        url = f"{address_of(deployment)}/predict"
        return RemoteArm(id=deployment.id, provider=deployment.provider, url=url, headers=headers)

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[BasetenClient]:
        """Yield a client; nothing is sent until it is used."""
        async with BasetenClient(
            self.api_key,
            self.base_url,
            self.inference_url,
            allow_http=self.allow_http,
            predict_timeout_seconds=self.predict_timeout_seconds,
            visible_seconds=self.visible_seconds,
            logger=self.logger,
        ) as client:
            yield client
