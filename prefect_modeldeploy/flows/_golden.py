"""A rollout that is judged by a golden set: both versions are asked, then one of them serves. No traffic is split."""

from typing import Literal

from prefect_modeldeploy.deployments import Capability, Deployment, DeploymentSpec
from prefect_modeldeploy.errors import InvalidInput, UnsupportedOperation
from prefect_modeldeploy.flows import _ownership
from prefect_modeldeploy.flows._effects import Effects
from prefect_modeldeploy.flows._native import _holder, promotion_by
from prefect_modeldeploy.flows._native_effects import NativeEffects
from prefect_modeldeploy.flows._start import _id_of, _stable_of, begin, driven, new_record
from prefect_modeldeploy.rollout import Approval, CanaryPlan, Phase, RolloutRecord
from prefect_modeldeploy.rollout.judging import fewest_examples
from prefect_modeldeploy.sources.golden import GoldenSet
from prefect_modeldeploy.target import DeploymentTarget
from prefect_modeldeploy.tasks.golden import aask_golden_set
from prefect_modeldeploy.tasks.traffic import current_endpoint
from prefect_modeldeploy.traffic.endpoint import Endpoint


class GoldenEffects(Effects):
    """Behind a router of ours: the canary is asked while it has no traffic, then it gets all of it."""

    def __init__(self, target: DeploymentTarget, golden: GoldenSet) -> None:
        super().__init__(target)
        self._golden = golden

    async def _observe(self, record: RolloutRecord) -> RolloutRecord:
        return await aask_golden_set(self._target, record, self._golden)


class NativeGoldenEffects(GoldenEffects, NativeEffects):
    """At a provider that moves its traffic itself."""


async def rollout_by_golden_set(
    target: DeploymentTarget | str,
    candidate: str | DeploymentSpec,
    plan: CanaryPlan,
    *,
    approval: Approval | None = None,
    note: str = "",
) -> RolloutRecord:
    """Ask both versions the golden set; promote the candidate if it is proven no worse, by swap or natively."""
    target = await DeploymentTarget.resolve(target)
    assert plan.golden_set is not None, "whoever calls this has looked"
    golden = GoldenSet.read(plan.golden_set)
    if fewest_examples(plan.judge, len(golden.examples)) is None:
        limits = f"margin={plan.judge.margin:g}, accuracy_margin={plan.judge.accuracy_margin:g}"
        hint = f"too few to prove anything with {limits}, even if all are answered right: add some, or allow more"
        raise InvalidInput("plan.golden_set", golden.digest, hint)
    native = target.credentials.can(Capability.PROMOTE) and target.gateway is None
    if native:
        _check_native(target, plan)

    async def make() -> RolloutRecord:
        endpoint = None if native else await current_endpoint(target)
        stable = await _serving(target, endpoint, native)
        natively = {"former": "keep", "promote": promotion_by(target, stable)} if native else {}
        asked = plan.model_copy(update={"golden_set": None, "steps": (), **natively})
        mode: Literal["native", "swap"] = "native" if native else "swap"
        record = await new_record(
            target, candidate, asked, stable, kind="canary", mode=mode, approval=approval, note=note
        )
        return record.model_copy(update={"golden_set": golden.digest})

    last = await _ownership.latest(target)
    same = last is not None and last.candidate == _id_of(candidate) and last.phase is not Phase.ENDED
    if same and last and last.golden_set not in (None, golden.digest):
        hint = f"the open rollout of {last.candidate} is judged by {last.golden_set}: go on with that"
        raise InvalidInput("plan.golden_set", golden.digest, hint)
    record = await begin(target, _id_of(candidate), make)
    return await driven(record, (NativeGoldenEffects if native else GoldenEffects)(target, golden))


async def _serving(target: DeploymentTarget, endpoint: Endpoint | None, native: bool) -> Deployment:
    stable = await _holder(target) if native else await _stable_of(target, endpoint) if endpoint else None
    if stable is None:
        hint = "nothing serves there yet, so there is nothing to compare with: use promote_to_production"
        raise InvalidInput("target.endpoint", target.endpoint, hint)
    return stable


def _check_native(target: DeploymentTarget, plan: CanaryPlan) -> None:
    """What cannot be done without a router of ours is refused before anything is sent."""
    client = target.credentials.client_class
    if not client.can(Capability.PREDICT):
        raise UnsupportedOperation(client.provider, Capability.PREDICT, "a golden set is sent with it")
    if plan.bake_seconds:
        raise InvalidInput("plan.bake_seconds", plan.bake_seconds, "watching needs a router of ours; set it to 0")
