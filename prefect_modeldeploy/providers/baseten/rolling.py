"""Baseten's rolling promotion as a router: the only way in which Baseten splits requests between two deployments.

The endpoint is an environment of a model: `stable` is what serves it, `canary` what is being promoted to it. The
promotion goes on (resume) until the vendor's own step has the wanted share, and is held there (pause); a share of 0
calls it off (cancel), a share of 100 lets it go on to its end. What follows from the vendor's way:

- Shares only rise, in steps of `max_surge_percent` (else `max_unavailable_percent`) of the environment's settings. A
  plan with other steps is refused before anything changes. With few replicas the vendor's share can be above its step.
- A promotion moves by itself once its candidate is up, and a pause counts at the end of a step: a canary that was just
  attached may have the first step's share already.
- Nothing at the vendor can hold an epoch: it is always 1, and an older writer is not fenced off. What keeps rollouts
  apart is the record in Prefect, that Baseten has one promotion an environment, and that what serves is looked at: if
  it belongs to neither arm, nothing is changed (StaleEpoch).
- Windows are the vendor's metrics: whole minutes, three minutes late, counts without latencies. Give steps 5 minutes
  at least. Once a promotion has ended, nobody knows any more what the former arms experienced.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from prefect_modeldeploy.errors import Conflict, InvalidInput, NotFound, Problem, ProviderError, StaleEpoch, WaitTimeout
from prefect_modeldeploy.providers.baseten import metrics as measured
from prefect_modeldeploy.providers.baseten.answers import Environment, InProgressPromotion, Metrics, VendorDeployment
from prefect_modeldeploy.providers.baseten.inference import environment as environment_path
from prefect_modeldeploy.providers.baseten.promotions import Promotions, is_it, roll_back, running, source_name
from prefect_modeldeploy.providers.baseten.requests import MetricQuery, PromoteOptions, PromotionSettings
from prefect_modeldeploy.providers.baseten.words import PROVIDER, read_answer, split_id
from prefect_modeldeploy.traffic.endpoint import Endpoint, EndpointArm
from prefect_modeldeploy.traffic.windows import ArmCounts, EndpointWindow

if TYPE_CHECKING:
    from prefect_modeldeploy.providers.baseten.reading import BasetenReader

EPOCH = 1
ROLLING = PromoteOptions(promotion_settings_override=PromotionSettings(rolling_deploy=True))
HISTORY_SECONDS = 1800.0
"""How far back `windows` looks without a cursor."""


class RollingPromotion:
    """The traffic of an environment of a model, as a `TrafficRouter` whose shares are the vendor's steps.

    Args:
        client: Of the account.
        promotions: Starts and ends them.
        model: Name or id.
        environment: Name.
        timeout_seconds: How long a move may take; the promotion goes on after it.
    """

    def __init__(
        self,
        client: "BasetenReader",
        promotions: Promotions,
        model: str,
        environment: str,
        timeout_seconds: float = 3600.0,
    ) -> None:
        self._client, self._promotions, self._api = client, promotions, client.management
        self._model, self._environment, self._timeout = model, environment, timeout_seconds

    # --- reading ---------------------------------------------------------------------------------------------------

    async def get_endpoint(self, name: str) -> Endpoint:
        """What serves the environment, and what is being promoted to it. Raises NotFound when nothing serves."""
        model, env, current = await self._look()
        if not running(env) or env.candidate_deployment is None:
            return _endpoint(name, {"stable": (f"{model}/{current.id}", 100.0)})
        share = float(_progress(env).percent_traffic_to_new_version)
        asked_for = await self._asked_for(model, env.candidate_deployment)
        arms = {"stable": (f"{model}/{current.id}", 100.0 - share), "canary": (f"{model}/{asked_for}", share)}
        return _endpoint(name, arms)

    async def check(self, name: str, shares: tuple[float, ...]) -> None:
        """Refuse, before anything changes, what cannot be done: see `SteppedRouter`."""
        _, env, _ = await self._look()
        if running(env):
            problem = Problem(f"a promotion to {self._environment} runs already; wait for its end, or cancel_promotion")
            raise Conflict(PROVIDER, f"take over {name}", problem)
        possible = steps_of(env)
        if wrong := [share for share in shares if share not in possible]:
            hint = (
                f"a promotion to {self._environment} can be held at {list(possible)} only: plan with those, or change "
                "the environment's max_surge_percent"
            )
            raise InvalidInput("plan.steps", wrong, hint)

    async def url(self, name: str) -> str:
        """Where clients call the environment."""
        model, _, _ = await self._look()
        return self._client.inference.url(model, environment_path(self._environment))

    async def ask(self, name: str, arm: str, payload: Any) -> Any:
        """Send one request to the very deployment that is an arm."""
        arms = {each.name: each.upstream for each in (await self.get_endpoint(name)).arms}
        if arm not in arms:
            problem = Problem(f"it has no {arm}: nothing is being promoted to {self._environment}")
            raise Conflict(PROVIDER, f"ask {name}", problem)
        return await self._client.predict(arms[arm], payload)

    # --- moving ----------------------------------------------------------------------------------------------------

    async def put_endpoint(self, endpoint: Endpoint, *, expected_epoch: int | None = None) -> Endpoint:
        """Bring about what the arms say: start, move, end or call off a promotion.

        Raises:
            StaleEpoch: What serves, or is being promoted, is neither of the arms: somebody else was here.
            InvalidInput: Arms that are not `stable` and `canary`.
        """
        check_epoch(expected_epoch)
        arms = {arm.name: arm for arm in endpoint.arms}
        if "stable" not in arms or set(arms) - {"stable", "canary"}:
            raise InvalidInput("arms", sorted(arms), "Baseten has stable, and canary while a promotion runs")
        model, env, current = await self._look()
        stable = await self._vendor(arms["stable"])
        canary = await self._vendor(arms["canary"]) if "canary" in arms else None
        if not any(is_it(one, current) for one in (stable, canary) if one):
            raise StaleEpoch(f"{self._environment} is served by {model}/{current.id}, which is none of the arms")
        if canary is None or not is_it(stable, current):
            await self._serve(model, stable if arms["stable"].weight else canary or stable)
        else:
            await self._share(model, env, canary, arms["canary"].weight)
        return await self.get_endpoint(endpoint.name)

    async def set_weights(
        self, name: str, weights: Mapping[str, float], *, expected_epoch: int | None = None
    ) -> Endpoint:
        """Move the running promotion to the canary's share.

        Raises:
            Conflict: No promotion runs.
            InvalidInput: The share is below what the canary has: the vendor only goes forward, or back to 0.
        """
        check_epoch(expected_epoch)
        model, env, _ = await self._look()
        share = weights.get("canary", 0.0)
        if env.candidate_deployment is not None and running(env):
            await self._share(model, env, env.candidate_deployment, share)
        elif share:
            problem = Problem(f"nothing is being promoted to {self._environment}: attach a canary first")
            raise Conflict(PROVIDER, f"set the weights of {name}", problem)
        return await self.get_endpoint(name)

    async def claim(self, name: str) -> int:
        """Always 1: see above."""
        await self._look()
        return EPOCH

    async def _share(self, model: str, env: Environment, canary: VendorDeployment, share: float) -> None:
        deadline = time.monotonic() + self._timeout
        now = _progress(env).percent_traffic_to_new_version if running(env) else 0
        if running(env) and not is_it(canary, env.candidate_deployment):
            raise StaleEpoch(f"something else than {model}/{canary.id} is being promoted to {self._environment}")
        if share == 100:
            await self._serve(model, canary)
        elif share == 0 and now:
            await self._promotions.cancel(model, self._environment, deadline=deadline)
        elif now - share >= steps_of(env)[0]:
            raise InvalidInput("weights.canary", share, f"it has {now} %, and Baseten only goes forward, or back to 0")
        else:
            await self._promotions.start(model, self._environment, canary.id, ROLLING, deadline)
            await self._hold(model, share, deadline)

    async def _serve(self, model: str, deployment: VendorDeployment) -> None:
        """Let a deployment serve alone: end its promotion, or call off another one's."""
        deadline = time.monotonic() + self._timeout
        _, env, _ = await self._look()
        if running(env) and is_it(deployment, env.candidate_deployment):
            if _progress(env).status == "PAUSED":
                await self._ask("resume", model)
            joined = await self._promotions.start(model, self._environment, deployment.id, ROLLING, deadline)
            await self._promotions.finish(joined, deadline)
        else:
            await roll_back(self._promotions, self._api, model, self._environment, deployment.id, deadline)

    async def _hold(self, model: str, share: float, deadline: float) -> None:
        """Let the promotion go on until its candidate has this share, and hold it there."""
        asked: str | None = None
        interval = 0.1
        while True:
            _, env, _ = await self._look()
            if not running(env):
                problem = Problem(f"the promotion to {self._environment} has ended before {share:g} % were reached")
                raise Conflict(PROVIDER, "move traffic", problem)
            now = _progress(env)
            there = now.percent_traffic_to_new_version >= share
            if now.status == "RAMPING_DOWN":
                raise StaleEpoch(f"the promotion to {self._environment} was called off by somebody else")
            if now.status == "PAUSED" and there:
                return
            if (wanted := _control(now.status, there=there)) is not None and wanted != asked:
                asked, interval = (wanted if await self._ask(wanted, model) else None), 0.1
            if time.monotonic() + interval > deadline:
                raise WaitTimeout(f"the promotion to {self._environment} is {now.status} and not held at {share:g} %")
            await anyio.sleep(interval)
            interval = min(1.0, interval * 1.3)

    async def _ask(self, control: str, model: str) -> bool:
        ask = self._api.pause_promotion if control == "pause" else self._api.resume_promotion
        try:
            return await ask(model, self._environment)
        except ProviderError as error:
            # Lost, or refused because it moved meanwhile: the environment tells.
            if not error.effect_unknown and error.problem.status_code != 400:
                raise
            return False

    # --- measuring -------------------------------------------------------------------------------------------------

    async def cursor(self, name: str) -> str:
        """The next full minute, in seconds since the epoch."""
        return str(math.ceil(time.time() / 60) * 60)

    def settled(self, cursor: str) -> float:
        """The cursor is that time."""
        return float(cursor)

    async def windows(
        self, name: str, *, after: str | None = None, since: float | None = None
    ) -> tuple[list[EndpointWindow], str]:
        """The settled minutes since a cursor. Their share is marked as unknown: it may have moved within."""
        end = measured.settled(time.time())
        begin = float(after) if after else ((since or end - HISTORY_SECONDS) // 60 + 1) * 60
        if end <= begin:
            return [], str(int(begin))
        model, env, current = await self._look()
        arms = {"stable": current.id}
        share = 0.0
        if running(env) and env.candidate_deployment is not None:
            arms["canary"] = env.candidate_deployment.id
            share = float(_progress(env).percent_traffic_to_new_version)
        seen: dict[tuple[float, float], dict[str, ArmCounts]] = {}
        for arm, deployment in arms.items():
            for start, stop, counts in measured.steps_of(await self._series(model, deployment, begin, end)):
                if counts and (found := _counts(start, stop, counts)).requests and stop <= end:
                    seen.setdefault((start, stop), {})[arm] = found
        return [_window(name, start, found, share) for (start, _), found in sorted(seen.items())], str(int(end))

    async def _series(self, model: str, deployment: str, begin: float, end: float) -> Metrics:
        span = {"start_epoch_millis": int(begin * 1000), "end_epoch_millis": int(end * 1000)}
        query = MetricQuery(mode="SERIES", metrics=[measured.REQUESTS], **span)
        return await self._api.metrics(model, deployment, query)

    # --- looking ---------------------------------------------------------------------------------------------------

    async def _look(self) -> tuple[str, Environment, VendorDeployment]:
        model = await self._client.model_id(self._model)
        env = await self._api.environment(model, self._environment)
        if env.current_deployment is None:
            problem = Problem(f"nothing serves {self._environment} of {self._model}: promote with mode='native'", 404)
            raise NotFound(PROVIDER, f"GET environment {self._environment}", problem)
        return model, env, env.current_deployment

    async def _vendor(self, arm: EndpointArm) -> VendorDeployment:
        return read_answer(VendorDeployment, await self._api.deployment(*split_id(arm.upstream)), "deployment")

    async def _asked_for(self, model: str, candidate: VendorDeployment) -> str:
        """Id of the deployment that the candidate is a copy of, if it is one and that is still there."""
        original = source_name(candidate.name)
        if original is None:
            return candidate.id
        found = await self._api.deployments(model)
        return next((str(one["id"]) for one in found if one.get("name") == original), candidate.id)


def steps_of(env: Environment) -> tuple[float, ...]:
    """The shares, in percent, at which a promotion to this environment can be held; the last one is below 100."""
    config = env.promotion_settings.rolling_deploy_config if env.promotion_settings else None
    step = (config and (config.max_surge_percent or config.max_unavailable_percent)) or 25
    return tuple(float(share) for share in range(step, 100, step))


def check_epoch(expected: int | None) -> None:
    """Refuse a writer that got its epoch elsewhere."""
    if expected not in (None, EPOCH):
        raise StaleEpoch(f"epoch {expected} is not of this router, whose epoch is always {EPOCH}")


def _endpoint(name: str, arms: Mapping[str, tuple[str, float]]) -> Endpoint:
    made = (EndpointArm(name=arm, upstream=id, weight=share) for arm, (id, share) in arms.items())
    return Endpoint(name=name, arms=tuple(made), epoch=EPOCH)


def _progress(env: Environment) -> InProgressPromotion:
    assert env.in_progress_promotion is not None, "asked while a promotion runs"
    return env.in_progress_promotion


def _control(status: str, *, there: bool) -> str | None:
    """What to ask of a promotion that shall be held as soon as it is there; None: nothing but patience."""
    return {"PAUSED": None if there else "resume", "RAMPING_UP": "pause" if there else None}.get(status)


def _counts(start: float, end: float, by_status: Mapping[str, float]) -> ArmCounts:
    arm = measured.arm_of(by_status)
    limited = max(0, round(by_status.get("429", 0)))
    statuses = Counter({status: round(value) for status, value in by_status.items() if status != "429"})
    return ArmCounts(arm.requests, arm.failures, 0, statuses, Counter({"429": limited}), start=start, end=end)


def _window(name: str, start: float, arms: Mapping[str, ArmCounts], share: float) -> EndpointWindow:
    weights = {"stable": 100.0 - share, "canary": share} if "canary" in arms else {"stable": 100.0}
    return EndpointWindow(f"{name}:{int(start)}", name, weights, arms, sticky=True, former_end=start)
