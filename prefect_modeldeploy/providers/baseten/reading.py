"""Baseten in our vocabulary, the half that changes nothing: finding, waiting, logs, metrics, predictions."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from pydantic import SecretStr

from prefect_modeldeploy.deployments import Capability, Deployment
from prefect_modeldeploy.errors import InvalidInput, NotFound, Problem
from prefect_modeldeploy.measurements import Window
from prefect_modeldeploy.providers.base import ServingClient
from prefect_modeldeploy.providers.baseten import metrics as measured
from prefect_modeldeploy.providers.baseten.answers import Metrics, Model
from prefect_modeldeploy.providers.baseten.api import ManagementApi
from prefect_modeldeploy.providers.baseten.creation import Creation
from prefect_modeldeploy.providers.baseten.inference import InferenceApi, check_inference_url, deployment
from prefect_modeldeploy.providers.baseten.promotions import Promotions
from prefect_modeldeploy.providers.baseten.requests import LogQuery, MetricQuery
from prefect_modeldeploy.providers.baseten.rolling import RollingPromotion
from prefect_modeldeploy.providers.baseten.waiting import waiting
from prefect_modeldeploy.providers.baseten.words import PROVIDER, console_url, read_error, split_id, translate
from prefect_modeldeploy.providers.together import all_of
from prefect_modeldeploy.traffic.router import TrafficRouter
from prefect_modeldeploy.transport import Logger, RetryPolicy, SecretHeader, Transport

MANAGEMENT_URL = "https://api.baseten.co"
INFERENCE_URL = "https://model-{model_id}.api.baseten.co"

PREDICT_TIMEOUT_SECONDS = 1200.0
"""How long Baseten itself lets a prediction take, waking from zero included."""

VISIBLE_SECONDS = 30.0
"""How long the vendor's own clients bear that a new deployment is not found."""

_LOG_WINDOW = timedelta(days=7)
_AT_ONCE = 8
_log = logging.getLogger(__name__)


class BasetenReader(ServingClient):
    """What can be read at Baseten, and called. Ids are `"<model id>/<deployment id>"`.

    Args:
        api_key: Sent as `Authorization: Api-Key ...`.
        base_url: Of the management API.
        inference_url: Address of a model, with `{model_id}` in it; without it, `/model-<id>` is added.
        allow_http: Allow plain http elsewhere than on loopback.
        policy: How long calls are tried again.
        predict_timeout_seconds: For one prediction, waking included.
        visible_seconds: How long something new may not be found.
        logger: Where retries and steps are told.
    """

    provider: ClassVar[str] = PROVIDER
    rolls_back: ClassVar[Literal["from", "to"]] = "to"
    fences: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)

    def __init__(
        self,
        api_key: SecretStr,
        base_url: str = MANAGEMENT_URL,
        inference_url: str = INFERENCE_URL,
        *,
        allow_http: bool = False,
        policy: RetryPolicy | None = None,
        predict_timeout_seconds: float = PREDICT_TIMEOUT_SECONDS,
        visible_seconds: float = VISIBLE_SECONDS,
        logger: Logger = _log,
    ) -> None:
        template = check_inference_url(inference_url, allow_http=allow_http)

        self._transport = Transport(
            PROVIDER,
            base_url,
            auth=SecretHeader(api_key, "Api-Key"),
            secrets=[api_key],
            policy=policy,
            read_error=read_error,
            allow_http=allow_http,
            logger=logger,
        )
        self._visible, self._logger = visible_seconds, logger
        self._ids: dict[str, list[str]] = {}
        self.management = ManagementApi(self._transport)
        self.inference = InferenceApi(self._transport, template, predict_timeout_seconds)
        self._promotions = Promotions(self.management, visible_seconds, logger)
        self._creation = Creation(self.management, visible_seconds, policy, logger, allow_http=allow_http)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def get(self, deployment_id: str) -> Deployment:
        """Return one deployment; the words `<model id>/production` and `/development` are taken too."""
        return self._translate(await self.management.deployment(*split_id(deployment_id)))

    async def find(self, *, model: str | None = None) -> list[Deployment]:
        """Return the deployments of one model (name or id), or of all; none when there is no such model."""
        ids = await self._model_ids(model) if model else [one.id for one in await self.management.models()]
        found = await all_of([partial(self._of_model, model_id) for model_id in ids], _AT_ONCE)
        return [one for of_model in found for one in of_model]

    async def wait(
        self,
        deployment_ids: Collection[str],
        until: Callable[[Deployment], bool],
        *,
        model: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> AsyncIterator[list[Deployment]]:
        """Poll with one list call a model and yield what was seen until `until` holds for each deployment.

        Baseten's own rules: one that is not found yet is waited for (30 s); SCALED_TO_ZERO is no failure; INACTIVE
        after it was starting means that there was no capacity, which Baseten does not say as an error.

        Raises:
            DeploymentFailed: One of them failed, found no capacity, or is not there.
            WaitTimeout: The deadline passed.
        """
        models = list(dict.fromkeys(split_id(one)[0] for one in deployment_ids))

        async def look() -> dict[str, Deployment]:
            return {one.id: one for model_id in models for one in await self._of_model(model_id)}

        async for seen in waiting(look, deployment_ids, until, self._visible, timeout_seconds):
            yield seen

    async def logs(self, deployment_id: str, *, tail: int = 100) -> list[str]:
        """Return the last lines of a deployment's log, oldest first: of its whole life, 7 days at most."""
        model_id, own_id = split_id(deployment_id)
        if not 1 <= tail <= 1000:
            raise InvalidInput("tail", tail, "Baseten gives 1 to 1000 lines")
        # Without a start the vendor looks back 30 minutes only, and shows nothing of what failed before.
        # Both ends are ours, so that the window is never too long, and none of the latest is lost to a slow clock.
        end = datetime.now(UTC) + timedelta(minutes=5)
        window = {"start_epoch_millis": _millis(end - _LOG_WINDOW), "end_epoch_millis": _millis(end)}
        query = LogQuery(**window, direction="desc", limit=tail)
        lines = await self.management.logs(model_id, own_id, query)
        ordered = sorted(lines, key=lambda line: int(line.timestamp) if line.timestamp.isdecimal() else 0)
        return [line.message for line in ordered]

    async def metrics(self, deployment_id: str, query: MetricQuery | None = None) -> Metrics:
        """Return a deployment's metrics (beta); the latest one to three minutes are not in yet."""
        return await self.management.metrics(*split_id(deployment_id), query)

    async def idle_seconds(self, deployment_id: str) -> float | None:
        """Return for how long there was surely no request: never more than a day, and the last 3 minutes are unknown.

        None when the metrics hold nothing.
        """
        now = time.time()
        series = MetricQuery(
            mode="SERIES",
            start_epoch_millis=int((now - 86400) * 1000),
            end_epoch_millis=int(now * 1000),
            metrics=[measured.REQUESTS],
        )
        return measured.idle_seconds(await self.metrics(deployment_id, series), now)

    async def prices_per_replica_hour(self, deployments: Sequence[Deployment]) -> dict[str, float]:
        """US dollars, by the vendor's price list: `GET /v1/instance_type_prices` has them a minute."""
        listed = await self.management.instance_type_prices() if deployments else []
        hourly = {str(one["instance_type"]["name"]): 60 * float(one["price"]) for one in listed}
        kinds = {one.id: one.resources.instance_type for one in deployments if one.resources}
        return {id: hourly[kind] for id, kind in kinds.items() if kind in hourly}

    def router(self, model: str = "", environment: str = "production") -> TrafficRouter:
        """Return the vendor's rolling promotion to an environment of a model (name or id) as a router."""
        return RollingPromotion(self, self._promotions, model, environment)

    async def model_id(self, model: str) -> str:
        """The id of a model (name or id). Raises NotFound, or InvalidInput when several have the name."""
        found = await self._model_ids(model)
        if not found:
            raise NotFound(PROVIDER, "find the model", Problem(f"there is no model {model}", 404))
        if len(found) > 1:
            raise InvalidInput("model", model, f"is the name of {len(found)} models; give an id")
        return found[0]

    async def windows(self, baseline: str, canary: str, *, since: float) -> tuple[list[Window], float]:
        """Return what two deployments experienced since a time, and the time to ask for next.

        At most one window, with counts only, from the vendor's metrics, which are not asked for the last three
        minutes. Times are seconds since the epoch; the same `since` at the same minute gives the same window.
        """
        end = measured.settled(time.time())
        if end <= since:
            return [], since
        summary = MetricQuery(
            mode="SUMMARY",
            start_epoch_millis=int(since * 1000),
            end_epoch_millis=int(end * 1000),
            metrics=[measured.REQUESTS],
        )
        stable, new = await self.metrics(baseline, summary), await self.metrics(canary, summary)
        found = measured.window(stable, new, f"{baseline}-{canary}")
        return ([found] if found else []), end

    # --- calling ---------------------------------------------------------------------------------------------------

    async def predict(self, deployment_id: str, payload: Any, *, path: str | None = None) -> Any:
        """Send one request to a deployment; `path` may be `sync/<route>` of a custom server."""
        model_id, own_id = split_id(deployment_id)
        return await self.inference.predict(model_id, deployment(own_id), payload, path=path or "predict")

    # --- plumbing --------------------------------------------------------------------------------------------------

    def _translate(self, raw: dict[str, Any]) -> Deployment:
        model_id, own_id = str(raw.get("model_id", "")), str(raw.get("id", ""))
        return translate(raw, self.inference.url(model_id, deployment(own_id)), console_url(model_id, own_id))

    async def _of_model(self, model_id: str) -> list[Deployment]:
        try:
            return [self._translate(raw) for raw in await self.management.deployments(model_id)]
        except NotFound:
            return []

    async def _models(self, model: str) -> Sequence[Model]:
        """Those of that name, else the one with that id."""
        if named := await self.management.models(name=model):
            return named
        try:
            return [await self.management.model(model)]
        except NotFound:
            return []

    async def _model_ids(self, model: str) -> list[str]:
        if model not in self._ids:
            found = [one.id for one in await self._models(model)]
            if not found:
                return []
            self._ids[model] = found
        return self._ids[model]


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
